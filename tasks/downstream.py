"""Labelled sets: a seqio task `<set>.<language>` for each language of each set below.

The languages are those of Soltan et al. (2023), tables 4 to 9, as far as a set has them. Gin says
where files lie: `LabelledFiles.folder` is a folder with a folder per set, or a folder of each set,
such as {'mtop': 'data/mtop'}; sets without a folder are read from TFDS where that has them
(`LabelledTfds.data_dir`). docs/downstream_data.md has the layouts and how to add a set.
"""

from seqrecipes.data.labelled import layouts
from seqrecipes.data.labelled.mtop import POINTERS
from seqrecipes.data.labelled.registry import register_sets
from seqrecipes.data.labelled.sets import LabelledSet
from seqrecipes.data.seqio import tfds_sets
from seqrecipes.downstream import metrics

TWELVE = ("en", "ar", "de", "es", "fr", "hi", "it", "ja", "mr", "pt", "ta", "te")

SETS = (
    LabelledSet(
        "xnli",
        kind="classification",
        languages=("en", "ar", "de", "es", "fr", "hi"),
        layout=layouts.pair_lines,
        files=("{language}/{split}.tsv",),
        tfds=tfds_sets.XNLI,
        metric_fns=(metrics.accuracy,),
    ),
    LabelledSet(
        "pawsx",
        kind="classification",
        languages=("en", "de", "es", "fr", "ja"),
        layout=layouts.pair_lines,
        files=("{language}/{split}.tsv",),
        metric_fns=(metrics.accuracy,),
    ),
    LabelledSet(
        "udpos",
        kind="tagging",
        languages=TWELVE,
        layout=layouts.word_lines,
        files=("{language}/{split}.tsv",),
        tfds=tfds_sets.XTREME_POS,
        metric_fns=(metrics.tag_f1,),
    ),
    # WikiANN
    LabelledSet(
        "panx",
        kind="tagging",
        languages=TWELVE,
        layout=layouts.word_lines,
        files=("{language}/{split}.tsv",),
        tfds=tfds_sets.WIKIANN,
        metric_fns=(metrics.entity_f1,),
    ),
    # MultiATIS++. The test split of ATIS has intents and slots that its training split lacks.
    LabelledSet(
        "matis",
        kind="joint",
        languages=("en", "de", "es", "fr", "hi", "ja", "pt"),
        layout=layouts.slot_lines,
        files=("{language}/{split}.tsv", "{split}_{LANGUAGE}.tsv"),
        metric_fns=(metrics.joint,),
        on_unknown_label="wrong",
    ),
    LabelledSet(
        "xsid",
        kind="joint",
        languages=("en", "ar", "de", "it", "ja"),
        layout=layouts.slot_lines,
        files=("{language}/{split}.tsv",),
        metric_fns=(metrics.joint,),
        on_unknown_label="wrong",
    ),
    LabelledSet(
        "mtop",
        kind="generation",
        languages=("en", "fr", "de", "es", "hi"),
        layout=layouts.parse_lines,
        files=("{language}/{split}.tsv", "{language}/{split}.txt"),
        form=POINTERS,
        metric_fns=(metrics.sciem,),
    ),
    LabelledSet(
        "xsum",
        kind="generation",
        languages=("en",),
        layout=layouts.summary_lines,
        files=("{split}.jsonl",),
        tfds=tfds_sets.XSUM,
        metric_fns=(metrics.rouge,),
    ),
    LabelledSet(
        "scitldr",
        kind="generation",
        languages=("en",),
        layout=layouts.summary_lines,
        files=("{split}.jsonl",),
        metric_fns=(metrics.rouge,),
    ),
    # Translation from and to English: en-de reads English and writes German.
    LabelledSet(
        "ntrex",
        kind="generation",
        languages=(
            *(f"en-{language}" for language in TWELVE[1:]),
            *(f"{language}-en" for language in TWELVE[1:]),
        ),
        layout=layouts.aligned_lines,
        files=("{split}.{language}.txt",),
        metric_fns=(metrics.bleu, metrics.chrf),
    ),
)

register_sets(SETS)
