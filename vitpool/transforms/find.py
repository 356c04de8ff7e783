# SPDX-License-Identifier: Apache-2.0
"""Pictures in a folder, or in a list of paths; and what is in there beside them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TextIO

from ..text import natural_key, printable, some
from .read import HEIF_SUFFIXES, reads_heif

# What a folder is searched for. Files that are named one by one may have any name.
SUFFIXES = {
    *(".apng", ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
}


class NotTaken:
    """What a search for pictures did not take, counted by the reason.

    Its text is for one line: ``12 .txt, 3 .heic (no decoder: pip install pillow-heif),
    1 folder (Permission denied), 4 hidden``. False where nothing was left out.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        counts = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return some(
            f"{count} {printable(what)}".replace("(s)", "" if count == 1 else "s")
            for what, count in counts
        )

    def file(self, suffix: str) -> None:
        """A file of another kind."""
        if suffix in HEIF_SUFFIXES:
            suffix += " (no decoder: pip install pillow-heif)"
        self.counts[suffix or "without a suffix"] += 1


def has_suffix(path: str) -> bool:
    """Whether a name is that of a picture, be there a decoder for it or not."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix in SUFFIXES or suffix in HEIF_SUFFIXES


def find_images(
    folder: str | os.PathLike[str], *, not_taken: NotTaken | None = None
) -> Iterator[str]:
    """Walk a folder for pictures, by suffix, in natural order (img9 before img10).

    Yields as it goes: what it holds is the names in one folder, not the pictures of
    all. A folder's own files come before its subfolders'. A link to a folder is
    followed, unless the link lies in that folder. Hidden files and folders, whose names
    begin with a dot, are not taken.

    not_taken: takes account of all that is not taken. Raises OSError for a folder that
    cannot be read; with not_taken for the first one alone, and the others are in there.
    """
    account = NotTaken() if not_taken is None else not_taken
    top = os.fspath(folder)
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(top, ())]
    while pending:
        root, above = pending.pop()
        try:
            status = os.stat(root)
            here = status.st_dev, status.st_ino
            if here in above:
                account.counts["link(s) back to a folder above"] += 1
                continue
            files, folders = _content(root, account)
        except OSError as error:
            if not_taken is None or not above:
                raise
            account.counts[f"folder(s) ({error.strerror})"] += 1
            continue
        files.sort()
        for item in files:
            yield os.path.join(root, _name(item))
        folders.sort(reverse=True)
        pending += [(os.path.join(root, _name(f)), (*above, here)) for f in folders]


def _content(root: str, account: NotTaken) -> tuple[list[str], list[str]]:
    """The pictures and the folders in a folder, in any order."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(root) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                account.counts["hidden"] += 1
            elif _is_folder(entry):
                folders.append(_sortable(entry.name))
            elif suffix in SUFFIXES or (suffix in HEIF_SUFFIXES and reads_heif()):
                files.append(_sortable(entry.name))
            else:
                account.file(suffix)
    return files, folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _sortable(name: str) -> str:
    """A key and the name in one text: half the memory of a list with keys beside it."""
    return f"{natural_key(name)}\0{name}"


def _name(item: str) -> str:
    return item.rpartition("\0")[2]


def images_of(
    paths: Iterable[str],
    *,
    not_taken: NotTaken | None = None,
    null: bool = False,
    lists: bool = True,
) -> Iterator[str]:
    """The pictures of folders, of lists of paths, and those that are named themselves.

    A file is a list where its name is not that of a picture; with lists=False none is,
    but ``-``, which is the list on stdin. not_taken: as `find_images` has it. null:
    paths in a list end in a NUL byte. Raises OSError for what cannot be read,
    ValueError for a folder or a list without a picture, and for a file that is no list.
    """
    for path in paths:
        account = None if not_taken is None else NotTaken()
        if path == "-":
            stdin = 0 if os.name == "nt" else "/dev/stdin"
            found = listed_images(stdin, null=null)
        elif os.path.isdir(path):
            found = find_images(path, not_taken=account)
        elif lists and not has_suffix(path):
            found = listed_images(path, null=null)
        else:
            found = iter([path])
        first = next(found, None)
        if first is None:
            why = f" (not taken: {account})" if account else ""
            raise ValueError(f"{path}: no pictures in it{why}")
        yield first
        yield from found
        if not_taken is not None and account is not None:
            not_taken.counts += account.counts


def listed_images(
    path: str | os.PathLike[str] | int, *, null: bool = False
) -> Iterator[str]:
    """The paths in a text file or a pipe, one a line; 0: of what comes on stdin.

    null: each ends in a NUL byte, as `find -print0` writes them. Raises OSError for a
    file that cannot be read, ValueError for one that is no list.
    """
    # a list from Windows begins with a mark, and its lines end in \r\n
    with open(
        path, newline="\n", encoding="utf-8-sig", errors="surrogateescape"
    ) as file:
        if null:
            yield from filter(None, _ended(file))
            return
        for line in file:
            name = line.removesuffix("\n").removesuffix("\r")
            if "\0" in name:
                raise ValueError(f"{path}: neither a folder nor a text file of paths")
            if name:
                yield name


def _ended(file: TextIO) -> Iterator[str]:
    """What is between the NUL bytes of a file."""
    rest = ""
    while piece := file.read(1 << 16):
        *whole, rest = (rest + piece).split("\0")
        yield from whole
    yield rest
