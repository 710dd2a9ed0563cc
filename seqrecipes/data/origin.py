"""What a run's folder was made from: its vocabulary, and the text that was packed.

Both are compared before anything is trained, so that a changed setting, or text that became
another, is refused instead of ignored because what was made from it is already there.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from seqrecipes.data import pieces
from seqrecipes.data.blocks import MANIFEST
from seqrecipes.data.corpora.corpus import Corpus
from seqrecipes.errors import UserError
from seqrecipes.folders import tidy, write_file

log = logging.getLogger(__name__)

ORIGIN_FILE = "spm.json"
_NAMED = 5
# Characters of text for each id with which SentencePiece finds pieces enough: it takes 12 of many
# languages' short texts, 300 of one language's Bible.
_AMPLE = 500
_LONG = 20_000_000  # characters, with which training takes about a minute


@dataclasses.dataclass(frozen=True)
class RunVocabulary:
    """The vocabulary of a run: a file that its recipe names, or one that is trained on its text.

    Attributes:
      path: the file, there or not.
      folder: of the run's own vocabulary: `path` is in it, or is copied there.
      corpus: the run's text.
      settings: {field of the recipe: value} of what decides a vocabulary that is trained, beside
        the text; None where the recipe names a file.
      sentinels: how many a trained one has.
    """

    path: Path
    folder: Path
    corpus: Callable[[], Corpus]
    settings: Mapping[str, Any] | None
    sentinels: int

    def check(self) -> None:
        """Refuses a vocabulary that is there already and another one than the recipe asks for.

        Of a spm.model without anything beside it only the size is known.

        Raises:
          UserError: names the first setting that differs.
        """
        copy = self.folder / pieces.MODEL_NAME
        if not self.path.exists():
            return
        if self.settings is not None:
            self._check_settings(self.settings)
        if copy.exists() and copy.read_bytes() != self.path.read_bytes():
            remedy = f"{copy} is another one; restore it, {self._ways(self.folder)}"
            raise UserError("Recipe.vocabulary", str(self.path), remedy)

    def ensure(self) -> None:
        """Puts it into the folder: trained, after writing what from, or copied."""
        target = self.folder / pieces.MODEL_NAME
        tidy(self.folder)
        if target.exists():
            return
        if self.path != target:
            write_file(target, self.path.read_bytes())
        else:
            self._train(dict(self.settings or {}))

    def rehearse(self) -> None:
        """Trains one to be thrown away, if the text is short and may have too few pieces.

        Raises:
          UserError: the size does not suit the text.
        """
        from seqrecipes.data.corpora.corpus import texts

        if self.settings is None or self.path.exists():
            return
        corpus, left = self.corpus(), min(_LONG, _AMPLE * self.settings["vocabulary_size"])
        for language in corpus.languages:
            for text in texts(corpus, language, "train"):
                left -= len(text)
                if left < 0:
                    return
        with tempfile.TemporaryDirectory() as folder:
            dataclasses.replace(self, folder=Path(folder))._train(dict(self.settings))

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        file = self.path.with_name(ORIGIN_FILE)
        try:
            found = json.loads(file.read_text("utf-8"))
        except FileNotFoundError:
            found = {"vocabulary_size": pieces.specials(pieces.load(str(self.path))).vocab_size}
        except ValueError as error:
            remedy = f"is damaged ({error}); remove {file.parent}, and it is made again"
            raise UserError("MODEL_DIR", str(file), remedy) from error
        ways = self._ways(file.parent)
        for name, value in {**settings, "sentinels": self.sentinels}.items():
            if found.get(name, value) != value:
                remedy = f"{self.path} was trained with {found[name]!r}; restore it, {ways}"
                raise UserError(f"Recipe.{name}", value, remedy)
        text = found.get("corpus_fingerprint")
        if text is not None and text != self.corpus().fingerprint():
            remedy = f"was trained on other text; restore the text, {ways}"
            raise UserError("MODEL_DIR", str(self.path), remedy)

    def _train(self, settings: dict[str, Any]) -> None:
        from seqrecipes.data.vocabulary import sample_texts, train_vocabulary

        size, corpus = settings["vocabulary_size"], self.corpus()
        log.info(
            "training a vocabulary of %s ids, %s of them sentinels", f"{size:,}", self.sentinels
        )
        text = {"sentinels": self.sentinels, "corpus_fingerprint": corpus.fingerprint()}
        write_file(self.folder / ORIGIN_FILE, json.dumps(settings | text, indent=1) + "\n")
        train_vocabulary(
            sample_texts(corpus, settings["smoothing"]),
            size,
            self.folder,
            sentinels=self.sentinels,
            normalization=settings["normalization"],
            character_coverage=settings["character_coverage"],
            byte_fallback=settings["byte_fallback"],
        )

    @staticmethod
    def _ways(folder: Path) -> str:
        return (
            f"choose another MODEL_DIR, remove {folder} if nothing was trained with it, or name "
            f"the file itself: --gin.VOCABULARY=\"'{folder / pieces.MODEL_NAME}'\""
        )


def refuse_text(model_dir: Path, there: str, contents: Mapping[str, str]) -> NoReturn:
    """Says how the text differs from what a run was begun with, and how to go on.

    Args:
      model_dir: the run's folder; its `data` has what was packed.
      there: the fingerprint that the run was begun with.
      contents: of the text as it is now, see `Corpus.contents`.

    Raises:
      UserError: always; it names the files that differ.
    """
    before: Mapping[str, str] | None = None
    for manifest in sorted((model_dir / "data").glob(f"*/{MANIFEST}")):
        packed = json.loads(manifest.read_text("utf-8"))
        if packed["corpus_fingerprint"] == there:
            before = packed.get("contents")
    ways = "restore the text, or choose another folder"
    if before is None:
        raise UserError("MODEL_DIR", str(model_dir), f"was begun on other text; {ways}")
    changes = [f"{name} is gone" for name in before if name not in contents]
    changes += [f"{name} is new" for name in contents if name not in before]
    changes += [
        f"{name}: {before[name]} there, {contents[name]} now"
        if name == "settings"
        else f"{name} has other content"
        for name in before
        if name in contents and before[name] != contents[name]
    ]
    changes = changes or ["the same files in another order"]
    listed = "; ".join([*changes[:_NAMED], *(["..."] if changes[_NAMED:] else [])])
    raise UserError(
        "MODEL_DIR",
        str(model_dir),
        f"was begun on other text ({listed}); {ways}, or go on from what was packed, with "
        "these in place of flags for text: "
        f"--gin.PREPARED=\"'{model_dir / 'data'}'\" "
        f"--gin.VOCABULARY=\"'{model_dir / 'vocabulary' / pieces.MODEL_NAME}'\"",
    )
