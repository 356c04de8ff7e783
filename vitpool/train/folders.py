# SPDX-License-Identifier: Apache-2.0
"""Labelled pictures from a folder of class folders, and from a CSV."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from typing import Any

from ..text import did_you_mean, natural_key, printable, some
from ..transforms import NotTaken, find_images
from ..transforms.find import has_suffix
from .data import Pictures

# A CSV's first row is a header where one of these is in it; they are names of columns
# in any case.
_PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")
_LABELS = ("label", "class", "class_name", "category", "target")


class PictureFolder(Pictures):
    """A folder with a folder of pictures for each class, whose name is the class.

    The classes are in natural order (9 before 10), as timm has them; the pictures are
    found as `find_images` does, in subfolders of a class's folder too. Hidden folders
    are none. `not_taken` tells what is in there beside pictures of classes.

    classes: the names that are allowed, in the order of their numbers: for pictures
    that are held out, those of the training data. A class may then have no folder.
    options: as `Pictures` takes them.

    OSError: a folder that cannot be read. ValueError: no class folders, one only, one
    without a picture, or one that is none of `classes`.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        classes: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        self.root = os.fspath(root)
        self.not_taken = NotTaken()
        names, beside = _class_folders(self.root, self.not_taken)
        if not names:
            lies = f"; its {beside} pictures are in no class" if beside else ""
            raise ValueError(
                f"{self.root}: no class folders in it, each with the pictures of one "
                f"class{lies}"
            )
        _refuse_unknown(names, classes, self.root)
        paths: list[str] = []
        labels: list[int] = []
        empty: list[str] = []
        known = list(names if classes is None else classes)
        for name in names:
            account = NotTaken()
            found = list(find_images(os.path.join(self.root, name), not_taken=account))
            if not found:
                empty.append(f"{name} (not taken: {account})" if account else name)
            self.not_taken.counts += account.counts
            paths += found
            labels += [known.index(name)] * len(found)
        if empty:
            raise ValueError(
                f"{self.root}: class folders without a picture: "
                f"{printable(some(empty))}"
            )
        super().__init__(paths, labels, known, **options)


class PictureList(Pictures):
    """The pictures of a CSV of path and label; paths are relative to its folder.

    A first row in which one field is 'path' (or 'file', 'filename', 'file_name',
    'filepath', 'image', 'image_path', in any case) is a header: the pictures are in
    that column, their classes in the column 'label' (or 'class', 'class_name',
    'category', 'target'), and other columns are not read. Without a header there are
    two columns: path, then label. Labels are names, of whatever kind, and the classes
    are they in natural order.

    classes: as `PictureFolder` takes it; options: as `Pictures` takes them.

    OSError: a file that cannot be read. ValueError, with the line: a row with another
    number of fields, an empty path or label, a path that comes twice with two labels,
    a label that is none of `classes`; a file without a row.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        classes: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        self.path = os.fspath(path)
        rows = _rows(self.path)
        names = _ordered({name for _, name in rows})
        _refuse_unknown(names, classes, self.path)
        known = list(names if classes is None else classes)
        number = {name: label for label, name in enumerate(known)}
        folder = os.path.dirname(self.path)
        super().__init__(
            [os.path.join(folder, file) for file, _ in rows],
            [number[name] for _, name in rows],
            known,
            **options,
        )


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (natural_key(name), name))


def _class_folders(root: str, account: NotTaken) -> tuple[list[str], int]:
    """The names of class folders, and how many pictures lie beside them."""
    names: list[str] = []
    beside = 0
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                account.counts["hidden"] += 1
            elif os.path.isdir(entry.path):
                names.append(entry.name)
            elif has_suffix(entry.name):
                beside += 1
            else:
                account.file(os.path.splitext(entry.name)[1].lower())
    if beside:
        account.counts["picture(s) outside of the class folders"] += beside
    return _ordered(names), beside


def _refuse_unknown(
    names: Iterable[str], classes: Sequence[str] | None, where: str
) -> None:
    if classes is None:
        return
    for name in names:
        if name not in classes:
            raise ValueError(
                f"{where}: class {name!r} is none of those that are known"
                f"{did_you_mean(name, classes)} ({some(classes)})"
            )


def _rows(path: str) -> list[tuple[str, str]]:
    """(path, label) of each row of a CSV."""
    rows: list[tuple[str, str]] = []
    columns: tuple[int, int] = (0, 1)
    width = 2
    labels: dict[str, tuple[str, int]] = {}
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.reader(file)
        try:
            for place, row in enumerate(row for row in reader if row):
                where = f"{path}, line {reader.line_num}"
                if "\0" in "".join(row):
                    raise ValueError(f"{where}: not a text file of path and label")
                fields = [field.strip() for field in row]
                lower = [field.lower() for field in fields]
                if place == 0 and not set(_PATHS).isdisjoint(lower):
                    columns = (
                        _column(_PATHS, lower, where),
                        _column(_LABELS, lower, where),
                    )
                    width = len(fields)
                    continue
                if len(fields) != width:
                    raise ValueError(
                        f"{where}: {len(fields)} fields, allowed are "
                        + ("path, label" if width == 2 else f"{width}, as the header")
                    )
                file_name, label = fields[columns[0]], fields[columns[1]]
                if not file_name or not label:
                    raise ValueError(f"{where}: no {'label' if file_name else 'path'}")
                before = labels.setdefault(file_name, (label, reader.line_num))
                if before[0] != label:
                    raise ValueError(
                        f"{where}: {file_name!r} is {label!r}, and in line {before[1]} "
                        f"it is {before[0]!r}"
                    )
                rows.append((file_name, label))
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {reader.line_num}: not a CSV of path and label: {error}"
            ) from error
    if not rows:
        raise ValueError(f"{path}: no row of path and label")
    return rows


def _column(names: tuple[str, ...], header: list[str], where: str) -> int:
    found = [place for place, name in enumerate(header) if name in names]
    if len(found) != 1:
        raise ValueError(
            f"{where}: {len(found)} columns of {', '.join(names)} in the header "
            f"{printable(some(header))}, allowed is one"
        )
    return found[0]
