"""Tasks read through seqio give the examples that training sees."""

from __future__ import annotations

import numpy as np
import pytest
import seqio

from seqrecipes.data.objectives import OBJECTIVES
from seqrecipes.data.seqio.vocabulary import SeqioVocabulary
from seqrecipes.data.stream import validation_stream
from seqrecipes.data.tasks import get_task
from seqrecipes.errors import UserError

LENGTHS = {"encoder_input_tokens": 64, "decoder_target_tokens": 64}


def read(name, **arguments):
    task = seqio.get_mixture_or_task(name)
    return list(task.get_dataset(LENGTHS, shuffle=False, **arguments).as_numpy_iterator())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_seqio_and_stream_agree(prepared, sample_task, objective):
    stream = validation_stream(prepared(objective), OBJECTIVES[objective], seed=3)
    rows = stream.examples(np.arange(stream.size))
    examples = read(sample_task(objective).name, split="validation", seed=3)
    assert len(examples) == stream.size
    for i, example in enumerate(examples):
        assert set(rows) == {*example, "original_tokens"}
        for name, ids in example.items():
            padding = rows[name].shape[1] - ids.size
            assert rows[name][i].tolist() == ids.tolist() + [stream.pad_id] * padding


def test_seed_fixes_the_noise_and_none_is_zero(configured):
    datasets = [read("sample.mlm", split="validation", seed=seed) for seed in (0, None, 1)]
    inputs = [[e["encoder_input_tokens"].tolist() for e in examples] for examples in datasets]
    assert inputs[0] == inputs[1] != inputs[2]


def test_shards_keep_their_noise(configured):
    whole = read("sample.span_drop", split="validation", seed=1)
    task = seqio.get_mixture_or_task("sample.span_drop")
    assert task.source.list_shards("train")[1:3] == ("de-00000", "en-00000")
    shards = [
        read("sample.span_drop", split="validation", seed=1, shard_info=seqio.ShardInfo(i, 5))
        for i in range(5)
    ]
    together = sorted(e["encoder_input_tokens"].tobytes() for shard in shards for e in shard)
    assert together == sorted(e["encoder_input_tokens"].tobytes() for e in whole)
    assert all(shards)


def test_shuffling_keeps_the_examples(configured):
    task = seqio.get_mixture_or_task("sample.mlm")
    shuffled = task.get_dataset(LENGTHS, "validation", seed=1).as_numpy_iterator()
    ordered = read("sample.mlm", split="validation", seed=1)
    key = "masked_targets"
    assert sorted(e[key].tolist() for e in shuffled) == sorted(e[key].tolist() for e in ordered)


def test_tasks_can_be_mixed(configured):
    name = "sample_mixture_for_test"
    seqio.MixtureRegistry.add(name, ["sample.span_drop", "sample.span_mask"], default_rate=1.0)
    try:
        examples = seqio.get_mixture_or_task(name).get_dataset(
            LENGTHS, "validation", seed=0, num_epochs=None
        )
        features = {"encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens"}
        assert set(next(examples.as_numpy_iterator())) == features
    finally:
        seqio.MixtureRegistry.remove(name)


def test_the_vocabulary_is_seqios(vocabulary):
    text, ours = "The river rises every spring.", SeqioVocabulary(vocabulary)
    ids = vocabulary.tokenizer.encode(text)
    assert ours.encode(text) == ours.encode_tf(text).numpy().tolist() == ids
    assert ours.decode(ids) == text
    assert (ours.bos_id, ours.pad_id, ours.eos_id, ours.unk_id) == (0, 1, 2, 3)
    assert ours.vocab_size == vocabulary.size


def test_unknown_names_are_refused_with_the_known_ones(configured):
    with pytest.raises(UserError, match=r"corpus = 'wikis': choose one of mc4, parallel, sample, "):
        get_task("wikis", "mlm")
    with pytest.raises(
        UserError, match=r"objective = 'tlm': corpus sample has adjacent_mlm, mlm, span_"
    ):
        get_task("sample", "tlm")


def test_sequences_too_short_for_a_token_are_refused(configured):
    with pytest.raises(UserError, match="sequence_length = 0: is too short"):
        seqio.get_mixture_or_task("sample.mlm").get_dataset(
            {"encoder_input_tokens": 2}, "validation"
        )
