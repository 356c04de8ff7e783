# SPDX-License-Identifier: Apache-2.0
"""Embedding on this machine: pictures in, a folder of part files out."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..transforms import (
    SUFFIXES,
    ImageError,
    Transform,
    create_transform,
    find_images,
    resolve_data_config,
    stream,
)
from .embedder import Embedder
from .parts import Part, digest_of, locked, metadata_of, write_part
from .rows import Rows, need_pyarrow


def list_images(data: str | os.PathLike[str]) -> Iterator[str]:
    """The pictures of a folder, or of a text file with one path a line.

    Relative paths in a list are relative to the working directory. Raises OSError for
    what cannot be read, ValueError where there is no picture.
    """
    text = os.fspath(data)
    if os.path.isdir(text):
        paths: Iterator[str] = find_images(text)
    elif os.path.splitext(text)[1].lower() in SUFFIXES:
        paths = iter([text])
    else:
        paths = _lines(text)
    first = next(paths, None)
    if first is None:
        raise ValueError(f"{text}: no pictures in it")
    yield first
    yield from paths


def _lines(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            name = line.rstrip("\r\n")
            if "\0" in name:
                raise ValueError(f"{path}: neither a folder nor a text file of paths")
            if name:
                yield name


class Summary(NamedTuple):
    """What a run came to, the parts that were there already included."""

    rows: int
    failed: int
    resumed: int  # rows that an earlier run had finished


def embed_images(
    model: Any,
    images: Iterable[str],
    output: str | os.PathLike[str],
    *,
    pools: Sequence[str] | None = None,
    transform: Transform | None = None,
    batch_size: int = 32,
    num_workers: int | None = None,
    part_size: int = 2048,
    strict: bool = False,
    progress: Callable[[int], Any] = lambda rows: None,
    report: Callable[[str, str], Any] = lambda path, reason: None,
) -> Summary:
    """Write the embeddings of pictures (paths, in a fixed order) to a folder of parts.

    pools: default the model's own. transform: default the model's. strict: raise
    ImageError at the first picture that cannot be read, instead of keeping its reason.
    progress(n) is called as rows are done, report(path, reason) for each failure.

    Given the same pictures again it goes on where it was stopped. Raises ValueError
    where the folder holds parts of other pictures, weights, pools or pixels.
    """
    need_pyarrow()
    if part_size < 1:
        raise ValueError(f"part_size: {part_size}, allowed is 1 or more")
    transform = transform or create_transform(**resolve_data_config(model))
    embedder = Embedder(model, pools)
    run = {**embedder.identity(transform), "part_size": part_size}
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    total, failed, resumed = 0, 0, 0
    waiting: deque[Part] = deque()  # parts whose rows are on their way, in order

    def todo() -> Iterator[str]:
        nonlocal total, failed, resumed
        names = iter(images)
        for number in itertools.count():
            paths = list(itertools.islice(names, part_size))
            if not paths:
                return
            meta = {"run": run, "rows": len(paths), "paths": digest_of(paths)}
            path = folder / f"part-{number:06d}.parquet"
            part = Part(number, path, total, paths, meta)
            total += len(paths)
            there = metadata_of(part)
            if there is None:
                waiting.append(part)
                yield from paths
            else:
                resumed += len(paths)
                failed += there["failed"]
                progress(len(paths))

    with locked(folder):
        for stale in folder.glob(".part-*.tmp"):
            stale.unlink()
        rows = Rows(embedder)
        for batch in stream(
            todo(), transform, batch_size=batch_size, num_workers=num_workers
        ):
            for index, reason in batch.errors.items():
                report(batch.sources[index], reason)
                if strict:
                    raise ImageError(batch.sources[index], reason)
            failed += len(batch.errors)
            rows.add(batch, embedder(batch.inputs))
            while waiting and rows.count >= len(waiting[0].paths):
                part = waiting.popleft()
                finished, bad = rows.take(len(part.paths))
                part.meta["failed"] = bad
                write_part(part, finished)
            progress(len(batch.sources))
    return Summary(total, failed, resumed)
