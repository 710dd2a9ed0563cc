"""The named conversions: which models each joins, what it may change, where leaves come from.

A leaf of the target is the source's leaf of the same path, a copy of another source leaf, rows of
either, or the target's own random initialisation. What no rule asks for is dropped.
"""

from __future__ import annotations

import dataclasses

from seqrecipes.conversion import surgery
from seqrecipes.conversion.surgery import Pieces, Rows, Selection

ENCODER, SEQ2SEQ, EITHER = "an encoder", "a seq2seq model", "either"


@dataclasses.dataclass(frozen=True)
class From:
    """The source's leaf of the same path, or of a path that begins otherwise.

    Attributes:
      ours: beginning of the target's path.
      theirs: what stands in its place in the source's path; the rest is the same.
      rows: take rows of the leaf, as the conversion chooses them.
    """

    ours: str = ""
    theirs: str = ""
    rows: bool = False

    def path(self, target: str) -> str:
        """The source's path for one of the target."""
        return self.theirs + target.removeprefix(self.ours)


SAME = From()
ROWS = From(rows=True)
NEW = None


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a conversion joins, what it may change, and how.

    Attributes:
      source: kind of the source: ENCODER, SEQ2SEQ or EITHER.
      target: kind of the target; EITHER is the source's.
      changes: fields of the configuration in which the two models may differ, apart from those that
        concern training and computing alone. A conversion that changes `vocab_size` leads from one
        vocabulary to another.
      rules: (regular expression over the target's paths, origin), first match wins; an origin is a
        leaf of the source, or NEW.
      rows: chooses the rows of leaves that are not taken whole.
      counted: the fields of the source's and of the target's configuration that count those rows.
    """

    source: str
    target: str
    changes: tuple[str, ...]
    rules: tuple[tuple[str, From | None], ...]
    rows: Selection | None = None
    counted: tuple[str, str] | None = None

    def joins(self, source: str, target: str) -> bool:
        """Whether it leads from one kind of model to the other."""
        return self.source in (source, EITHER) and target == (
            source if self.target == EITHER else self.target
        )

    def select(self, source: int, target: int, pieces: Pieces | None) -> Rows:
        """The rows of a leaf of so many rows that one of the target has."""
        assert self.rows is not None
        return self.rows(source, target, pieces)


_ENCODER_RULES = ((r"encoder", SAME), (r"token_embedding", SAME))
_HEAD_RULE = (r"lm_head", From("lm_head", "token_embedding"))
_ENCODER_LAYERS, _DECODER_LAYERS = "encoder/stack/layers", "decoder/stack/layers"


def _shallower_decoder(rows: Selection) -> Conversion:
    """A shallower decoder out of the layers of a deeper one."""
    return Conversion(
        source=SEQ2SEQ,
        target=SEQ2SEQ,
        changes=("decoder_layers",),
        rules=((_DECODER_LAYERS, ROWS), (r".*", SAME)),
        rows=rows,
        counted=("decoder_layers", "decoder_layers"),
    )


CONVERSIONS: dict[str, Conversion] = {
    # Soltan et al. 2023, section 2.1.5: a seq2seq model from an MLM encoder. An untied head starts
    # as a copy of the token table; attention fusion, if any, belongs to the new decoder.
    "encoder_to_seq2seq": Conversion(
        source=ENCODER,
        target=SEQ2SEQ,
        changes=("decoder_layers", "attention_fusion", "tie_head"),
        rules=(*_ENCODER_RULES, _HEAD_RULE, (r"decoder", NEW)),
    ),
    # Beyond Soltan et al. 2023: the decoder starts as layers of the encoder (Rothe et al. 2020).
    # Their cross-attention is random; here it starts as the same layer's self-attention.
    "encoder_to_seq2seq_copied": Conversion(
        source=ENCODER,
        target=SEQ2SEQ,
        changes=("decoder_layers", "attention_fusion", "tie_head"),
        rules=(
            *_ENCODER_RULES,
            _HEAD_RULE,
            (r"decoder/(stack/layers/)?fusion", NEW),
            (
                rf"{_DECODER_LAYERS}/cross_attention(_norm)?",
                From(
                    f"{_DECODER_LAYERS}/cross_attention",
                    f"{_ENCODER_LAYERS}/self_attention",
                    rows=True,
                ),
            ),
            (_DECODER_LAYERS, From(_DECODER_LAYERS, _ENCODER_LAYERS, rows=True)),
            (r"decoder", From("decoder", "encoder")),
        ),
        rows=surgery.evenly_spread_layers,
        counted=("encoder_layers", "decoder_layers"),
    ),
    # Section 2.1.4: an encoder out of a seq2seq model, with a fresh MLM head whose projection, if
    # untied, starts as a copy of the token table.
    "seq2seq_to_encoder": Conversion(
        source=SEQ2SEQ,
        target=ENCODER,
        changes=("decoder_layers", "attention_fusion", "tie_head"),
        rules=(
            *_ENCODER_RULES,
            (r"mlm_head/projection", From("mlm_head/projection", "token_embedding")),
            (r"mlm_head", NEW),
        ),
    ),
    # The same model goes on under another objective or schedule.
    "identity": Conversion(source=EITHER, target=EITHER, changes=(), rules=((r".*", SAME),)),
    # Another vocabulary: rows of equal pieces are kept, the other pieces start as the mean.
    "new_vocabulary": Conversion(
        source=EITHER,
        target=EITHER,
        changes=("vocab_size",),
        rules=(
            (r"(token_embedding|lm_head|mlm_head/projection)/embedding", ROWS),
            (r"mlm_head/bias", ROWS),
            (r".*", SAME),
        ),
        rows=surgery.by_piece,
        counted=("vocab_size", "vocab_size"),
    ),
    # Longer or shorter sequences: the first positions are kept, further ones start as the mean.
    "new_positions": Conversion(
        source=EITHER,
        target=EITHER,
        changes=("max_positions",),
        rules=((r"(encoder|decoder)/embedding/position", ROWS), (r".*", SAME)),
        rows=surgery.positions,
        counted=("max_positions", "max_positions"),
    ),
    "first_decoder_layers": _shallower_decoder(surgery.first_layers),
    "last_decoder_layers": _shallower_decoder(surgery.last_layers),
    "every_kth_decoder_layer": _shallower_decoder(surgery.every_kth_layer),
}

# What fine-tuning does by itself; no stage of a recipe asks for it. The head of pre-training, or
# the decoder, is left behind.
FINE_TUNING: dict[str, Conversion] = {
    "encoder_to_labeller": Conversion(
        source=EITHER,
        target="a labeller",
        changes=("decoder_layers", "attention_fusion", "tie_head"),
        rules=(*_ENCODER_RULES, (r"heads", NEW)),
    ),
}

# These concern training and computing; every other field decides what a parameter means.
FREE = (
    "dropout",
    "attention_dropout",
    "initializer_range",
    "attention",
    "dtype",
    "scan_layers",
    "remat",
)
