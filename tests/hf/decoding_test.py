"""Our search writes what transformers' `generate` writes with exported weights, token for token."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers

from seqrecipes import tree
from seqrecipes.config.finetuning import Search
from seqrecipes.conversion.hf import generation
from seqrecipes.conversion.hf.export import export
from seqrecipes.data import pieces
from seqrecipes.models import ModelConfig, build
from seqrecipes.models.decoding import EOS, START, make_generate
from tests.hf import harness

KINDS: dict[str, dict[str, Any]] = {
    "mbart": {"tie_head": False},
    "bart": {"norm": "post"},
    "seqrecipes": {"attention_fusion": "per_layer", "tie_head": False},
}
LONGEST = 16
# Every penalty with every way to stop, either number of beams with each of them.
SEARCHES = [
    Search(beams, LONGEST, penalty, early, best=3)
    for (penalty, early), beams in zip(
        itertools.product((0.5, 1.0, 2.0), (False, True, "never")),
        itertools.cycle((3, 5)),
        strict=False,
    )
]
FEW = [Search(5, LONGEST, 2.0, "never", 3), Search(3, LONGEST, 0.5, True, 3)]


class Case(NamedTuple):
    config: ModelConfig
    params: dict[str, Any]
    theirs: Any
    pieces: int
    source: np.ndarray


@pytest.fixture(scope="module")
def cases(vocabulary, tmp_path_factory) -> dict[str, Case]:
    return {
        kind: make(tmp_path_factory.mktemp(kind), vocabulary, overrides)
        for kind, overrides in KINDS.items()
    }


def make(folder: Path, vocabulary: bytes, overrides: dict[str, Any]) -> Case:
    """Logits far apart, so that no two hypotheses tie but for rounding; texts that end."""
    config = harness.config(vocabulary, **overrides)
    leaves = harness.random_leaves(config)
    head = leaves["token_embedding/embedding" if config.tie_head else "lm_head/embedding"]
    head *= 3
    head[EOS] *= 4
    export(folder, config, leaves.__getitem__, vocabulary=vocabulary)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
    source, _ = harness.batch(config, rows=8)
    params = tree.unflatten(leaves)
    return Case(config, params, theirs.eval(), len(pieces.pieces(vocabulary)), source)


def theirs(case: Case, search: Search, **forced: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, n, T], padded as ours, and scores [B, n]."""
    ids = torch.from_numpy(case.source).long()
    beams: dict[str, Any] = {
        "num_beams": search.beams,
        "length_penalty": search.length_penalty,
        "early_stopping": search.early_stopping,
        "num_return_sequences": search.best,
    }
    with torch.inference_mode():
        found = case.theirs.generate(
            ids,
            attention_mask=(ids != harness.PAD).long(),
            max_new_tokens=search.max_length,
            **forced,
            return_dict_in_generate=True,
            output_scores=True,
            **(beams if search.beams > 1 else {}),
        )
    tokens = found.sequences.numpy()
    assert (tokens[:, 0] == forced.get("decoder_start_token_id", START)).all()
    padded = np.full((len(tokens), 1 + search.max_length), harness.PAD)
    padded[:, : tokens.shape[1]] = tokens
    if search.beams > 1:
        scores = found.sequences_scores.numpy()
    else:
        steps = case.theirs.compute_transition_scores(
            found.sequences, found.scores, normalize_logits=True
        ).numpy()
        real = padded[:, 1 : tokens.shape[1]] != harness.PAD
        scores = np.where(real, steps, 0).sum(axis=1) / real.sum(axis=1) ** search.length_penalty
    shape = len(ids), search.best
    return padded[:, 1:].reshape(*shape, -1), scores.reshape(shape)


def check(case: Case, search: Search) -> set[int]:
    """Compares; returns the lengths of the best texts."""
    tokens, scores = theirs(case, search)
    ours = make_generate(build(case.config), search, pieces=case.pieces)(case.params, case.source)
    np.testing.assert_array_equal(ours.tokens, tokens)
    np.testing.assert_allclose(ours.scores, scores, rtol=0, atol=1e-4)
    return set(np.asarray(ours.lengths[:, 0]).tolist())


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_beam_search(cases, search):
    lengths = check(cases["mbart"], search)
    # Where length is worth most, the longest win.
    assert len(lengths) > 1 or search.length_penalty == 2


@pytest.mark.parametrize("search", FEW, ids=str)
@pytest.mark.parametrize("kind", ["bart", "seqrecipes"])
def test_beam_search_of_other_models(cases, kind, search):
    check(cases[kind], search)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_search(cases, kind):
    check(cases[kind], Search(1, LONGEST))


def test_the_longest_text_there_can_be(cases):
    """As many tokens as positions: the start token is read, the last one is not."""
    case = cases["bart"]
    check(case, Search(2, case.config.max_positions, best=2))


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_that_a_model_forces(cases, beams):
    case, search = cases["bart"], Search(beams, 6, best=beams)
    forced = {"decoder_start_token_id": 9, "forced_bos_token_id": 7, "forced_eos_token_id": EOS}
    tokens, scores = theirs(case, search, **forced)
    fixed = generation.writing(forced, pieces=case.pieces, max_positions=40).fixed
    generate = make_generate(build(case.config), search, pieces=case.pieces, fixed=fixed)
    ours = generate(case.params, case.source)
    np.testing.assert_array_equal(ours.tokens, tokens)
    assert (tokens[..., 0] == 7).all() and (tokens[..., 5] == EOS).any()
    if beams > 1:  # transformers normalises what a greedy search gives, forced tokens too
        np.testing.assert_allclose(ours.scores, scores, rtol=0, atol=1e-4)


def test_an_export_forces_no_token(cases):
    for case in cases.values():
        settings = case.theirs.generation_config
        assert settings.forced_bos_token_id is settings.forced_eos_token_id is None
        assert settings.decoder_start_token_id == START
        assert settings.eos_token_id == EOS
