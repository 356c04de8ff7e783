# SPDX-License-Identifier: Apache-2.0
"""Embedding on this machine: pictures in, a folder of part files out."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import as_int
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
from .parts import (
    Part,
    locked,
    numbers_in,
    part_path,
    plan,
    remove_stale,
    write_part,
)
from .rows import Rows, need_pyarrow, paths_of


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
    # a list from Windows begins with a mark, and its lines end in \r\n
    text: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape"}
    with open(path, newline="\n", **text) as file:
        for line in file:
            name = line.removesuffix("\n").removesuffix("\r")
            if "\0" in name:
                raise ValueError(f"{path}: neither a folder nor a text file of paths")
            if name:
                yield name


class Summary(NamedTuple):
    """What a run came to, the parts that were there already included."""

    rows: int
    failed: int
    resumed: int  # rows that an earlier run had made, and this one kept


def embed_images(
    model: Any,
    images: Iterable[str | os.PathLike[str]],
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

    Given the same pictures again it goes on where it was stopped, and tries those that
    failed once more; more pictures may follow. Raises ValueError where the folder holds
    parts of other pictures, of another model, other pools or pixels, and where there
    are parts of a longer list, or Parquet files that are no parts.
    """
    need_pyarrow()
    names = paths_of(images)
    part_size = as_int(part_size, "part_size", 1)
    transform = transform or create_transform(**resolve_data_config(model))
    embedder = Embedder(model, pools)
    run = {**embedder.identity(transform), "part_size": part_size}
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    total, failed, resumed, parts = 0, 0, 0, 0
    waiting: deque[Part] = deque()  # parts whose rows are on their way, in order

    def todo() -> Iterator[str]:
        nonlocal total, resumed, parts
        while paths := list(itertools.islice(names, part_size)):
            part = plan(part_path(folder, parts), total, paths, run)
            parts += 1
            total += part.rows
            resumed += part.rows - len(part.todo)
            progress(part.rows - len(part.todo))
            if part.todo:
                waiting.append(part)
                yield from (paths[row] for row in part.todo)

    with locked(folder):
        there = numbers_in(folder)
        remove_stale(folder)
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
            while waiting and rows.count >= len(waiting[0].todo):
                part = waiting.popleft()
                write_part(part, rows.take(len(part.todo)))
            progress(len(batch.sources))
    left = [part_path(folder, number).name for number in there if number >= parts]
    if left:
        raise ValueError(
            f"{folder}: {', '.join(left[:3])}{' ...' if left[3:] else ''} are of a "
            "longer list of pictures; delete them, or give another -o. All parts of "
            "this one are done"
        )
    return Summary(total, failed, resumed)
