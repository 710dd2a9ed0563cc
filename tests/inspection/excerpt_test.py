"""An excerpt is a part of what training reads, and costs no more than that part."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from seqrecipes.data.corpora.corpus import BadRecord
from seqrecipes.data.corpora.sample import SampleCorpus, SampleParallel
from seqrecipes.data.objectives import OBJECTIVES, Mlm
from seqrecipes.data.objectives.base import example_index
from seqrecipes.data.seqio.tasks import SeqioTask
from seqrecipes.data.tasks import PretrainingTask
from seqrecipes.errors import UserError
from seqrecipes.inspection.excerpt import PreparedExcerpt, RawExcerpt, choose_languages, spread
from seqrecipes.inspection.trace import trace

LENGTH = 64
EVERYTHING = 10**6
TEXT = "the river rises in spring and the farmers wait for the water"


@dataclasses.dataclass
class Endless:
    """English without end in so many shards; says how many documents were read of each."""

    number: int = 20
    sizes: tuple[int, ...] = ()
    bad: bool = False

    parallel = False
    languages = ("en",)

    def __post_init__(self):
        self.read = dict.fromkeys(range(self.number), 0)

    def shards(self, language, split):
        return self.number

    def documents(self, language, split, shard):
        size = self.sizes[shard] if self.sizes else EVERYTHING
        for _ in range(size):
            self.read[shard] += 1
            yield TEXT
            if self.bad:
                yield BadRecord("files", f"{shard}.txt:{self.read[shard]}", "is not UTF-8.")

    def fingerprint(self):
        return "endless"


@pytest.fixture
def excerpt(vocabulary):
    def make(corpus, payload=62, objective="mlm"):
        task = PretrainingTask("x.y", lambda: corpus, OBJECTIVES[objective], vocabulary)
        return RawExcerpt(task, "train", payload)

    return make


def everything(excerpt, count=EVERYTHING):
    return [record for language in excerpt.languages for record in excerpt.records(language, count)]


@pytest.mark.parametrize(
    ("objective", "split"), [*((name, "validation") for name in OBJECTIVES), ("mlm", "train")]
)
def test_examples_are_those_of_the_task(sample_task, objective, split):
    task = sample_task(objective)
    excerpt = RawExcerpt(task, split, task.objective.payload(LENGTH))
    examples = [
        trace(task.objective, *record, excerpt.specials, seed=3, epoch=0).example
        for record in everything(excerpt)
    ]
    dataset = SeqioTask(task).get_dataset(
        {"encoder_input_tokens": LENGTH}, split, shuffle=False, seed=3
    )
    expected = list(dataset.as_numpy_iterator())
    assert len(examples) == len(expected) > 0
    for example, other in zip(examples, expected, strict=True):
        assert {n: ids.tolist() for n, ids in example.items()} == {
            n: ids.tolist() for n, ids in other.items()
        }


@pytest.mark.parametrize("objective", ["adjacent_mlm", "tlm"])
def test_prepared_text_gives_the_same_records_and_counts(prepared, sample_task, objective):
    task, blocks = sample_task(objective), prepared(objective)
    raw = RawExcerpt(task, "train", blocks.payload)
    cached = PreparedExcerpt(blocks, "train")
    expected, found = everything(raw), everything(cached)
    assert [place for place, _ in found] == [place for place, _ in expected]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        assert [s.tolist() for s in one] == [s.tolist() for s in other]
    for language in raw.languages:
        one, other = raw.texts[language], cached.texts[language]
        for name in ("documents", "empty_documents", "cut_documents", "characters", "all_records"):
            assert getattr(one, name) == getattr(other, name)
        if objective == "tlm":
            assert other.tokens_are_cut == (other.cut_documents > 0)
            assert (other.characters_per_token is None) == other.tokens_are_cut
        else:
            assert other.characters_per_token == pytest.approx(one.characters_per_token, rel=0.02)
    assert cached.max_specials(0) == blocks.max_specials and raw.max_specials(7) == 7


def test_some_prepared_records_come_from_all_over(sample_blocks):
    excerpt = PreparedExcerpt(sample_blocks, "train")
    there = int(sample_blocks.counts("train")[excerpt.languages.index("en")])
    blocks = [place.block for place, _ in excerpt.records("en", 4)]
    assert blocks == [0, there // 4, there // 2, 3 * there // 4]


def test_counts_of_text_by_hand(vocabulary, excerpt):
    found = excerpt(SampleParallel(), objective="tlm", payload=30)
    list(found.records("de-en", EVERYTHING))
    pairs = list(SampleParallel().documents("de-en", "train", 0))
    ids = [[vocabulary.tokenizer.encode(side) for side in pair] for pair in pairs]
    flat = [i for pair in ids for side in pair for i in side]
    text = found.texts["de-en"]
    assert text.documents == text.all_records == len(pairs)
    assert text.characters == sum(len(side) for pair in pairs for side in pair)
    assert (text.tokens, text.unknown_tokens) == (len(flat), flat.count(3))
    assert text.cut_documents == sum(max(map(len, pair)) > 30 for pair in ids) > 0
    assert text.characters_per_token == text.characters / text.tokens


def test_no_more_is_read_than_needed(excerpt):
    corpus = Endless()
    found = excerpt(corpus)
    records = list(found.records("en", 16))
    shards = [place.shard for place, _ in records]
    assert shards == sorted(shards) and len(set(shards)) == 8
    assert {0, 19} <= set(shards)
    assert [place.block for place, _ in records] == [0, 1] * 8
    assert all(place.index == example_index("en", place.shard, place.block) for place, _ in records)
    assert sum(corpus.read.values()) == 8 * 16  # one batch of each suffices
    assert found.texts["en"].documents == 8 * 16
    assert found.texts["en"].all_records is None


def test_short_shards_are_made_up_for(excerpt):
    corpus = Endless(number=10, sizes=(1, 50) * 5)
    found = excerpt(corpus)
    records = list(found.records("en", 24))
    assert len(records) == 24
    assert found.texts["en"].all_records is None
    rest = excerpt(Endless(number=10, sizes=(1,) * 10))
    assert len(list(rest.records("en", 24))) == rest.texts["en"].all_records == 10


def test_nothing_is_read_for_nothing(excerpt):
    corpus = Endless()
    assert list(excerpt(corpus).records("en", 0)) == []
    assert set(corpus.read.values()) == {0}


def test_bad_records_are_counted_and_named(excerpt):
    found = excerpt(Endless(number=1, sizes=(30,), bad=True))
    list(found.records("en", EVERYTHING))
    text = found.texts["en"]
    assert (text.documents, text.bad_records, text.empty_documents) == (30, 30, 0)
    assert text.problems[0] == "0.txt:1: is not UTF-8." and len(text.problems) == 20


def test_bad_records_that_the_corpus_refuses_are_errors(excerpt):
    class Strict(Endless):
        def documents(self, language, split, shard):
            yield TEXT
            raise BadRecord("files", "0.txt:2", "is not UTF-8.").error()

    with pytest.raises(UserError, match=r"files = '0\.txt:2': is not UTF-8"):
        list(excerpt(Strict()).records("en", 5))


def test_joined_pairs_are_joined(vocabulary):
    task = PretrainingTask("x.y", SampleParallel, OBJECTIVES["tlm"], vocabulary, join_pairs=True)
    excerpt = RawExcerpt(task, "train", 200)
    records = list(itertools.islice(excerpt.records("de-en", 5), 5))
    counts = [
        [np.count_nonzero(s == vocabulary.doc_id) for s in segments] for _, segments in records
    ]
    assert excerpt.join_pairs and all(first == second > 0 for first, second in counts)


def test_validation_has_its_own_records(vocabulary):
    task = PretrainingTask("x.y", SampleCorpus, Mlm(), vocabulary)
    found = RawExcerpt(task, "validation", 62)
    list(found.records("en", EVERYTHING))
    assert found.texts["en"].documents == len(list(SampleCorpus().documents("en", "validation", 0)))


@pytest.mark.parametrize(
    ("count", "expected"), [(7, [3, 2, 2]), (6, [2, 2, 2]), (2, [1, 1, 0]), (0, [0, 0, 0])]
)
def test_records_are_spread_evenly(count, expected):
    assert list(spread(count, ["a", "b", "c"]).values()) == expected


def test_languages_are_chosen_by_name():
    assert choose_languages([], ("de", "en")) == ["de", "en"]
    assert choose_languages(["en", "de", "en"], ("ar", "de", "en")) == ["de", "en"]
    with pytest.raises(UserError, match="--language = 'xx': choose one of de, en"):
        choose_languages(["xx"], ("de", "en"))
