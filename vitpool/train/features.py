# SPDX-License-Identifier: Apache-2.0
"""What stays frozen runs once: the features that training goes on from.

The part of a model that is not trained computes as in inference, so what it makes of a
picture is the same in every epoch. (Of pictures that are drawn anew in each, by
augmentation, it is not: those are trained on as pictures.)
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import _core
from ..config import as_int, told_options
from ..model import digest
from ..model.reading import Reader
from ..text import printable, some, warn_user
from ..transforms import (
    ImageWarning,
    Transform,
    create_transform,
    resolve_data_config,
    sources_of,
)
from .data import Pictures
from .parts import Part, features_of, part_of
from .stored import (
    Features,
    Writer,
    checked_dtype,
    mapped,
    one_writer,
    pairs,
    told_by,
)

# Goes up when the features of the same model and pictures become others.
_FORMAT = 1
# Options that no feature depends on.
_NOT_COMPARED = {"num_classes", "dynamic_img_size", "dynamic_img_pad", "init_values"}
_NOT_COMPARED |= {"has_init_values", "head_init_scale"}


def features(
    model: Any,
    images: Any,
    *,
    train: str | int,
    dtype: str = "float32",
    memory: int = 2**30,
    path: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    transform: Transform | None = None,
    num_workers: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = False,
) -> Features:
    """What the frozen part makes of pictures, to train the rest on as often as wanted.

    images: normalised floats (n, in_chans, height, width), as model(x) takes them; or a
    folder, a pattern or a list of pictures, as `embed` takes them, through the model's
    own transform or `transform`; or a dataset: `Pictures` with no Augment, or any
    object with `__len__` and `batch(indices, epoch, seed)`.

    train: what will be trained, as in `Trainer`. 'head' gives pooled vectors (n, C)
    behind fc_norm; 'pool', where the pool has parameters, the tokens (n, N, C) of
    forward_features; K, a number of blocks, the tokens before the last K.

    dtype: 'bfloat16' halves the room, and rounds to 8 bits. memory: bytes that the rows
    may take; more go to a file without a name in the folder for temporary files
    (TMPDIR), which is mapped, and gone with the answer. path: a .npy to write in any
    case, or a folder to write one to. What is there is used again if it was made of the
    same frozen weights, pictures, transform and dtype, and else made anew; pictures are
    the same by path, size and time of the file, or by their content. The file is there
    whole or not at all.

    batch_size, num_workers, progress: as in `embed`. on_error: 'raise' raises at the
    first picture that cannot be read, 'skip' leaves it out, with an ImageWarning.

    ValueError: train='all', with which nothing is frozen; pictures that are augmented;
    an unknown dtype; a path where another file is, or which another process is writing;
    no picture. TypeError: a path for pictures that cannot be told again, as open files.
    """
    now = copy.copy(model)  # a later change of the model is not seen here
    part = part_of(now, train)
    if part.entry == "images":
        raise ValueError(
            "train='all' (or an embedding) leaves nothing frozen: train on the images"
        )
    source = Source(now, images, transform, num_workers, on_error)
    batch_size, memory = as_int(batch_size, "batch_size", 1), as_int(memory, "memory")
    dtype = checked_dtype(dtype)
    told: dict[str, Any] = {}
    target = None
    with contextlib.ExitStack() as stack:
        file = None
        if path is not None:
            told = _fingerprint(now, part, dtype, source)
            target = _target(Path(path), told)
            stored = told_by(target)
            if stored is not None and stored["made_of"] == told:
                return _found(target, stored, part, dtype)
            file = stack.enter_context(one_writer(target))
        writer = Writer(len(source), dtype, memory, file)
        for x in source.batches(batch_size, progress):
            writer.add(features_of(now, part, x))
        answer = source.answer()
        writer.end({"made_of": told, **answer})
    rows = writer.rows() if target is None else mapped(target, dtype)
    return Features(
        rows, part.entry, part.block, source.indices(), source.errors, target
    )


class Source:
    """The pictures to run, of whatever kind, and which of them came through."""

    def __init__(
        self,
        model: Any,
        images: Any,
        transform: Transform | None,
        num_workers: int | None,
        on_error: str,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error: {on_error!r}, allowed are 'raise' and 'skip'")
        self.model, self.mode = model, on_error
        self.errors: dict[int, str] = {}
        self._good: list[int] = []
        if isinstance(images, Pictures):  # which have their own
            own: Any = images.transform
            transform = own if transform is None else transform
            num_workers = images.num_workers if num_workers is None else num_workers
            images = images.sources
        if transform is not None and not isinstance(transform, Transform):
            raise ValueError(
                f"transform: {type(transform).__name__}, allowed is a Transform: what "
                "is drawn anew in each epoch has no features that last, so train on "
                "the pictures themselves"
            )
        self.images, self.transform, self.num_workers = images, transform, num_workers
        self.kind = "pictures"
        if is_array(images):
            self.kind = "array"
        elif callable(getattr(images, "batch", None)) and hasattr(images, "__len__"):
            self.kind = "dataset"
        else:
            pictures, _ = sources_of(images)
            self.images = list(pictures)
            self.transform = transform or create_transform(**resolve_data_config(model))
        if not len(self.images):
            raise ValueError("images: none")

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int, progress: bool) -> Iterator[Any]:
        """Input (b, in_chans, height, width) of those that can be read, in order."""
        if self.kind == "pictures":
            yield from self._pictures(batch_size, progress)
            return
        bar: Any = None
        if progress:
            from tqdm.auto import tqdm

            bar = tqdm(total=len(self), unit="picture")
        try:
            for first in range(0, len(self), batch_size):
                places = range(first, min(first + batch_size, len(self)))
                if self.kind == "dataset":
                    batch = self.images.batch(np.array(places), 0, 0)
                else:
                    batch = self.images[first : places.stop]
                yield _core.as_float32(batch, "images")
                self._good.extend(places)
                if bar is not None:
                    bar.update(len(places))
        finally:
            if bar is not None:
                bar.close()

    def _pictures(self, batch_size: int, progress: bool) -> Iterator[Any]:
        with Reader(
            self.model,
            self.images,
            self.transform,
            batch_size,
            self.num_workers,
            progress,
            self.mode,
        ) as reader:
            for batch in reader:
                yield batch.inputs
                self._good.extend(reader.done + i for i in batch.good)
            self.errors = reader.errors

    def indices(self) -> NDArray[np.int64]:
        """The places of those that came through."""
        return np.array(self._good, np.int64)

    def answer(self) -> dict[str, Any]:
        """Which came through and which did not, as JSON has it."""
        return {"count": len(self), "errors": pairs(self.errors)}

    def identity(self) -> Any:
        """What tells these pictures from others, as JSON has it."""
        if self.kind == "dataset":
            if not hasattr(self.images, "identity"):
                raise TypeError(
                    f"path: a {type(self.images).__name__} has no identity(), by which "
                    "the next run would know its pictures; leave path out"
                )
            return self.images.identity()
        told = hashlib.blake2b(digest_size=16)
        if self.kind == "array":
            for start in range(0, len(self), 256):
                rows = _core.as_float32(self.images[start : start + 256], "images")
                told.update(f"{rows.shape}".encode())
                told.update(rows.data)
            return told.hexdigest()
        for picture in self.images:
            told.update(_told(picture))
        assert self.transform is not None
        transform = {"class": type(self.transform).__name__, **self.transform.options}
        return {"pictures": told.hexdigest(), "transform": transform}


def is_array(images: Any) -> bool:
    """Is it input for a model, and no picture or list of them?"""
    if getattr(images, "ndim", None) != 4:
        return False
    return str(images.dtype) not in ("uint8", "torch.uint8")


def _told(picture: Any) -> bytes:
    """What a picture is known by: a file's path, size and time; else its content."""
    if isinstance(picture, (str, os.PathLike)):
        try:
            stat = os.stat(picture)
        except (OSError, ValueError):  # which reading it will tell
            return os.fsencode(picture) + b"\0?\0"
        return os.fsencode(picture) + f"\0{stat.st_size} {stat.st_mtime_ns}\0".encode()
    if isinstance(picture, (bytes, bytearray, memoryview)):
        kind, content = "bytes", bytes(picture)
    elif isinstance(picture, np.ndarray):
        kind, content = f"{picture.dtype} {picture.shape}", picture.tobytes()
    elif isinstance(picture, Image.Image):
        kind, content = f"{picture.mode} {picture.size}", picture.tobytes()
    else:
        raise TypeError(
            f"path: a picture that is a {type(picture).__name__} cannot be told again "
            "by the next run; leave path out, or give paths, bytes or arrays"
        )
    return kind.encode() + b"\0" + hashlib.blake2b(content, digest_size=16).digest()


def _fingerprint(model: Any, part: Part, dtype: str, source: Source) -> dict[str, Any]:
    """What makes two runs' features the same up to rounding, as JSON has it."""
    options = told_options(model._options())
    options = {k: v for k, v in options.items() if k not in _NOT_COMPARED}
    if part.entry != "pre_logits":
        del options["global_pool"]
    trained = set(part.names)
    frozen = [n for n in model.param_shapes() if n not in trained]
    heads = tuple(f"{head}." for head in model._heads)
    told = {
        "format": _FORMAT,
        "model": type(model).__name__,
        "options": options,
        "weights": digest(model, [n for n in frozen if not n.startswith(heads)]),
        "entry": part.entry,
        "block": part.block,
        "dtype": dtype,
        "images": source.identity(),
        "on_error": source.mode,
    }
    fingerprint: dict[str, Any] = json.loads(json.dumps(told))
    return fingerprint


def _target(path: Path, told: dict[str, Any]) -> Path:
    """The file: path itself, or in a folder one that is named by what is told."""
    if not path.is_dir():
        return path
    name = hashlib.blake2b(json.dumps(told).encode(), digest_size=8).hexdigest()
    return path / f"features-{name}.npy"


def _found(path: Path, stored: dict[str, Any], part: Part, dtype: str) -> Features:
    errors = {int(index): str(reason) for index, reason in stored["errors"]}
    good = [i for i in range(stored["count"]) if i not in errors]
    if errors:
        warn_user(
            ImageWarning(
                f"{len(errors)} of {stored['count']} pictures could not be read when "
                f"{path} was made, and are left out: {printable(some(errors.values()))}"
            )
        )
    rows, indices = mapped(path, dtype), np.array(good, np.int64)
    return Features(rows, part.entry, part.block, indices, errors, path)
