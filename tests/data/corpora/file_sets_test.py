"""Which files patterns name, in which order, and how they are grouped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqrecipes.data.corpora.file_sets import find_files, group
from seqrecipes.data.corpora.lines import File
from seqrecipes.errors import UserError

SUFFIXES = (".txt", ".txt.gz")


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def names(*patterns: object) -> list[str]:
    return [file.name for file in find_files("f", [str(p) for p in patterns], SUFFIXES)]


def test_folders_are_read_with_their_subfolders(tmp_path):
    write(tmp_path, "b.txt", "a/c.txt.gz", "a/b.txt", "notes.md", ".hidden.txt", ".git/x.txt")
    assert names(tmp_path) == ["a/b.txt", "a/c.txt.gz", "b.txt"]


def test_names_are_relative_to_what_is_fixed(tmp_path):
    write(tmp_path, "a1/x.txt", "a2/x.txt", "a2/b/y.txt")
    assert names(f"{tmp_path}/a*/x.txt") == ["a1/x.txt", "a2/x.txt"]
    assert names(f"{tmp_path}/a2/**/*.txt") == ["b/y.txt", "x.txt"]
    assert names(f"{tmp_path}/a1/x.txt") == ["x.txt"]


def test_paths_in_the_current_folder(tmp_path, monkeypatch):
    write(tmp_path, "x.txt", "en/y.txt")
    monkeypatch.chdir(tmp_path)
    assert names("x.txt") == names("*.txt") == ["x.txt"]
    assert names("en") == ["y.txt"]


def test_patterns_keep_their_order_and_name_a_file_once(tmp_path):
    write(tmp_path, "z/1.txt", "a/2.txt", "a/1.txt")
    (tmp_path / "a/link.txt").symlink_to(tmp_path / "z/1.txt")
    found = find_files("f", [str(tmp_path / "z"), str(tmp_path / "a")], SUFFIXES)
    assert [str(file.path.relative_to(tmp_path)) for file in found] == [
        "z/1.txt",
        "a/1.txt",
        "a/2.txt",
    ]


def test_order_stays_when_folders_move(tmp_path):
    write(tmp_path, "a/1.txt", "b/2.txt")
    before = names(tmp_path / "a", tmp_path / "b")
    shutil.move(tmp_path / "a", tmp_path / "z")
    assert names(tmp_path / "z", tmp_path / "b") == before == ["1.txt", "2.txt"]


def test_links_to_folders_are_followed_once(tmp_path):
    write(tmp_path, "disk/x.txt", "en/y.txt")
    (tmp_path / "en/part").symlink_to(tmp_path / "disk")
    (tmp_path / "en/loop").symlink_to(tmp_path / "en")
    assert names(tmp_path / "en") == ["part/x.txt", "y.txt"]


def test_paths_with_characters_of_globs(tmp_path):
    write(tmp_path, "a[1]/x.txt", "a[1]/y*.txt", "a[1]/yy.txt")
    assert names(tmp_path / "a[1]") == ["x.txt", "y*.txt", "yy.txt"]
    assert names(tmp_path / "a[1]/y*.txt") == ["y*.txt"]


def test_what_is_known_of_a_file(tmp_path):
    write(tmp_path, "x.txt")
    os.utime(tmp_path / "x.txt", ns=(1, 2))
    assert find_files("f", str(tmp_path), SUFFIXES) == [
        File("f", tmp_path / "x.txt", "x.txt", size=5, mtime_ns=2)
    ]


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("pdf", "no .txt, .txt.gz file in this folder; it holds a.pdf, b.pdf."),
        ("empty", "it holds nothing"),
        ("many", "it holds 0.pdf, 1.pdf, 2.pdf, 3.pdf, 4.pdf, ..."),
        ("pdf/a.pdf", "a.pdf': files must end in .txt, .txt.gz"),
        ("*/*.pdf", ".pdf': files must end in .txt, .txt.gz"),
        ("nothing.txt", "no such file or folder"),
        ("nothing/*.txt", "no such file or folder"),
        ("dangling", "x.txt': cannot be read: No such file"),
        ("dangling/x.txt", "x.txt': cannot be read: No such file"),
        (None, "name a folder or a glob"),
        ("", "name a folder or a glob"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, pattern, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "pdf/a.pdf", "pdf/b.pdf", *(f"many/{i}.pdf" for i in range(9)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling/x.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError) as error:
        find_files("f", [] if pattern is None else pattern, SUFFIXES)
    assert error.value.field == "f" and message in str(error.value)


def test_folders_that_cannot_be_listed_are_not_passed_over(tmp_path, monkeypatch):
    write(tmp_path, "a/x.txt", "locked/y.txt")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"locked': cannot be read: Permission denied"):
        find_files("f", str(tmp_path), SUFFIXES)


@given(st.lists(st.integers(0, 9)), st.integers(1, 20))
def test_shards_are_just_large_enough(sizes, shard_bytes):
    units = [(File("f", Path(str(i)), str(i), size, 0),) for i, size in enumerate(sizes)]
    shards = group(units, shard_bytes)
    assert [unit for shard in shards for unit in shard] == units
    totals = [[file.size for (file,) in shard] for shard in shards]
    assert all(sum(t) >= shard_bytes for t in totals[:-1])
    assert all(t and sum(t[:-1]) < shard_bytes for t in totals)


def test_files_of_a_unit_stay_together():
    files = [File("f", Path(str(i)), str(i), size, 0) for i, size in enumerate((3, 4, 1, 1, 9, 9))]
    a, b, c = (files[0], files[1]), (files[2], files[3]), (files[4], files[5])
    assert group([a, b, c], 8) == [[a, b], [c]]
    assert group([a, b, c], 7) == [[a], [b, c]]
    assert group([a, b, c], 1) == [[a], [b], [c]]
    assert group([], 7) == []
