"""How a model of theirs writes by itself: `generation_config.json`, taken over or refused by name.

Where a folder has no such file, transformers reads the same fields from `config.json`, as do we.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from seqrecipes.conversion.hf.files import inside, read_json
from seqrecipes.errors import UserError
from seqrecipes.models.decoding import EOS, START, Fixed

FILE = "generation_config.json"
# What our search has too.
_IDS = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
_SEARCH = {"num_beams": int, "length_penalty": float, "max_length": int, "max_new_tokens": int}
# What would change the best text, and the values with which it does not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "eos_token_id": (EOS, [EOS]),
    "do_sample": (False,),
    "min_length": (0, 1),  # the start token counts
    "min_new_tokens": (0,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (0.0,),
    "guidance_scale": (1.0,),
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "token_healing": (False,),
}
_NEUTRAL |= dict.fromkeys(
    (
        *("bad_words_ids", "force_words_ids", "suppress_tokens", "begin_suppress_tokens"),
        *("forced_decoder_ids", "sequence_bias", "constraints", "stop_strings", "max_time"),
        *("exponential_decay_length_penalty", "watermarking_config", "dola_layers"),
    ),
    ([], {}),
)


class Writing(NamedTuple):
    """How a model writes.

    Attributes:
      fixed: tokens that are not looked for.
      search: some fields of `Search`, where the folder says them.
    """

    fixed: Fixed
    search: dict[str, Any]


def read(folder: pathlib.Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a folder that change what it writes.

    Args:
      folder: the model's.
      config: the contents of its `config.json`.

    Raises:
      UserError: the file is damaged.
    """
    file = inside(folder, FILE)
    given = read_json(file) if file.is_file() else config
    known = (*_IDS, "bos_token_id", *_SEARCH, "early_stopping", *_NEUTRAL)
    found = {
        field: given[field]
        for field in known
        if given.get(field) is not None and given[field] not in _NEUTRAL.get(field, ())
    }
    start = found.pop("bos_token_id", START)  # read where there is no other
    if found.setdefault("decoder_start_token_id", start) == START:
        del found["decoder_start_token_id"]
    return found


def writing(settings: Mapping[str, Any], *, pieces: int, max_positions: int) -> Writing:
    """What such fields mean for our search.

    Args:
      settings: as `read` gives them.
      pieces: of the vocabulary.
      max_positions: of the decoder, which writes no more tokens.

    Raises:
      UserError: a field asks for what our search does not do, or has a value that cannot be.
    """
    for field, value in settings.items():
        if field in _NEUTRAL:
            raise _refused(
                field, value, "our search does not do this; without it, remove the field"
            )
    ids = {}
    for field in _IDS:
        value = settings.get(field)
        if isinstance(value, list) and len(value) == 1:
            (value,) = value
        if value is not None and not (_is(int, value) and 0 <= value < pieces):
            raise _refused(field, value, f"a token id from 0 to {pieces - 1}")
        ids[field] = value
    for field, kind in _SEARCH.items():
        if field in settings and not _is(kind, settings[field]):
            raise _refused(field, settings[field], f"must be of type {kind.__name__}")
    start = ids["decoder_start_token_id"]
    fixed = Fixed(
        start=START if start is None else start,
        first=ids["forced_bos_token_id"],
        last=ids["forced_eos_token_id"],
    )
    names = {"num_beams": "beams", "length_penalty": "length_penalty"}
    search = {ours: settings[name] for name, ours in names.items() if name in settings}
    if "early_stopping" in settings:
        search["early_stopping"] = settings["early_stopping"]
    # `max_length` counts the start token.
    longest = settings.get("max_new_tokens", settings.get("max_length", max_positions + 1) - 1)
    return Writing(fixed, search | {"max_length": min(longest, max_positions)})


def _is(kind: type, value: Any) -> bool:
    return isinstance(value, (int, float) if kind is float else kind) and value is not True


def _refused(field: str, value: Any, remedy: str) -> UserError:
    return UserError(f"{FILE}: {field}", value, remedy)
