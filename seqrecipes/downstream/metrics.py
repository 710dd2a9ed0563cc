"""Scores of predictions against references, in percent.

All are seqio-style metric functions: from a list of targets and a list of predictions, one of each
per example, to {name: value}. The counting is that of the field's own libraries (seqeval,
scikit-learn, rouge-score, sacrebleu), so that figures compare with published ones; only the exact
match of semantic parses has no library. All raise UserError for no examples at all, and ValueError
for lists whose lengths differ, since that is a mistake of the caller.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seqrecipes.errors import UserError

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric, Signature

Tags = Sequence[str]

_ROUGE = ("rouge1", "rouge2", "rougeL")


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Share of equal labels: {'accuracy'}."""
    from sklearn.metrics import accuracy_score

    _check(targets, predictions)
    return {"accuracy": 100 * float(accuracy_score(list(targets), list(predictions)))}


def entity_f1(targets: Sequence[Tags], predictions: Sequence[Tags]) -> dict[str, float]:
    """F1 of whole entities over all examples: {'f1'}.

    An entity counts if its type and both its borders are right; the tag O counts for nothing.
    The tags are BIO, and an I- without a B- before it opens an entity too, as in conlleval. No
    entity predicted is an f1 of 0.

    Args:
      targets: the tags of every word.
      predictions: as many; O for a word that the model never saw, so that cut-off entities are
        missed rather than left out.
    """
    _check(targets, predictions)
    _check_words(targets, predictions)
    return {"f1": _seqeval_f1(targets, predictions)}


def tag_f1(targets: Sequence[Tags], predictions: Sequence[Tags]) -> dict[str, float]:
    """Scores of part-of-speech tags, which are no BIO tags: {'f1', 'accuracy'}.

    `accuracy` is the share of words with the right tag. `f1` exists to compare with published
    figures: XTREME (Hu et al. 2020) gives the bare tags to seqeval, which takes the first letter
    for the B or I of a tag and the others for its type. So a run of one tag is one chunk (but not
    of SYM or SCONJ, nor across sentences), CCONJ and SCONJ are of one type, an X that ends a
    sentence is no chunk, and one that begins a sentence starts where the chunk before it did.

    Args:
      targets: the tag of every word.
      predictions: as many; O, which is no such tag, for a word that the model never saw.
    """
    from seqeval.metrics import accuracy_score

    _check(targets, predictions)
    _check_words(targets, predictions)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* seems not to be NE tag")
        f1 = _seqeval_f1(targets, predictions)
    exact = accuracy_score([list(tags) for tags in targets], [list(tags) for tags in predictions])
    return {"f1": f1, "accuracy": 100 * float(exact)}


def joint(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Intents and slots: {'intent_accuracy', 'slot_f1'}.

    Args:
      targets: {'intent': label, 'tags': BIO tags of every word} each.
      predictions: the same.
    """
    _check(targets, predictions)
    slots = entity_f1([each["tags"] for each in targets], [each["tags"] for each in predictions])
    intents = accuracy(
        [each["intent"] for each in targets], [each["intent"] for each in predictions]
    )
    return {"intent_accuracy": intents["accuracy"], "slot_f1": slots["f1"]}


def sciem(targets: Sequence[str], predictions: Sequence[str | None]) -> dict[str, float]:
    """Space- and case-insensitive exact match of Rosenbaum et al. 2022 (CLASP): {'sciem'}.

    Args:
      targets: parses.
      predictions: parses; None is wrong, for an output that stands for no parse.
    """
    _check(targets, predictions)
    right = sum(
        prediction is not None and _bare(target) == _bare(prediction)
        for target, prediction in zip(targets, predictions, strict=True)
    )
    return {"sciem": 100 * right / len(targets)}


def rouge(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """F-measures of shared words, word pairs and subsequences: {'rouge1', 'rouge2', 'rougeL'}.

    The mean over examples. rouge-score stems words and knows no letters but a-z and digits, so
    these are scores of English.

    Args:
      targets: a reference, or several, of which each score takes the best.
      predictions: a text each.
    """
    from rouge_score.rouge_scorer import RougeScorer

    _check(targets, predictions)
    scorer = RougeScorer(_ROUGE, use_stemmer=True)
    sums = dict.fromkeys(_ROUGE, 0.0)
    for references, prediction in zip(_references(targets), predictions, strict=True):
        for name, score in scorer.score_multi(references, prediction).items():
            sums[name] += score.fmeasure
    return {name: 100 * value / len(targets) for name, value in sums.items()}


def bleu(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """BLEU of the corpus by sacreBLEU, mixed case, tokenised by its 13a: {'bleu'}.

    That tokeniser leaves text without spaces, such as Japanese, in one piece: see `chrf` there.

    Args:
      targets: a translation, or several.
      predictions: a text each.
    """
    return {"bleu": _sacrebleu(_bleu(), targets, predictions)}


def chrf(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """chrF2 of the corpus by sacreBLEU, over character n-grams: {'chrf'}."""
    return {"chrf": _sacrebleu(_chrf(), targets, predictions)}


def signatures(targets: Sequence[str | Sequence[str]]) -> dict[str, str]:
    """What sacreBLEU wants to be cited beside a score of these targets, by metric."""
    found = {}
    for name, metric in (("bleu", _bleu()), ("chrf", _chrf())):
        _sacrebleu(metric, targets, [""] * len(targets))
        signature: Signature = metric.get_signature()
        found[name] = signature.format()
    return found


def _bleu() -> Metric:
    from sacrebleu.metrics import BLEU

    return BLEU()


def _chrf() -> Metric:
    from sacrebleu.metrics import CHRF

    return CHRF()


def _sacrebleu(
    metric: Metric, targets: Sequence[str | Sequence[str]], predictions: Sequence[str]
) -> float:
    """Its streams hold the first reference of every example, the second, ...; None where none."""
    _check(targets, predictions)
    references = _references(targets)
    most = max(map(len, references))
    streams: list[list[Any]] = [
        [each[n] if n < len(each) else None for each in references] for n in range(most)
    ]
    return float(metric.corpus_score(list(predictions), streams).score)


def _seqeval_f1(targets: Sequence[Tags], predictions: Sequence[Tags]) -> float:
    """seqeval takes lists alone; with `zero_division` named it does not warn of no entities."""
    from seqeval.metrics import f1_score

    score = f1_score(
        [list(tags) for tags in targets], [list(tags) for tags in predictions], zero_division=0
    )
    return 100 * float(score)


def _references(targets: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """Every example's own, none without."""
    found = [[target] if isinstance(target, str) else list(target) for target in targets]
    for number, references in enumerate(found):
        if not references:
            raise UserError(f"references of example {number}", references, "needs at least one")
    return found


def _bare(text: str) -> str:
    return re.sub(r"\s", "", text).casefold()


def _check(targets: Sequence[object], predictions: Sequence[object]) -> None:
    if len(targets) != len(predictions):
        shorter = min(len(targets), len(predictions))
        raise ValueError(
            f"{len(targets)} targets and {len(predictions)} predictions: example {shorter} "
            "(counted from 0) has only one of the two"
        )
    if not targets:
        raise UserError("examples", 0, "nothing to score: the set is empty in this language")


def _check_words(targets: Sequence[Tags], predictions: Sequence[Tags]) -> None:
    for number, (target, prediction) in enumerate(zip(targets, predictions, strict=True)):
        if len(target) != len(prediction):
            raise ValueError(
                f"example {number} (counted from 0) has {len(target)} words and "
                f"{len(prediction)} predicted tags"
            )
