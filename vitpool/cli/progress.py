# SPDX-License-Identifier: Apache-2.0
"""Batches of pictures under a bar on stderr, and the printing of results on stdout."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..text import json_text, printable
from .errors import StrictError
from .options import make_transform


def print_text(line: str) -> None:
    """A line of a result on stdout, for eyes."""
    print(printable(line))


def print_json(value: Any, indent: int | None = 2) -> None:
    """A result on stdout, for a program."""
    print(json_text(value, indent))


def note(line: str) -> None:
    """A line on stderr, above the bar."""
    from tqdm import tqdm

    with contextlib.suppress(BrokenPipeError):
        tqdm.write(printable(f"vitpool: {line}"), file=sys.stderr)


def expand(paths: Sequence[str]) -> Iterator[str]:
    """Files as they are, folders as the pictures in them."""
    from ..transforms import find_images

    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        found = False
        for picture in find_images(path):
            found = True
            yield picture
        if not found:
            raise FileNotFoundError(f"{path}: no pictures in this folder")


def progress(items: Iterable[Any], args: Any, total: int | None, unit: str) -> Any:
    """A tqdm bar on stderr; none where stderr is no terminal, or with --quiet."""
    from tqdm import tqdm

    hide = True if args.quiet else None
    return tqdm(items, total=total, unit=unit, disable=hide, file=sys.stderr)


def batches(args: argparse.Namespace, model: Any, paths: list[str]) -> Iterator[Any]:
    """Batches of pictures; tells of those that cannot be read, or stops at one."""
    from ..transforms import stream

    transform = make_transform(args, model)
    with progress((), args, len(paths), "picture") as bar:
        for batch in stream(
            paths, transform, batch_size=args.batch_size, num_workers=args.workers
        ):
            for index, reason in batch.errors.items():
                if args.strict:
                    raise StrictError(f"{batch.sources[index]}: {reason}")
                note(f"{batch.sources[index]}: {reason}; skipped")
            yield batch
            bar.update(len(batch.sources))
