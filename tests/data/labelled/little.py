"""Little sets of every kind, and their files."""

from __future__ import annotations

import gzip
from pathlib import Path

from seqrecipes.data.labelled import layouts
from seqrecipes.data.labelled.mtop import POINTERS
from seqrecipes.data.labelled.sets import LabelledSet

LITTLE = {
    s.name: s
    for s in (
        LabelledSet(
            "little_pairs",
            "classification",
            ("en", "de"),
            layouts.pair_lines,
            ("{language}/{split}.tsv",),
        ),
        LabelledSet(
            "little_tags",
            "tagging",
            ("en", "de", "ja"),
            layouts.word_lines,
            ("{language}/{split}.tsv",),
        ),
        LabelledSet(
            "little_slots",
            "joint",
            ("en", "it"),
            layouts.slot_lines,
            ("{language}/{split}.tsv", "{split}_{LANGUAGE}.tsv"),
            on_unknown_label="wrong",
        ),
        LabelledSet(
            "little_parses",
            "generation",
            ("en",),
            layouts.parse_lines,
            ("{language}/{split}.txt",),
            form=POINTERS,
        ),
        LabelledSet(
            "little_sums", "generation", ("en",), layouts.summary_lines, ("{split}.jsonl",)
        ),
        LabelledSet(
            "little_translations",
            "generation",
            ("en-de", "de-en"),
            layouts.aligned_lines,
            ("{split}.{language}.txt",),
        ),
    )
}

PAIRS = "He sleeps.\tHe is awake.\tno\nHe sleeps.\tHe dreams.\tmaybe\nIt rains.\tIt is wet.\tyes\n"
TAGS = "Anna\tB-PER\nsees\tO\nRome\tB-LOC\n\nno\tO\n\nNew\tB-LOC\nYork\tI-LOC\n"
SLOTS = "id\tutterance\tslot_labels\tintent\n0\twake me at six\tO O O B-time\talarm\n"
PARSE = (
    "0\tIN:GET_WEATHER\t\tWeather in Paris today\tweather\ten_XX\t"
    "[IN:GET_WEATHER [SL:LOCATION Paris ] [SL:DATE_TIME today ] ]\t"
    '{"tokens": ["Weather", "in", "Paris", "today"]}\n'
)
SUMS = (
    '{"document": "It rained all day.", "summary": "Rain all day."}\n'
    '{"document": "The sun shone.", "summaries": ["Sun all day.", "It was sunny."]}\n'
)
FILES = {
    "little_pairs/en/train.tsv": PAIRS,
    "little_pairs/en/dev.tsv": PAIRS,
    "little_pairs/de/test.tsv": "Er schläft.\tEr träumt.\tmaybe\n",
    "little_tags/en/train.tsv": TAGS,
    "little_tags/de/test.tsv.gz": "Anna\tB-PER\nsieht\tO\nRom\tB-LOC\n\n",
    "little_slots/train_EN.tsv": SLOTS,
    "little_slots/it/test.tsv": "1\talle sei di sera\tO B-time O B-part\tallarme\n",
    "little_parses/en/train.txt": PARSE,
    "little_sums/train.jsonl": SUMS,
    "little_translations/test.en.txt": "It rains.\nGood night.\n",
    "little_translations/test.de.txt": "Es regnet.\nGute Nacht.\n",
}


def write_file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
