"""Pre-training tasks: `<corpus>.<objective>` for every corpus and objective below.

To add a corpus, write a class with `languages`, `shards`, `documents` and `fingerprint` (see
`seqrecipes.data.corpora.corpus.Corpus`) or a function that makes one, and name it here; to add an
objective, name it likewise: `{**OBJECTIVES, "span_mask_30": SpanDenoise("mask", rate=0.3)}`.

Gin binds the vocabulary (`pretraining_vocabulary.path`), where text lies (`TextFiles.files`,
`ParallelFiles.files`, `wiki.data_dir`, `mc4.data_dir`) and the languages to read
(`wiki.languages`); see docs/corpora.md.
"""

from seqrecipes.data.corpora.parallel_files import ParallelFiles
from seqrecipes.data.corpora.sample import SampleCorpus, SampleParallel
from seqrecipes.data.corpora.text_files import TextFiles
from seqrecipes.data.corpora.union import Union
from seqrecipes.data.objectives import OBJECTIVES
from seqrecipes.data.seqio.tfds_text import mc4, wiki
from seqrecipes.data.tasks import register_tasks


def wiki_mc4() -> Union:
    """Wikipedia and mC4: the text of the Recipes paper (Soltan et al. 2023, section 2.2)."""
    return Union([wiki(), mc4()])


TEXTS = {
    "sample": SampleCorpus,
    "text": TextFiles,
    "wiki": wiki,
    "mc4": mc4,
    "wiki_mc4": wiki_mc4,
}

TRANSLATIONS = {
    "sample_parallel": SampleParallel,
    "parallel": ParallelFiles,
}

register_tasks(TEXTS, TRANSLATIONS, OBJECTIVES)
