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

    Yields as it goes, so memory does not grow with the number of pictures; a folder's
    own files come before its subfolders'. Raises OSError for one that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders.sort(key=lambda name: (natural_key(name), name))
        for name in sorted(files, key=lambda name: (natural_key(name), name)):
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                yield os.path.join(root, name)
