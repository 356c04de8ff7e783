# SPDX-License-Identifier: Apache-2.0
"""Many pictures: one batch of them, or a stream of batches, decoded in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .config import resolve_data_config
from .read import ImageError
from .transform import Transform, create_transform


def preprocess(
    images: Any,
    config: Any = None,
    *,
    num_workers: int | None = None,
    **options: Any,
) -> NDArray[np.float32]:
    """Many pictures to one batch, float32 (B, C, H, W), decoded in a thread pool.

    images: an iterable of paths, bytes, PIL images or uint8 arrays, or one of them.
    config: a Transform, a model, a dict as `resolve_data_config` returns, or None.
    num_workers: decoding threads; default the processors, at most 8; 0 for none.
    options: overrides as in `resolve_data_config`, and `exif`.

    The first picture that cannot be read raises, and its name is in the message.
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
    single = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike))
    single = single or isinstance(images, Image.Image)
    if single or (isinstance(images, np.ndarray) and images.ndim in (2, 3)):
        images = [images]
    elif not isinstance(images, Iterable):
        raise TypeError(f"images: {type(images).__name__}, allowed is an iterable")
    sources = list(images)
    batch = np.empty((len(sources), *transform.size, transform.channels), np.uint8)

    def fill(index: int) -> None:
        batch[index] = transform.pixels(sources[index])

    workers = default_workers() if num_workers is None else num_workers
    if workers < 0:
        raise ValueError(f"num_workers: {num_workers}, allowed is 0 or more")
    if workers < 2 or len(sources) < 2:
        for index in range(len(sources)):
            fill(index)
    else:
        with ThreadPoolExecutor(min(workers, len(sources))) as pool:
            for _ in pool.map(fill, range(len(sources))):
                pass
    return transform.normalize(batch)


def default_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    up to two batches ahead. sources may be endless; it is read as needed. A picture
    that cannot be read becomes an entry of `errors`, whatever the reason.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size}, allowed is 1 or more")
    workers = max(1, default_workers() if num_workers is None else num_workers)

    def read(source: Any) -> NDArray[np.uint8] | str:
        try:
            return transform.pixels(source)
        except ImageError as error:
            return error.reason
        except OSError as error:
            return error.strerror or str(error)
        except MemoryError:
            return "out of memory"

    def collect(group: list[tuple[Any, Future[Any]]]) -> Batch:
        results = [future.result() for _, future in group]
        good = [i for i, r in enumerate(results) if not isinstance(r, str)]
        errors = {i: r for i, r in enumerate(results) if isinstance(r, str)}
        shape = (0, *transform.size, transform.channels)
        pixels = np.stack([results[i] for i in good]) if good else np.empty(shape, "u1")
        return Batch([s for s, _ in group], good, errors, transform.normalize(pixels))

    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[Any, Future[Any]]] = deque()
    try:
        for source in sources:
            waiting.append((source, pool.submit(read, source)))
            if len(waiting) == 3 * batch_size:  # one to give out, two decoding ahead
                yield collect([waiting.popleft() for _ in range(batch_size)])
        while waiting:
            size = min(batch_size, len(waiting))
            yield collect([waiting.popleft() for _ in range(size)])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
