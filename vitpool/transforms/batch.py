# SPDX-License-Identifier: Apache-2.0
"""Many pictures: one batch of them, or a stream of batches, decoded in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import _core
from ..config import as_int
from .config import resolve_data_config
from .read import reason_of
from .transform import Transform, create_transform


def preprocess(
    images: Any,
    config: Any = None,
    *,
    num_workers: int | None = None,
    **options: Any,
) -> NDArray[np.float32]:
    """Many pictures to one batch, float32 (B, C, H, W), decoded in a thread pool.

    images: an iterable of paths, bytes, open binary files, PIL images or uint8 arrays,
    or one of them. config: a Transform, a model, a dict as `resolve_data_config`
    returns, or None. num_workers: decoding threads; default the processors, at most 8;
    0 for none. options: overrides as in `resolve_data_config`, and `exif`.

    The first picture that cannot be read raises, and its name is in the message. Of an
    iterable that is no list, tuple or array, a picture that can change (a frame of a
    film) is read before the next one is asked for.
    """
    if isinstance(config, Transform):
        if options:
            raise TypeError("options cannot be given together with a Transform")
        transform = config
    else:
        exif = bool(options.pop("exif", False))
        transform = create_transform(
            **resolve_data_config(config, **options), exif=exif
        )
    single = isinstance(images, (*_FIXED, bytearray, memoryview, Image.Image))
    single = single or hasattr(images, "read")
    if single or (isinstance(images, np.ndarray) and images.ndim in (2, 3)):
        images = [images]
    elif not isinstance(images, Iterable):
        raise TypeError(f"images: {type(images).__name__}, allowed is an iterable")
    workers = _workers(num_workers)
    if workers < 2 or (isinstance(images, _HELD) and len(images) < 2):
        return _batch([transform.pixels(image) for image in images], transform)
    pool = ThreadPoolExecutor(workers)
    try:
        reading = list(_read_ahead(pool, transform.pixels, images))
        return _batch([future.result() for _, future in reading], transform)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# What never changes, and what holds all its pictures at once.
_FIXED = (str, bytes, os.PathLike)
_HELD = (list, tuple, np.ndarray)


def _read_ahead(
    pool: ThreadPoolExecutor, read: Callable[[Any], Any], sources: Iterable[Any]
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
        if isinstance(sources, _HELD):
            begun[id(source)] = future
        else:
            wait([future])
        yield source, future


def _batch(
    pixels: list[NDArray[np.uint8]], transform: Transform
) -> NDArray[np.float32]:
    """Normalise pictures (H, W, C) of the transform's size to (B, C, H, W)."""
    batch = np.empty((len(pixels), transform.channels, *transform.size), np.float32)
    for index, image in enumerate(pixels):
        batch[index] = transform.normalize(image)
    return batch


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
    inputs: NDArray[np.float32]  # (len(good), C, H, W)


def stream(
    sources: Iterable[Any],
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int | None = None,
) -> Iterator[Batch]:
    """Read pictures batch by batch, ahead of the consumer and in bounded memory.

    While the consumer computes, num_workers threads (default as `preprocess`) decode
    up to two batches ahead. sources: as `preprocess` takes them; they may be endless,
    and are read as needed. A picture that cannot be read becomes an entry of `errors`,
    whatever the reason.
    """
    batch_size = as_int(batch_size, "batch_size", 1)
    workers = max(1, _workers(num_workers))

    def read(source: Any) -> NDArray[np.uint8] | str:
        try:
            return transform.pixels(source)
        except Exception as error:
            return reason_of(error)

    def collect(group: list[tuple[Any, Future[Any]]]) -> Batch:
        results = [future.result() for _, future in group]
        good = [i for i, r in enumerate(results) if not isinstance(r, str)]
        errors = {i: r for i, r in enumerate(results) if isinstance(r, str)}
        inputs = _batch([results[i] for i in good], transform)
        return Batch([s for s, _ in group], good, errors, inputs)

    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[Any, Future[Any]]] = deque()
    try:
        for reading in _read_ahead(pool, read, sources):
            waiting.append(reading)
            if len(waiting) == 3 * batch_size:  # one to give out, two decoding ahead
                yield collect([waiting.popleft() for _ in range(batch_size)])
        while waiting:
            size = min(batch_size, len(waiting))
            yield collect([waiting.popleft() for _ in range(size)])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
