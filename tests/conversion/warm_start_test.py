"""Conversions move, copy, renew or drop every leaf, and refuse what would change its meaning."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from seqrecipes import models, resolve, tree
from seqrecipes.conversion import warm_start
from seqrecipes.errors import UserError
from seqrecipes.models import config as model_config
from seqrecipes.training.step import init_params

TOKENS = np.arange(4, 36, dtype=np.int32).reshape(2, 16)


def config(name, **overrides):
    tiny = {"hidden_size": 32, "mlp_size": 48, "num_heads": 4, "max_positions": 16}
    tiny["scan_layers"] = True  # compiles faster
    return model_config.load(
        f"configs/{name}.py", size="mini", vocab_size=64, overrides=tiny | overrides
    )


def params_of(shape, seed):
    return init_params(models.build(shape), seed, resolve.any_features(shape))


def convert(name, source, target):
    account = warm_start.plan(
        name, resolve.parameter_shapes(source), resolve.parameter_shapes(target)
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
        return models.build(shape).apply({"params": params}, TOKENS, method="encode")

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
        "encoder_to_seq2seq", resolve.parameter_shapes(source), resolve.parameter_shapes(target)
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
        "encoder_to_seq2seq", resolve.parameter_shapes(source), resolve.parameter_shapes(target)
    )
    counts = {"new": 0, "moved": 0, "copy": 0, "dropped": 0}
    for line in str(account).splitlines()[1:]:
        _, count, verb = line.split(maxsplit=2)
        counts[verb.split()[0]] += int(count.replace(",", ""))
    size = lambda shape: sum(x.size for x in jax.tree.leaves(resolve.parameter_shapes(shape)))  # noqa: E731
    assert counts["new"] + counts["moved"] + counts["copy"] == size(target)
    assert counts["moved"] + counts["dropped"] == size(source)
    assert counts["copy"] == 64 * 32


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("norm", "post"),
        ("embedding_norm", False),
        ("norm_epsilon", 1e-12),
        ("hidden_size", 64),
        ("vocab_size", 65),
        ("encoder_layers", 3),
        ("max_positions", 17),
    ],
)
def test_a_mismatch_is_refused_by_name(field, value):
    source = config("roberta_12e")
    target = dataclasses.replace(config("bart_12e12d"), **{field: value})
    with pytest.raises(UserError) as caught:
        warm_start.check(
            "encoder_to_seq2seq", source, target, source_vocabulary="a", target_vocabulary="a"
        )
    assert caught.value.field == field
    assert repr(getattr(source, field)) in str(caught.value)


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
    with pytest.raises(UserError, match="tie_head"):
        check("identity", seq2seq, dataclasses.replace(seq2seq, tie_head=False))


def test_missing_and_misshapen_leaves_are_refused():
    source, target = config("roberta_12e"), config("bart_12e12d")
    shapes = tree.flatten(resolve.parameter_shapes(source))
    wanted = resolve.parameter_shapes(target)
    lost = {p: x for p, x in shapes.items() if p != "encoder/embedding/norm/scale"}
    with pytest.raises(UserError, match=r"encoder/embedding/norm/scale.*missing"):
        warm_start.plan("encoder_to_seq2seq", tree.unflatten(lost), wanted)
    shapes["encoder/embedding/norm/scale"] = jax.ShapeDtypeStruct((7,), np.float32)
    with pytest.raises(UserError, match=r"has the shape \(7,\)"):
        warm_start.plan("encoder_to_seq2seq", tree.unflatten(shapes), wanted)
