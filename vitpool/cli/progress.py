# SPDX-License-Identifier: Apache-2.0
"""Batches of pictures under a bar on stderr, and the printing of results on stdout."""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..files import replacing
from ..text import json_text, printable
from .errors import StrictError, bars, say, write
from .options import make_transform

DELAY = 0.5  # seconds without a bar: what is done by then needs none


def print_text(line: str) -> None:
    """A line of a result on stdout, for eyes."""
    write(printable(line), sys.stdout)


def print_json(value: Any, indent: int | None = 2) -> None:
    """A result on stdout, for a program: ASCII alone where stdout has no more."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    write(json_text(value, indent, ascii=not unicode), sys.stdout)


@contextlib.contextmanager
def page_file(path: str | None) -> Iterator[BinaryIO | None]:
    """The file of --html: that it can be written is known before the work begins."""
    if path is None:
        yield None
    elif Path(path).is_dir():
        raise IsADirectoryError(f"--html: {path} is a folder")
    else:
        with replacing(Path(path)) as file:
            yield file


@contextlib.contextmanager
def progress(
    args: Any, total: int | None, unit: str, hide: bool = False
) -> Iterator[Any]:
    """A tqdm bar on stderr, which is gone at the end.

    None with --quiet, where stderr is no terminal or one without a cursor, and in the
    first half second.
    """
    from tqdm import tqdm

    hide = hide or args.quiet or os.environ.get("TERM") == "dumb"
    with tqdm(
        total=total,
        unit=unit,
        disable=True if hide else None,  # None: where stderr is no terminal
        file=sys.stderr,
        delay=DELAY,
        leave=False,
        dynamic_ncols=True,
        miniters=1,  # else a thread of tqdm's draws it, be a line half written or not
    ) as bar:
        shown = [] if bar.disable else [bar]
        bars.extend(shown)
        try:
            yield bar
        finally:
            for own in shown:
                bars.remove(own)


def _is_piped() -> bool:
    """Whether stdout goes to another program, which may write to our terminal."""
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):  # not a file of the system
        return False


def expand(paths: Sequence[str], null: bool = False) -> Iterator[str]:
    """Files as they are, folders as the pictures in them, `-` as the paths on stdin.

    At the end says what was not taken. null: the paths on stdin end in NUL bytes.
    """
    from ..transforms import NotTaken, images_of

    not_taken = NotTaken()
    yield from images_of(paths, not_taken=not_taken, null=null, lists=False)
    tell_not_taken(not_taken)


def tell_not_taken(not_taken: Any) -> None:
    """One line on what a search for pictures did not take, and why."""
    if not_taken:
        say(f"not taken: {not_taken}")


def batches(args: argparse.Namespace, model: Any, paths: list[str]) -> Iterator[Any]:
    """Batches of pictures; tells of those that cannot be read, or stops at one."""
    from ..transforms import stream

    transform = make_transform(args, model)
    with progress(args, len(paths), "picture", hide=_is_piped()) as bar:
        for batch in stream(
            paths, transform, batch_size=args.batch_size, num_workers=args.workers
        ):
            for index, reason in batch.errors.items():
                if args.strict:
                    raise StrictError(f"{batch.sources[index]}: {reason}")
                say(f"{batch.sources[index]}: {reason}; skipped")
            yield batch
            bar.update(len(batch.sources))
