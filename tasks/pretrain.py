"""Pre-training tasks: `<corpus>.<objective>` for every corpus and objective below.

To add a corpus, write a class with `languages`, `documents` and `fingerprint` (see
`seqrecipes.data.corpora.Corpus`) and name it here; to add an objective, name it likewise:
`{**OBJECTIVES, "span_mask_30": SpanDenoise("mask", rate=0.3)}`. The vocabulary is bound in gin
(`pretraining_vocabulary.path`), and so are the user's own files (`TextFiles.files`).
"""

from seqrecipes.data.corpora import SampleCorpus, TextFiles
from seqrecipes.data.objectives import OBJECTIVES
from seqrecipes.data.tasks import register_tasks

CORPORA = {
    "sample": SampleCorpus,
    "text": TextFiles,
}

register_tasks(CORPORA, OBJECTIVES)
