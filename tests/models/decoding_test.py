"""Greedy and beam search: against a slow search without a cache, and by what must hold."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.config.finetuning import Search
from seqrecipes.config.training import Partitioning
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig, build
from seqrecipes.models.decoding import Fixed, Generated, make_generate
from seqrecipes.training import partitioning as parts
from tests.models import search_oracle as oracle
from tests.models import tiny

DEVICES = 8

LONGEST = 9  # tokens of a text


def sharp(config: ModelConfig, seed: int = 0, end: float = 1.0) -> dict[str, Any]:
    """Random parameters that are rarely undecided, and whose texts end now and then.

    Args:
      config: the model's; its head is not tied.
      seed: of the parameters.
      end: factor of the logits of </s>.
    """
    leaves = tree.flatten(tiny.random_params(build(config), seed, "float32"))
    leaves["lm_head/embedding"] = 2 * leaves["lm_head/embedding"]
    leaves["lm_head/embedding"][oracle.EOS] *= end
    return tree.unflatten(leaves)


CONFIG = tiny.config(tie_head=False, encoder_layers=1, max_positions=16)


def sources(rows: int = 3) -> np.ndarray:
    return tiny.batch(CONFIG, rows, source=5, seed=1)["encoder_input_tokens"]


@functools.cache
def compiled(config: ModelConfig, search: Search, pieces: int | None = None) -> Any:
    return make_generate(build(config), search, pieces=pieces)


def generate(
    search: Search,
    params: Any,
    tokens: np.ndarray,
    config: ModelConfig = CONFIG,
    pieces: int | None = None,
) -> Generated:
    found = compiled(config, search, pieces)(params, tokens)
    return Generated(*(np.asarray(x) for x in found))


def texts(found: Generated) -> list[list[tuple[int, ...]]]:
    """Of every source the hypotheses without padding."""
    return [
        [tuple(ids[:length].tolist()) for ids, length in zip(row, lengths, strict=True)]
        for row, lengths in zip(found.tokens, found.lengths, strict=True)
    ]


def slow(
    params: Any, source: np.ndarray, search: Search, config: ModelConfig = CONFIG, **more: Any
) -> list[tuple[float, tuple[int, ...]]]:
    return searched(oracle.log_probabilities(source, params, config, **more), search)


def searched(model: oracle.LogProbabilities, search: Search) -> list[tuple[float, tuple[int, ...]]]:
    if search.beams == 1:
        total, text = oracle.greedy(model, longest=search.max_length)
        return [(total / len(text) ** search.length_penalty, text)]
    return oracle.beam_search(
        model,
        beams=search.beams,
        longest=search.max_length,
        penalty=search.length_penalty,
        early=search.early_stopping,
    )[: search.best]


@functools.cache
def model(seed: int, row: int) -> oracle.LogProbabilities:
    """Of one source; what it says of a text serves all searches."""
    return oracle.log_probabilities(sources()[row], sharp(CONFIG, seed, end=1.5), CONFIG)


SEARCHES = [
    Search(1, LONGEST),
    Search(2, LONGEST, 0.0, "never", 2),
    Search(3, LONGEST, 1.0, False, 3),
    Search(3, LONGEST, 2.0, "never", 2),
    Search(3, LONGEST, 0.5, True, 3),
    Search(3, LONGEST, -0.5, "never"),
    Search(5, LONGEST, 1.0, True, 1),
    Search(5, 2, 2.0, False, 5),
]


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_hypotheses_are_those_of_a_slow_search(search: Search) -> None:
    lengths, endings = set(), set()
    for seed in range(2):
        params, tokens = sharp(CONFIG, seed, end=1.5), sources()
        found = generate(search, params, tokens)
        assert found.tokens.shape == (3, search.best, search.max_length)
        for i, (row, scores) in enumerate(zip(texts(found), found.scores, strict=True)):
            expected = searched(model(seed, i), search)
            assert row == [text for _, text in expected]
            np.testing.assert_allclose(scores, [score for score, _ in expected], atol=1e-4)
            lengths |= {len(text) for text in row}
            endings |= {text[-1] == oracle.EOS for text in row}
        padded = np.arange(found.tokens.shape[2]) >= found.lengths[..., None]
        assert (found.tokens[padded] == tiny.PAD).all()
    if search.max_length > 2 and search.length_penalty < 2:
        # Texts of several lengths, some of which end by themselves.
        assert len(lengths) > 1
        assert any(endings)


@pytest.mark.parametrize(
    ("fusion", "scan"),
    [("none", False), ("shared", True), ("per_layer", False), ("decoder_states", True)],
)
def test_every_kind_of_model_is_searched(fusion: str, scan: bool) -> None:
    config = tiny.config(
        tie_head=False, attention_fusion=fusion, scan_layers=scan, norm="pre" if scan else "post"
    )
    params, tokens = sharp(config, 3), sources()
    search = Search(3, 7, best=3)
    found = generate(search, params, tokens, config)
    for source, row in zip(tokens, texts(found), strict=True):
        assert row == [text for _, text in slow(params, source, search, config)]


def test_a_text_may_outgrow_the_room_it_starts_with(monkeypatch: pytest.MonkeyPatch) -> None:
    params, tokens = sharp(CONFIG, end=0.0), sources()
    search = Search(3, LONGEST, best=3)
    expected = generate(search, params, tokens)
    assert (expected.lengths == LONGEST).all()
    for room in (1, 5):
        monkeypatch.setattr("seqrecipes.models.decoding._ROOM", room)
        found = make_generate(build(CONFIG), search)(params, tokens)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


@pytest.mark.parametrize(("penalty", "early"), [(0.5, True), (1.0, "never"), (2.0, False)])
def test_one_beam_is_greedy_whatever_else_is_asked_for(penalty: float, early: Any) -> None:
    params, tokens = sharp(CONFIG, 1, end=1.5), sources()
    greedy = generate(Search(1, LONGEST), params, tokens)
    found = generate(Search(1, LONGEST, penalty, early), params, tokens)
    np.testing.assert_array_equal(found.tokens, greedy.tokens)
    np.testing.assert_allclose(
        found.scores * found.lengths**penalty, greedy.scores * greedy.lengths, rtol=1e-5
    )


@pytest.mark.parametrize("penalty", [0.5, 1.0])
def test_the_widest_beam_finds_the_best_of_all_texts(penalty: float) -> None:
    """As many beams as texts forget none, so that no greedy text can score higher."""
    params, tokens = sharp(CONFIG), sources()
    # 24 pieces, two tokens: 24 beams see all that can follow.
    search = Search(24, 2, penalty, "never")
    found, greedy = (generate(s, params, tokens) for s in (search, Search(1, 2, penalty)))
    assert (found.scores >= greedy.scores - 1e-6).all()
    for source, score in zip(tokens, found.scores[:, 0], strict=True):
        model = oracle.log_probabilities(source, params, CONFIG)
        first = model(())
        every = [first[oracle.EOS]]
        every += [
            (first[token] + model((token,)).max()) / 2**penalty
            for token in range(24)
            if token != oracle.EOS
        ]
        assert score == pytest.approx(max(every), abs=1e-4)


def test_a_source_is_searched_alike_in_any_company() -> None:
    params, tokens = sharp(CONFIG, 1, end=1.5), sources(6)
    for early in (True, False, "never"):
        search = Search(3, LONGEST, 1.0, early, 3)
        together = generate(search, params, tokens)
        assert len(set(together.lengths[:, 0].tolist())) > 1, "all end at the same time"
        for i, source in enumerate(tokens):
            alone = generate(search, params, source[None])
            np.testing.assert_array_equal(alone.tokens[0], together.tokens[i])
            np.testing.assert_allclose(alone.scores[0], together.scores[i], rtol=1e-5)


def test_padding_changes_nothing() -> None:
    params, tokens = sharp(CONFIG), sources()
    search = Search(3, LONGEST, best=3)
    wider = np.pad(tokens, ((0, 0), (0, 4)), constant_values=tiny.PAD)
    for a, b in zip(generate(search, params, tokens), generate(search, params, wider), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_row_of_padding_has_no_text() -> None:
    params, tokens = sharp(CONFIG), sources()
    tokens[1] = tiny.PAD
    found = generate(Search(2, LONGEST, best=2), params, tokens)
    assert (found.lengths[[0, 2]] > 0).all()
    assert (found.lengths[1] == 0).all()
    assert (found.tokens[1] == tiny.PAD).all()
    assert np.isneginf(found.scores[1]).all()


@pytest.mark.parametrize("beams", [1, 3])
def test_rows_without_a_piece_are_never_written(beams: int) -> None:
    params, tokens = sharp(CONFIG, 2), sources()
    search = Search(beams, LONGEST, best=beams)
    pieces = 14
    assert generate(search, params, tokens).tokens.max() >= pieces
    found = generate(search, params, tokens, pieces=pieces)
    for source, row, scores in zip(tokens, texts(found), found.scores, strict=True):
        expected = slow(params, source, search, pieces=pieces)
        assert row == [text for _, text in expected]
        np.testing.assert_allclose(scores, [score for score, _ in expected], atol=1e-4)


@pytest.mark.parametrize(("pieces", "early"), [(4, False), (4, True), (5, "never")])
def test_more_beams_than_pieces_write_what_there_is(pieces: int, early: Any) -> None:
    """Once </s> is written a text ends, even where nothing else is left to go on with."""
    params, tokens = sharp(CONFIG, 2), sources()
    search = Search(6, 4, 1.0, early, best=6)
    found = generate(search, params, tokens, pieces=pieces)
    for source, row, scores in zip(tokens, texts(found), found.scores, strict=True):
        expected = slow(params, source, search, pieces=pieces)
        assert row == [text for _, text in expected] + [()] * (6 - len(expected))
        assert not any(oracle.EOS in text[:-1] for text in row)
        np.testing.assert_allclose(
            scores[: len(expected)], [score for score, _ in expected], atol=1e-4
        )
        assert np.isneginf(scores[len(expected) :]).all()


def test_fewer_texts_than_beams() -> None:
    """Of one token there are as many texts as pieces."""
    params, tokens = sharp(CONFIG, 2), sources()
    found = generate(Search(6, 1, best=6), params, tokens, pieces=4)
    assert [sorted(row) for row in texts(found)] == [[(), (), (0,), (1,), (2,), (3,)]] * 3
    assert np.isneginf(found.scores[:, 4:]).all()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("fixed", [Fixed(9), Fixed(first=7), Fixed(9, 7, oracle.EOS)], ids=str)
def test_fixed_tokens_are_written_and_cost_nothing(beams: int, fixed: Fixed) -> None:
    params, tokens = sharp(CONFIG, 1, end=0.5), sources()
    search = Search(beams, 6, best=beams)
    found = make_generate(build(CONFIG), search, fixed=fixed)(params, tokens)
    for source, row, scores in zip(tokens, texts(found), found.scores, strict=True):
        free = oracle.log_probabilities(source, params, CONFIG, start=fixed.start)

        def model(text: oracle.Text, free: Any = free) -> np.ndarray:
            token = {0: fixed.first, search.max_length - 1: fixed.last}.get(len(text))
            if token is None:
                return free(text)
            return np.where(np.arange(CONFIG.vocab_size) == token, 0.0, -np.inf)

        expected = searched(model, search)
        assert row == [text for _, text in expected]
        np.testing.assert_allclose(scores, [score for score, _ in expected], atol=1e-4)


@pytest.mark.parametrize(
    "partitioning",
    [Partitioning(), Partitioning(data=2, fsdp=2, tensor=2), Partitioning(data=1, fsdp=8)],
    ids=["data", "all three", "fsdp"],
)
def test_a_mesh_writes_the_same_tokens(partitioning: Partitioning) -> None:
    config = tiny.config(tie_head=False, attention_fusion="per_layer", max_positions=16)
    params, tokens = sharp(config, 4), sources(16)
    search = Search(3, LONGEST, best=3)
    expected = generate(search, params, tokens, config)
    mesh = partitioning.mesh()
    shardings = partitioning.parameter_shardings(params, mesh)
    laid_out = tree.unflatten(
        {path: jax.device_put(leaf, shardings[path]) for path, leaf in tree.flatten(params).items()}
    )
    with partitioning.on(mesh):
        batch = jax.device_put(tokens, parts.batch_sharding(mesh))
        found = make_generate(build(config), search)(laid_out, batch)
        rows = found.tokens.sharding.shard_shape(found.tokens.shape)[0]
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    assert rows == 16 // parts.batch_shards(mesh), "every device wrote all texts"


def test_narrow_weights_are_cast_once_and_give_the_same() -> None:
    """bfloat16: matrices are cast before the loop, and what stays wide is not touched."""
    config = tiny.config(tie_head=False, dtype="bfloat16", max_positions=16)
    params, tokens = sharp(config, 5), sources()
    found = generate(Search(1, 5), params, tokens, config)
    apply = jax.jit(build(config).apply)
    for source, row in zip(tokens, texts(found), strict=True):
        written: list[int] = []
        while len(written) < 5 and written[-1:] != [oracle.EOS]:
            batch = {
                "encoder_input_tokens": source[None],
                "decoder_input_tokens": np.array([[2, *written]], np.int32),
            }
            written.append(int(apply({"params": params}, batch)[0, -1].argmax()))
        assert row == [tuple(written)]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("beams", {"beams": 0}),
        ("max_length", {"max_length": 0}),
        ("best", {"beams": 2, "best": 3}),
        ("best", {"best": 0}),
        ("early_stopping", {"early_stopping": "always"}),
        ("length_penalty", {"length_penalty": float("nan")}),
    ],
)
def test_searches_that_cannot_be_are_refused(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"Search\.{field}"):
        Search(**values)


def test_models_that_cannot_write_are_refused() -> None:
    with pytest.raises(UserError, match="has no decoder"):
        make_generate(build(tiny.config(decoder_layers=0)), Search())
    with pytest.raises(UserError, match=r"Search\.max_length = 17: this model writes at most 16"):
        make_generate(build(CONFIG), Search(max_length=17))
