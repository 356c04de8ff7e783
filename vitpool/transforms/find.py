# SPDX-License-Identifier: Apache-2.0
"""Pictures in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..text import natural_key

# What a folder is searched for. Files that are named one by one may have any name.
SUFFIXES = {
    *(".apng", ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
}


def find_images(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Walk a folder for pictures, by suffix, in natural order (img9 before img10).

    Yields as it goes: what it holds is the names in one folder, not the pictures of
    all. A folder's own files come before its subfolders'. A link to a folder is
    followed, unless the link lies in that folder. Raises OSError for a folder that
    cannot be read.
    """
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(os.fspath(folder), ())]
    while pending:
        root, above = pending.pop()
        status = os.stat(root)
        here = status.st_dev, status.st_ino
        if here in above:
            continue
        files: list[str] = []
        folders: list[str] = []
        with os.scandir(root) as entries:
            for entry in entries:
                if _is_folder(entry):
                    folders.append(_sortable(entry.name))
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                    files.append(_sortable(entry.name))
        files.sort()
        for item in files:
            yield os.path.join(root, _name(item))
        folders.sort(reverse=True)
        pending += [(os.path.join(root, _name(f)), (*above, here)) for f in folders]


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
