# SPDX-License-Identifier: Apache-2.0
"""The pictures of `vitpool finetune`, DATA and --val: listed, read, told apart."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..text import some
from .errors import StrictError, UsageError, say
from .progress import progress, tell_not_taken

if TYPE_CHECKING:
    from ..train import Pictures


def listed(args: argparse.Namespace) -> tuple[Pictures, Pictures | None]:
    """The pictures and classes of DATA and of --val, none of them read."""
    data = _pictures(args, args.data, None)
    judged = None if args.val is None else _pictures(args, args.val, data.classes)
    out = Path(args.output).resolve()
    for name in filter(os.path.isdir, (args.data, args.val or "")):
        if out.is_relative_to(Path(name).resolve()):
            raise UsageError(
                f"-o {args.output}: lies in {name}, whose folders are classes"
            )
    return data, judged


def _pictures(args: argparse.Namespace, name: str, classes: Any) -> Pictures:
    from ..train import PictureFolder, PictureList

    options = {"classes": classes, "num_workers": args.workers, "check": False}
    if not os.path.isdir(name):
        return PictureList(name, **options)
    found = PictureFolder(name, **options)
    tell_not_taken(found.not_taken)
    return found


def check_counts(
    args: argparse.Namespace, data: Pictures, judged: Pictures | None
) -> None:
    """UsageError where a class has too few pictures for what is asked."""
    least = 2 if judged is None and args.holdout else 1
    few = [
        f"{name} ({count})"
        for name, count in zip(data.classes, data.counts.tolist(), strict=True)
        if count < least
    ]
    if few:
        why = "one to train on and one to judge by" if least == 2 else "to train on"
        raise UsageError(
            f"{args.data}: classes with fewer than {least} pictures, {why}: {some(few)}"
        )


def digest_of(pictures: Pictures) -> str:
    """A text that changes with the pictures: their paths, files and classes."""
    told = hashlib.blake2b(digest_size=16)
    for path, label in zip(pictures.sources, pictures.labels, strict=True):
        try:
            stat = os.stat(path)
            stamp = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:  # which reading it will tell
            stamp = "?"
        name = os.fsencode(os.path.abspath(path))
        told.update(name + f"\0{label} {stamp}\0".encode())
    return told.hexdigest()


def unreadable(
    args: argparse.Namespace, data: Pictures, judged: Pictures | None
) -> dict[str, str]:
    """Paths of those that cannot be read, and why; they are said.

    StrictError at the first, unless --on-error skip.
    """
    from ..train import Pictures
    from ..transforms import ImageError

    skipped: dict[str, str] = {}
    for part in (data, judged):
        if part is None:
            continue
        with progress(args, len(part), "picture") as bar:
            bar.set_description("looking", refresh=False)
            try:
                checked = Pictures(
                    part.sources, part.labels, part.classes, num_workers=args.workers,
                    on_error="raise" if args.on_error == "stop" else "skip",
                    progress=bar,
                )  # fmt: skip
            except ImageError as error:
                raise StrictError(f"{error}; --on-error skip leaves it out") from error
        for path, reason in checked.skipped.items():
            skipped[os.path.abspath(path)] = reason
    return skipped


def without(data: Pictures, skipped: Mapping[str, str]) -> Pictures:
    """The pictures but for those of these paths."""
    if not skipped:
        return data
    paths = [os.path.abspath(path) for path in data.sources]
    return data.subset([i for i, path in enumerate(paths) if path not in skipped])


def shared(pictures: Pictures, judged: Pictures) -> list[str]:
    """A sentence on pictures that are trained on and judged by; it is said, too."""
    try:
        pictures.check_apart(judged)
    except ValueError as error:
        say(str(error))
        return [str(error)]
    return []
