"""Names in output folders, and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from seqrecipes.errors import UserError

# Of a finished seed of a fine-tuning, in its folder.
SCORES_FILE = "scores.json"


@contextlib.contextmanager
def whole_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new folder to fill; it gets its name when the block ends well, else it is removed.

    Raises:
      UserError: the name is taken.
    """
    if folder.exists():
        raise UserError("OUT_DIR", str(folder), "exists already; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's own is private
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
