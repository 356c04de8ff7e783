# SPDX-License-Identifier: Apache-2.0
"""Many pictures: one batch of them, or a stream of batches, decoded in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..config import as_int
from .config import resolve_data_config
from .read import reason_of
from .sources import sources_of
from .transform import Transform, create_transform

if TYPE_CHECKING:
    from .sequence import Patches


@overload
def preprocess(
    images: Any,
    config: Any = ...,
    *,
    num_workers: int | None = ...,
    max_seq_len: None = ...,
    **options: Any,
) -> NDArray[np.float32]: ...
@overload
def preprocess(
    images: Any,
    config: Any = ...,
    *,
    num_workers: int | None = ...,
    max_seq_len: int,
    patch_size: int | tuple[int, int] | None = ...,
    **options: Any,
) -> Patches: ...
def preprocess(
    images: Any,
    config: Any = None,
    *,
    num_workers: int | None = None,
    max_seq_len: int | None = None,
    patch_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> Any:
    """Many pictures to one batch, float32 (B, C, H, W), decoded in a thread pool.

    images: as `sources_of` takes them: one picture, a folder, or many of paths, bytes,
    open binary files, PIL images and uint8 arrays. config: a Transform, a model, a dict
    as `resolve_data_config` returns, or None. num_workers: decoding threads; default
    the processors, at most 8; 0 for none. options: overrides as in
    `resolve_data_config`, and `exif`.

    max_seq_len: pictures keep their shape and are cut into at most so many patches, of
    patch_size or the model's: a dict, which NaFlexVit takes, of `patches` (B, N,
    pixels), `patch_coord` (B, N, 2) and `patch_valid` (B, N), padded to the largest of
    them. See `SequenceTransform`.

    The first picture that cannot be read raises, and its name is in the message. Of an
    iterable that is no list, tuple or array, a picture that can change (a frame of a
    film) is read before the next one is asked for.
    """
    if isinstance(config, Transform):
        if options or max_seq_len is not None or patch_size is not None:
            raise TypeError("options cannot be given together with a Transform")
        transform = config
    else:
        sequence: dict[str, Any] = {}
        if max_seq_len is not None:
            sequence = _patch_options(config, patch_size, max_seq_len)
        elif patch_size is not None:
            raise ValueError("patch_size goes with max_seq_len alone")
        exif = bool(options.pop("exif", False))
        transform = create_transform(
            **resolve_data_config(config, **options), exif=exif, **sequence
        )
    pictures = sources_of(images).pictures
    workers = _workers(num_workers)
    if workers < 2 or (isinstance(pictures, list) and len(pictures) < 2):
        return transform.batch([transform.pixels(picture) for picture in pictures])
    pool = ThreadPoolExecutor(workers)
    try:
        reading = list(_read_ahead(pool, transform.pixels, pictures))
        return transform.batch([future.result() for _, future in reading])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _patch_options(config: Any, patch_size: Any, most: int) -> dict[str, Any]:
    """How a model's patches are cut, or others of that size."""
    found: dict[str, Any] = {"naflex": True, "patchify": True, "max_seq_len": most}
    if hasattr(config, "get_patch_size"):
        found["patch_size"] = config.get_patch_size()
        last = config.config.get("patchify_channels_last", True)
        found["patchify_channels_last"] = last
    if patch_size is not None:
        found["patch_size"] = patch_size
    return found


# What never changes.
_FIXED = (str, bytes, os.PathLike)


def _read_ahead(
    pool: ThreadPoolExecutor,
    read: Callable[[Any], Any],
    sources: list[Any] | Iterator[Any],
) -> Iterator[tuple[Any, Future[Any]]]:
    """Each picture with its reading, which goes on while the next one is asked for.

    It does not go on where that would change the picture, as an iterator's next frame
    may; nor are there two readings of one object, since Pillow decodes into its own.
    """
    begun: dict[int, Future[Any]] = {}
    for source in sources:
        if isinstance(source, _FIXED):
            yield source, pool.submit(read, source)
            continue
        if id(source) in begun:
            wait([begun[id(source)]])
        future = pool.submit(read, source)
        if isinstance(sources, list):
            begun[id(source)] = future
        else:
            wait([future])
        yield source, future


def _workers(num_workers: int | None) -> int:
    if num_workers is None:
        return default_workers()
    return as_int(num_workers, "num_workers")


def default_cpus() -> int:
    """Processors that this process may use, by cores, affinity and cgroup quota."""
    return _core.show_config()["cpus"]


def default_workers() -> int:
    """Decoding threads: the processors this process may use, at most 8."""
    return min(default_cpus(), 8)


class Batch(NamedTuple):
    """Some pictures on their way through a model; `stream` yields these in order."""

    sources: list[Any]  # as they came
    good: list[int]  # which of them could be read
    errors: dict[int, str]  # why the others could not, by index into sources
    inputs: Any  # float32 (len(good), C, H, W); or a dict of patches


def stream(
    sources: Any,
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int | None = None,
    strict: bool = False,
) -> Generator[Batch, None, None]:
    """Read pictures batch by batch, ahead of the consumer and in bounded memory.

    While the consumer computes, num_workers threads (default as `preprocess`) decode
    up to two batches ahead. sources: as `sources_of` takes them; they may be endless,
    and are read as needed. A picture that cannot be read becomes an entry of `errors`,
    whatever the reason; or, strict, it raises as in `preprocess`.
    """
    batch_size = as_int(batch_size, "batch_size", 1)
    workers = max(1, _workers(num_workers))
    pictures = sources_of(sources).pictures

    def read(source: Any) -> NDArray[np.uint8] | str:
        try:
            return transform.pixels(source)
        except Exception as error:
            if strict:
                raise
            return reason_of(error)

    def collect(group: list[tuple[Any, Future[Any]]]) -> Batch:
        results = [future.result() for _, future in group]
        good = [i for i, r in enumerate(results) if not isinstance(r, str)]
        errors = {i: r for i, r in enumerate(results) if isinstance(r, str)}
        inputs = transform.batch([results[i] for i in good])
        return Batch([s for s, _ in group], good, errors, inputs)

    def batches() -> Generator[Batch, None, None]:
        pool = ThreadPoolExecutor(workers)
        waiting: deque[tuple[Any, Future[Any]]] = deque()
        try:
            for reading in _read_ahead(pool, read, pictures):
                waiting.append(reading)
                if len(waiting) == 3 * batch_size:  # one to give out, two ahead
                    yield collect([waiting.popleft() for _ in range(batch_size)])
            while waiting:
                size = min(batch_size, len(waiting))
                yield collect([waiting.popleft() for _ in range(size)])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    return batches()
