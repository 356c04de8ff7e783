# SPDX-License-Identifier: Apache-2.0
"""Embedding on this machine: pictures in, a folder of part files out."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import as_bool, as_int
from ..files import locked
from ..transforms import (
    ImageError,
    NotTaken,
    Transform,
    create_transform,
    images_of,
    resolve_data_config,
    sources_of,
    stream,
)
from .embedder import Embedder, about
from .known import Known
from .parts import Part, remove_stale, write_part
from .rows import Rows, Stamp, need_pyarrow, stamp_of, text


def list_images(
    data: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    not_taken: NotTaken | None = None,
    null: bool = False,
) -> Iterator[str]:
    """The pictures of a folder, or of a text file with one path a line, or a picture.

    data: one, or several in their order; ``-`` is the list on stdin. not_taken: as
    `transforms.find_images` has it. null: paths in a list end in a NUL byte. Relative
    paths in a list are relative to the working directory. Raises OSError for what
    cannot be read, ValueError where there is no picture in one of them.
    """
    several = [data] if isinstance(data, (str, os.PathLike)) else data
    paths = (os.fspath(path) for path in several)
    return images_of(paths, not_taken=not_taken, null=null)


def paths_of(images: Any) -> Iterator[str]:
    """The paths of pictures as text, in order, each as it is asked for.

    images: a folder or a list of paths in a file, as `list_images` takes it; a list or
    whatever else gives paths. TypeError for what is no path, which a job needs to find
    a picture again: of a list before the first is given.
    """
    if isinstance(images, (str, os.PathLike)):
        found = list_images(images)
        return itertools.chain([next(found)], found)  # an error comes now, if any
    pictures = sources_of(images).pictures
    if isinstance(pictures, list):
        return iter([_path(picture) for picture in pictures])
    return map(_path, pictures)


def _path(picture: Any) -> str:
    name = os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else picture
    if not isinstance(name, str):
        raise TypeError(
            f"images: {type(picture).__name__}, allowed are paths, by which the next "
            "run finds a picture's row; model.embed(images) takes pictures of any kind"
        )
    return name


class Summary(NamedTuple):
    """What a run came to, row by row."""

    rows: int  # pictures listed
    failed: int  # those that cannot be read
    resumed: int  # those whose row an earlier run had made, and this one kept
    replaced: int  # those that are others than when their row was made: made again
    missing: int  # those that are not there now; what an earlier run made is kept
    unlisted: int  # rows of pictures that are not listed: kept, or deleted by `prune`


def embed_images(
    model: Any,
    images: Any,
    output: str | os.PathLike[str],
    *,
    pools: str | Iterable[str] | None = None,
    transform: Transform | None = None,
    batch_size: int = 32,
    num_workers: int | None = None,
    part_size: int = 2048,
    prune: bool = False,
    strict: bool = False,
    progress: Callable[[int], Any] = lambda rows: None,
    report: Callable[[str, str], Any] = lambda path, reason: None,
) -> Summary:
    """Write the embeddings of pictures to a folder of parts.

    images: paths, or what `list_images` takes: a folder, a text file with one path a
    line. pools: default the model's own. transform: default the model's. strict: raise
    ImageError at the first picture that cannot be read, instead of keeping its reason.
    progress(n) is called as rows are done, report(path, reason) for each failure.

    Given pictures again it goes on where it was stopped. A row is found by its path,
    wherever the picture is listed: rows that failed are made again, and those of
    pictures whose file has another size or time than it had; new pictures' rows follow
    those that are there. Rows of pictures that are not listed stay, unless prune.
    Stopped at any moment, the folder has every row that was written.

    Raises TypeError for what is no path, ValueError where the folder holds parts of
    another model, other pools or pixels, or Parquet files that are no parts.
    """
    need_pyarrow()
    names = paths_of(images)
    part_size = as_int(part_size, "part_size", 1)
    prune, strict = as_bool(prune, "prune"), as_bool(strict, "strict")
    transform = transform or create_transform(**resolve_data_config(model))
    embedder = Embedder(model, pools)
    run = embedder.identity(transform)
    meta = {"run": run, **about(embedder.model)}
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    total, failed, replaced, missing = 0, 0, 0, 0
    again: dict[int, tuple[str, Stamp]] = {}  # rows to be made once more
    waiting: deque[Part] = deque()  # whose rows are on their way, in order

    def fresh() -> Iterator[tuple[str, Stamp]]:
        """The pictures that have no row; of the others, looks whether it stays."""
        nonlocal total, replaced, missing
        for path in names:
            total += 1
            stamp = stamp_of(path)  # before it is read: a later change will be seen
            row = known.find(text(path))
            if row is None:
                yield path, stamp
            elif known.failed(row):
                again[row] = path, stamp
            elif stamp is not None and not known.is_of(row, stamp):
                again[row] = path, stamp
                replaced += 1
            else:
                missing += stamp is None
                progress(1)

    def begin(part: Path, places: Sequence[int], pictures: Any) -> Iterator[str]:
        waiting.append(Part(part, places, [stamp for _, stamp in pictures]))
        return (path for path, _ in pictures)

    def todo() -> Iterator[str]:
        pictures = fresh()
        for part, first, room in known.room(part_size):
            added = list(itertools.islice(pictures, room))
            if not added:
                break
            yield from begin(part, range(first, first + len(added)), added)
        for part, rows, places in known.by_part(sorted(again)):
            yield from begin(part, places, [again[row] for row in rows])

    with locked(folder):
        remove_stale(folder)
        known = Known(folder, run)
        made = Rows(embedder)
        for batch in stream(
            todo(), transform, batch_size=batch_size, num_workers=num_workers
        ):
            for index, reason in batch.errors.items():
                report(batch.sources[index], reason)
                if strict:
                    raise ImageError(batch.sources[index], reason)
            failed += len(batch.errors)
            made.add(batch, embedder(batch.inputs))
            while waiting and made.count >= len(waiting[0].places):
                part = waiting.popleft()
                write_part(part, made.take(part.stamps), meta)
            progress(len(batch.sources))
        unlisted = known.unlisted()
        if prune:
            known.delete(unlisted, meta)
    resumed = int(known.listed.sum()) - len(again)
    return Summary(total, failed, resumed, replaced, missing, len(unlisted))
