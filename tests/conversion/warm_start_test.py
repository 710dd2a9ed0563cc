"""Conversions move, copy, renew or drop every leaf, and refuse what would change its meaning."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from seqrecipes import models, tree
from seqrecipes.conversion import warm_start
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig
from seqrecipes.models import config as model_config
from tests.models import tiny

TOKENS = np.arange(4, 36, dtype=np.int32).reshape(2, 16)


def config(name, **overrides):
    tiny = {"hidden_size": 32, "mlp_size": 48, "num_heads": 4, "max_positions": 16}
    tiny["scan_layers"] = True  # compiles faster
    return model_config.load(
        f"configs/{name}.py", size="mini", vocab_size=64, overrides=tiny | overrides
    )


def params_of(shape, seed):
    return jax.jit(functools.partial(models.init_params, shape, seed))()


def convert(name, source, target):
    account = warm_start.plan(
        name, models.parameter_shapes(source), models.parameter_shapes(target)
    )
    source_params = params_of(source, 1)
    result = warm_start.convert(
        source_params, account=account, initialise=functools.partial(params_of, target, 2)
    )
    return source_params, result, account


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("tie_head", [True, False])
def test_encoder_to_seq2seq_keeps_the_encoder_exactly(norm, tie_head):
    source = config("roberta_12e", norm=norm)
    target = config("bart_12e12d", norm=norm, tie_head=tie_head)
    old, new, account = convert("encoder_to_seq2seq", source, target)

    def encode(shape, params):
        model = models.build(shape)
        return jax.jit(functools.partial(model.apply, method="encode"))({"params": params}, TOKENS)

    np.testing.assert_array_equal(encode(target, new), encode(source, old))
    fresh = tree.flatten(params_of(target, 2))
    leaves, before = tree.flatten(new), tree.flatten(old)
    for path, leaf in leaves.items():
        if path.startswith("decoder/"):
            expected = fresh[path]
        elif path == "lm_head/embedding":
            expected = before["token_embedding/embedding"]
        else:
            expected = before[path]
        np.testing.assert_array_equal(leaf, expected, err_msg=path)
    assert ("lm_head/embedding" in leaves) is not tie_head
    assert account.origins.keys() == leaves.keys()
    assert set(account.dropped) == {path for path in before if path.startswith("mlm_head/")}


@pytest.mark.parametrize("tie_head", [True, False])
def test_seq2seq_to_encoder_starts_the_head_from_the_table(tie_head):
    source, target = config("bart_12e2d"), config("roberta_12e", tie_head=tie_head)
    old, new, account = convert("seq2seq_to_encoder", source, target)
    model = models.build(target)
    batch = {"encoder_input_tokens": TOKENS, "masked_positions": np.array([[3], [5]])}
    logits = model.apply({"params": new}, batch)
    tied = config("roberta_12e", tie_head=True)
    through_table = models.build(tied).apply(
        {
            "params": {k: v for k, v in new.items() if k != "mlm_head"}
            | {"mlm_head": {k: v for k, v in new["mlm_head"].items() if k != "projection"}}
        },
        batch,
    )
    np.testing.assert_array_equal(logits, through_table)
    if not tie_head:
        np.testing.assert_array_equal(
            new["mlm_head"]["projection"]["embedding"], old["token_embedding"]["embedding"]
        )
    assert all(path.startswith("decoder/") for path in account.dropped)
    encode = functools.partial(models.build(source).apply, method="encode")
    np.testing.assert_array_equal(
        encode({"params": old}, TOKENS), model.apply({"params": new}, TOKENS, method="encode")
    )


def test_a_copied_head_is_no_alias():
    source, target = config("roberta_12e"), config("bart_12e12d", tie_head=False)
    account = warm_start.plan(
        "encoder_to_seq2seq", models.parameter_shapes(source), models.parameter_shapes(target)
    )
    new = jax.jit(
        functools.partial(
            warm_start.convert,
            account=account,
            initialise=functools.partial(params_of, target, 2),
        )
    )(params_of(source, 1))
    pointers = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(new)}
    assert len(pointers) == len(jax.tree.leaves(new))


def test_the_printed_account_adds_up():
    source, target = config("roberta_12e"), config("bart_12e12d", tie_head=False)
    account = warm_start.plan(
        "encoder_to_seq2seq", models.parameter_shapes(source), models.parameter_shapes(target)
    )
    counts = {"new": 0, "moved": 0, "copy": 0, "dropped": 0}
    for line in str(account).splitlines()[1:]:
        _, count, verb = line.split(maxsplit=2)
        counts[verb.split()[0]] += int(count.replace(",", ""))
    size = lambda shape: sum(x.size for x in jax.tree.leaves(models.parameter_shapes(shape)))  # noqa: E731
    assert counts["new"] + counts["moved"] + counts["copy"] == size(target)
    assert counts["moved"] + counts["dropped"] == size(source)
    assert counts["copy"] == 64 * 32


# What each conversion may change, apart from what is free everywhere.
MAY_CHANGE: dict[str, set[str]] = {
    "identity": set(),
    "new_vocabulary": {"vocab_size"},
    "new_positions": {"max_positions"},
    "first_decoder_layers": {"decoder_layers"},
    "last_decoder_layers": {"decoder_layers"},
    "every_kth_decoder_layer": {"decoder_layers"},
    "encoder_to_seq2seq": {"decoder_layers", "attention_fusion", "tie_head"},
    "encoder_to_seq2seq_copied": {"decoder_layers", "attention_fusion", "tie_head"},
    "seq2seq_to_encoder": {"decoder_layers", "attention_fusion", "tie_head"},
}
OTHER: dict[str, tuple[Any, str]] = {
    "vocab_size": (26, "new_vocabulary changes it"),
    "hidden_size": (32, "no conversion changes it"),
    "mlp_size": (25, "no conversion changes it"),
    "num_heads": (4, "no conversion changes it"),
    "encoder_layers": (3, "no conversion changes it"),
    "decoder_layers": (1, "first_decoder_layers or last_decoder_layers or every_kth"),
    "max_positions": (21, "new_positions changes it"),
    "attention_fusion": ("shared", "no conversion changes it"),
    "norm": ("post", "no conversion changes it"),
    "embedding_norm": (False, "no conversion changes it"),
    "norm_epsilon": (1e-12, "no conversion changes it"),
    "tie_head": (False, "no conversion changes it"),
    "pad_id": (0, "no conversion changes it"),
}
FREE: dict[str, Any] = {
    "dropout": 0.3,
    "attention_dropout": 0.3,
    "initializer_range": 0.1,
    "dtype": "bfloat16",
    "attention": "xla",
    "scan_layers": False,
    "remat": "full",
}


def test_no_field_is_forgotten():
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    assert OTHER.keys() | FREE.keys() == fields
    assert MAY_CHANGE.keys() == warm_start.CONVERSIONS.keys()


@pytest.mark.parametrize("name", MAY_CHANGE)
def test_a_conversion_changes_what_it_says_and_nothing_else(name):
    encoder, seq2seq = tiny.config(decoder_layers=0), tiny.config()
    source, target = {
        "encoder_to_seq2seq": (encoder, seq2seq),
        "encoder_to_seq2seq_copied": (encoder, seq2seq),
        "seq2seq_to_encoder": (seq2seq, encoder),
    }.get(name, (seq2seq, seq2seq))
    pieces = (["a", "b"], ["b", "c"]) if name == "new_vocabulary" else None

    def check(changed: ModelConfig) -> None:
        warm_start.check(
            name, source, changed, source_vocabulary="a", target_vocabulary="a", pieces=pieces
        )

    check(dataclasses.replace(target, **FREE))
    for field, (value, remedy) in OTHER.items():
        if not target.decoder_layers and field in ("decoder_layers", "attention_fusion"):
            continue  # another kind of model, or none
        changed = dataclasses.replace(target, **{field: value})
        if field in MAY_CHANGE[name]:
            check(changed)
            continue
        with pytest.raises(UserError, match=remedy) as caught:
            check(changed)
        assert caught.value.field == field
        assert f"the source has {getattr(source, field)!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("new_vocabulary", {"vocab_size": 30}, "needs the pieces of both vocabularies"),
        ("first_decoder_layers", {"decoder_layers": 5}, "at most 4"),
        ("last_decoder_layers", {"decoder_layers": 5}, "at most 4"),
        ("every_kth_decoder_layer", {"decoder_layers": 3}, "choose 1, 2, 4"),
    ],
)
def test_rows_that_cannot_be_chosen_are_refused_before_anything_is_read(name, changes, message):
    source = tiny.config(decoder_layers=4)
    target = dataclasses.replace(source, **changes)
    with pytest.raises(UserError, match=message):
        warm_start.check(name, source, target, source_vocabulary="a", target_vocabulary="a")


def test_wrong_kinds_vocabularies_and_names_are_refused():
    encoder, seq2seq = config("roberta_12e"), config("bart_12e12d")
    check = functools.partial(warm_start.check, source_vocabulary="a", target_vocabulary="a")
    with pytest.raises(UserError, match="choose one of encoder_to_seq2seq"):
        check("encoder2seq", encoder, seq2seq)
    with pytest.raises(UserError, match="the source is a seq2seq model"):
        check("encoder_to_seq2seq", seq2seq, seq2seq)
    with pytest.raises(UserError, match="vocabulary"):
        warm_start.check(
            "encoder_to_seq2seq", encoder, seq2seq, source_vocabulary="a", target_vocabulary="b"
        )
    # Equal sizes do not make vocabularies equal; only this conversion may join different ones.
    with pytest.raises(UserError, match=r"vocabulary = 'b'.* by new_vocabulary first"):
        warm_start.check("identity", encoder, encoder, source_vocabulary="a", target_vocabulary="b")
    warm_start.check(
        "new_vocabulary",
        encoder,
        encoder,
        source_vocabulary="a",
        target_vocabulary="b",
        pieces=("ab", "bc"),
    )
    fitting = r"a seq2seq model; choose one of encoder_to_seq2seq, encoder_to_seq2seq_copied, or"
    with pytest.raises(UserError, match=fitting):
        check("identity", encoder, seq2seq)
    with pytest.raises(
        UserError, match=r"the source is an encoder, the target an encoder.*--set decoder_layers=N"
    ):
        check("encoder_to_seq2seq", encoder, encoder)
    with pytest.raises(UserError, match="tie_head"):
        check("identity", seq2seq, dataclasses.replace(seq2seq, tie_head=False))


def test_missing_and_misshapen_leaves_are_refused():
    source, target = config("roberta_12e"), config("bart_12e12d")
    shapes = tree.flatten(models.parameter_shapes(source))
    wanted = models.parameter_shapes(target)
    lost = {p: x for p, x in shapes.items() if p != "encoder/embedding/norm/scale"}
    with pytest.raises(UserError, match=r"encoder/embedding/norm/scale.*missing"):
        warm_start.plan("encoder_to_seq2seq", tree.unflatten(lost), wanted)
    shapes["encoder/embedding/norm/scale"] = jax.ShapeDtypeStruct((7,), np.float32)
    with pytest.raises(UserError, match=r"has the shape \(7,\)"):
        warm_start.plan("encoder_to_seq2seq", tree.unflatten(shapes), wanted)


@pytest.mark.parametrize("name", ["roberta_12e", "bart_12e12d"])
def test_a_labeller_takes_the_encoder_and_the_table_of_either_model(name):
    source = config(name)
    heads = (models.Head("label", 3, (8,)), models.Head("words", 5, (), "words"))
    encoder = dataclasses.replace(source, decoder_layers=0)
    target = models.Labeller(encoder, heads)
    old = params_of(source, 1)
    account = warm_start.plan(
        "encoder_to_labeller", models.parameter_shapes(source), models.shapes(target)
    )
    fresh = jax.jit(functools.partial(models.random_params, target, 2))()
    new = warm_start.convert(old, account=account, initialise=lambda: fresh)
    before, random = tree.flatten(old), tree.flatten(fresh)
    for path, leaf in tree.flatten(new).items():
        expected = random[path] if path.startswith("heads/") else before[path]
        np.testing.assert_array_equal(leaf, expected, err_msg=path)
    rest = {path for path in before if not path.startswith(("encoder/", "token_embedding/"))}
    assert set(account.dropped) == rest
    assert rest and "dropped" in str(account)


def test_no_stage_asks_for_what_fine_tuning_does_by_itself():
    encoder = tiny.config(decoder_layers=0)
    with pytest.raises(UserError, match="choose one of encoder_to_seq2seq"):
        warm_start.check(
            "encoder_to_labeller", encoder, encoder, source_vocabulary="a", target_vocabulary="a"
        )
