# SPDX-License-Identifier: Apache-2.0
"""Labelled pictures, read by threads as a model's input: what a `Trainer` fits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import as_float, as_int
from ..text import printable, some, warn_user
from ..transforms import (
    ImageError,
    ImageWarning,
    Transform,
    create_transform,
    default_workers,
    image_name,
    load_image,
    resolve_data_config,
    sources_of,
)
from ..transforms.augment import Augment
from ..transforms.read import reason_of
from .copies import identities

if TYPE_CHECKING:
    from typing_extensions import Self

_AT_ONCE = 64  # pictures of a check before an interrupt is heard


class Pictures:
    """Pictures and their classes: `len(data)`, `data.labels`, `data.batch(indices)`.

    sources: as `sources_of` takes many pictures: paths, bytes, PIL images, uint8
    arrays (H, W[, C]); a list of these, a folder, or one array (N, H, W, C). labels:
    (N,) integers from 0. classes: the names of all classes, in the order of their
    numbers, two or more; default '0', '1', ... to the highest label.

    transform: what makes a model's input of a picture: an `Augment`, which draws it
    anew each epoch; a `Transform`; or a model or a configuration, for its evaluation
    transform. None: `with_transform` gives one later. num_workers: reading threads;
    default the processors, at most 8; 0 for none.

    on_error: 'raise': ImageError for the first picture that cannot be read, by its
    name; 'skip': such pictures are left out here, with an ImageWarning, and `skipped`
    has their names and the reasons. To know, every picture is decoded once, whole,
    before anything else is done; progress shows a bar meanwhile, or is a bar like
    tqdm's. check=False saves that, and is for 'raise' alone: `batch` raises when it
    comes to such a picture.

    Errors before any picture is read: TypeError or ValueError for labels of another
    type, length or range, and fewer than two classes. After it: ValueError for a class
    of which no picture could be read.
    """

    def __init__(
        self,
        sources: Any,
        labels: Any,
        classes: Sequence[str] | None = None,
        *,
        transform: Any = None,
        num_workers: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        check: bool = True,
        progress: bool | Any = False,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error: {on_error!r}, allowed are 'raise' and 'skip'")
        if on_error == "skip" and not check:
            raise ValueError("check=False is for on_error='raise' alone")
        self.num_workers = (
            default_workers() if num_workers is None
            else as_int(num_workers, "num_workers")
        )  # fmt: skip
        self.transform = _transform(transform)
        self.sources = [_kept(source) for source in sources_of(sources).pictures]
        self.labels = _labels(labels, len(self.sources))
        highest = int(self.labels.max())
        self.classes = (
            tuple(map(str, range(highest + 1))) if classes is None
            else tuple(map(str, classes))
        )  # fmt: skip
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes: a name comes twice in {some(self.classes)}")
        if len(self.classes) < 2:
            raise ValueError(
                f"one class only, {some(self.classes)!r}: two or more can be told apart"
            )
        if highest >= len(self.classes):
            raise ValueError(
                f"labels: {highest}, allowed are 0 to {len(self.classes) - 1}, of "
                f"{len(self.classes)} classes"
            )
        self.skipped: dict[str, str] = {}
        if check:
            self._check(on_error == "skip", progress)

    def __len__(self) -> int:
        return len(self.sources)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self)} pictures of {len(self.classes)} "
            f"classes, transform={self.transform!r})"
        )

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many pictures each class has, (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def name(self, index: int) -> str:
        """A picture's path, or what it is."""
        return image_name(self.sources[index])

    def batch(self, indices: Any, epoch: int = 0, seed: int = 0) -> NDArray[np.float32]:
        """Some of the pictures as a model's input, float32 (B, C, H, W).

        indices: (B,) integers, 0 to len - 1. epoch, seed: what an `Augment` draws by,
        together with the index; a picture of an epoch is the same in any batch. Safe
        to call from several threads. Raises ImageError, or the OSError, of the first
        picture that cannot be read; ValueError where no transform was given.
        """
        transform = self.transform
        if transform is None:
            raise ValueError(
                "no transform was given, which says what input the model takes: "
                "with_transform(model), or with_transform(create_augment(model))"
            )
        chosen = self._indices(indices)
        out = np.empty((len(chosen), transform.channels, *transform.size), np.float32)

        def read(place: int) -> None:
            index = int(chosen[place])
            source = self.sources[index]
            if isinstance(transform, Augment):
                out[place] = transform(source, seed=seed, epoch=epoch, index=index)
            else:
                out[place] = transform.normalize(transform.pixels(source))

        self._each(read, range(len(chosen)))
        return out

    def with_transform(self, transform: Any) -> Self:
        """The same pictures with another transform, as the constructor takes it."""
        other = copy.copy(self)
        other.transform = _transform(transform)
        return other

    def subset(self, indices: Any) -> Self:
        """Some of the pictures, in this order, of the same classes."""
        chosen = self._indices(indices)
        other = copy.copy(self)
        other.sources = [self.sources[i] for i in chosen]
        other.labels = _frozen(self.labels[chosen])
        return other

    def split(
        self,
        fraction: float = 0.2,
        seed: int = 0,
        *,
        single: Literal["raise", "train"] = "raise",
    ) -> tuple[Self, Self]:
        """(training, held out): of each class about `fraction` is held out.

        Of each class one picture at least is in either; which, the seed says. Copies
        of a picture (files of the same bytes) are not parted, else what is held out
        would have been trained on. Copies in two classes, where one label must be
        wrong, stay in training, and a warning names them. single: what becomes of a
        class with one picture, or copies of one: 'raise' is a ValueError that names it,
        'train' keeps it in training. Both keep the transform; give what is held out
        the evaluation's by `with_transform(model)`.

        ValueError: fraction not between 0 and 1, and a class without a picture.
        """
        if not 0.0 < as_float(fraction, "fraction") < 1.0:
            raise ValueError(f"fraction must be between 0 and 1, not {fraction}")
        if single not in ("raise", "train"):
            raise ValueError(f"single: {single!r}, allowed are 'raise' and 'train'")
        rng = Random(as_int(seed, "seed"))
        self._refuse_empty()
        groups, mixed = self._copies()
        held: list[int] = []
        alone: list[str] = []
        for label, own in enumerate(groups):
            if len(own) < 2:
                alone.append(self.classes[label])
                continue
            rng.shuffle(own)
            held += _taken(own, round(fraction * int(self.counts[label])))
        if alone and single == "raise":
            raise ValueError(
                f"a class with one picture, or copies of one, cannot be split: "
                f"{some(alone)}; single='train' keeps it in training"
            )
        if mixed:
            told = [" and ".join(map(self._told, group)) for group in mixed]
            warn_user(
                UserWarning(
                    f"{len(mixed)} pictures are there in several classes, and stay in "
                    f"training: {_first(told)}"
                )
            )
        out = np.zeros(len(self), bool)
        out[held] = True
        return self.subset(np.flatnonzero(~out)), self.subset(np.flatnonzero(out))

    def check_apart(self, held_out: Pictures) -> None:
        """ValueError where what is held out has other classes or a picture of these.

        A picture counts as one of these where its file has the same bytes.
        """
        if held_out.classes != self.classes:
            raise ValueError(
                f"what is held out has the classes {some(held_out.classes)}, and what "
                f"is trained on {some(self.classes)}"
            )
        known = identities([*self.sources, *held_out.sources])
        first = {content: place for place, content in enumerate(known[: len(self)])}
        shared = [
            f"{held_out.name(place)} (as {self.name(first[content])})"
            for place, content in enumerate(known[len(self) :])
            if content in first
        ]
        if shared:
            raise ValueError(
                f"{len(shared)} of {len(held_out)} held-out pictures are trained on: "
                f"{_first(shared)}"
            )

    # ---------------------------------------------------------------------- inside

    def _indices(self, indices: Any) -> NDArray[np.int64]:
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise TypeError(
                "indices must be integers, (B,), not an array of "
                f"{chosen.dtype}, {chosen.shape}"
            )
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(
                f"indices: {chosen.min()} to {chosen.max()}, allowed are 0 to "
                f"{len(self) - 1}"
            )
        return chosen.astype(np.int64)

    def _each(self, work: Callable[[int], Any], places: range) -> list[Any]:
        """What `work` gives for each place, in threads; the first error raises."""
        if self.num_workers < 2 or len(places) < 2:
            return [work(place) for place in places]
        pool = ThreadPoolExecutor(min(self.num_workers, len(places)))
        try:
            return list(pool.map(work, places))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _check(self, skip: bool, progress: bool | Any) -> None:
        """Decode every picture: raise for those that fail, or leave them out."""
        reasons: dict[int, str] = {}

        def read(place: int) -> None:
            try:
                wide, high = load_image(self.sources[place]).size
                if 0 in (wide, high):
                    reasons[place] = f"empty: {wide}x{high} pixels"
            except Exception as error:
                reasons[place] = reason_of(error)

        bar: Any = None if progress is False else progress
        if progress is True:
            from tqdm.auto import tqdm

            bar = tqdm(total=len(self), unit="picture")
        try:
            for start in range(0, len(self), _AT_ONCE):
                part = range(start, min(start + _AT_ONCE, len(self)))
                self._each(read, part)
                if bar is not None:
                    bar.update(len(part))
        finally:
            if progress is True:
                bar.close()
        if not reasons:
            return
        bad = sorted(reasons)
        if not skip:
            more = f" (and {len(bad) - 1} more pictures)" if bad[1:] else ""
            raise ImageError(self.name(bad[0]), reasons[bad[0]] + more)
        self.skipped = {self.name(place): reasons[place] for place in bad}
        warn_user(
            ImageWarning(
                f"{len(bad)} of {len(self)} pictures could not be read and are left "
                "out: " + _first([f"{n}: {r}" for n, r in self.skipped.items()])
            )
        )
        had = self.counts > 0
        good = [place for place in range(len(self)) if place not in reasons]
        self.sources = [self.sources[place] for place in good]
        self.labels = _frozen(self.labels[good])
        lost = np.flatnonzero(had & (self.counts == 0))
        if len(lost):
            names = some(self.classes[label] for label in lost)
            raise ValueError(f"no picture of a class could be read: {names}")

    def _refuse_empty(self) -> None:
        empty = [self.classes[label] for label in np.flatnonzero(self.counts == 0)]
        if empty:
            raise ValueError(f"no picture of a class: {some(empty)}")

    def _copies(self) -> tuple[list[list[list[int]]], list[list[int]]]:
        """Of each class its pictures, copies together; and copies in two classes."""
        alike: dict[Hashable, list[int]] = {}
        for place, content in enumerate(identities(self.sources)):
            alike.setdefault(content, []).append(place)
        groups: list[list[list[int]]] = [[] for _ in self.classes]
        mixed = []
        for group in alike.values():
            if len(set(self.labels[group].tolist())) > 1:
                mixed.append(group)
            else:
                groups[int(self.labels[group[0]])].append(group)
        return groups, mixed

    def _told(self, index: int) -> str:
        return f"{self.name(index)} ({self.classes[self.labels[index]]})"


def _first(lines: list[str], most: int = 8) -> str:
    """The first of some lines, whole, and how many more there are."""
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return printable("; ".join(lines[:most])) + more


def _taken(groups: list[list[int]], wanted: int) -> list[int]:
    """About `wanted` pictures, at least one, in whole groups, and one group left."""
    taken: list[int] = []
    left = len(groups)
    for group in groups:
        if left > 1 and len(taken) + len(group) <= max(wanted, 1):
            taken += group
            left -= 1
    return taken or min(groups, key=len)


def _transform(given: Any) -> Augment | Transform | None:
    if given is None or isinstance(given, (Augment, Transform)):
        return given
    return create_transform(**resolve_data_config(given))


def _kept(source: Any) -> Any:
    """A picture that several threads may read at any time."""
    if isinstance(source, Image.Image):
        return load_image(source, None)
    if hasattr(source, "read"):
        raise TypeError(
            f"{image_name(source)}: an open file, which can be read once; allowed are "
            "a path, bytes, a PIL image and a uint8 array"
        )
    return source


def _labels(given: Any, count: int) -> NDArray[np.int64]:
    labels = np.asarray(given)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise TypeError(
            "labels must be integers, (N,), the classes' numbers, not an array of "
            f"{labels.dtype}, {labels.shape}"
        )
    if len(labels) != count:
        raise ValueError(f"labels: {len(labels)} of them for {count} pictures")
    if not count:
        raise ValueError("no pictures, and no labels")
    if labels.min() < 0:
        raise ValueError(f"labels: {labels.min()}, allowed are integers from 0")
    return _frozen(labels.astype(np.int64))


def _frozen(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    labels.setflags(write=False)
    return labels
