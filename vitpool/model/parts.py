# SPDX-License-Identifier: Apache-2.0
"""The parts of a model by their paths, and the exchange of a model for its successor.

A part reads from the model: as long as the model has it, it shows what the model is
now. A part that a change took away (a pruned block, the head before reset_classifier)
keeps the weights that it had.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from .. import _core

Float32 = NDArray[np.float32]

T = TypeVar("T")
M = TypeVar("M", bound="Module")

# This lock is held while a model is exchanged for its successor, and while a part is
# looked up or asks which model it reads. So the parts change together with the model.
# No array is copied and nothing is computed under it.
exchange = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=exchange.acquire,
        after_in_parent=exchange.release,
        after_in_child=exchange.release,
    )


class HasParts(_core.VisionTransformer):
    """The base of VisionTransformer that gives out its parts and makes its changes."""

    def _init_parts(self) -> None:
        self._parts: WeakValueDictionary[str, Module] = WeakValueDictionary()

    def _part(self, path: str, kind: type[M]) -> M:
        """The part at this path: one object for as long as anyone holds it."""
        with exchange:
            part = self._parts.get(path)
            if part is None:
                part = self._parts[path] = kind(self, path)
            return cast("M", part)

    def _change(
        self, change: Callable[[_core.VisionTransformer], T], fresh: str | None = None
    ) -> T:
        """Applies `change` to a snapshot, which then becomes the model; its result.

        change runs again if another thread has changed the model meanwhile. If it
        raises, the model stays as it was. fresh: the path of a part that it makes anew.
        """
        while True:
            before = self._snapshot()
            after = before._snapshot()
            result = change(after)
            with exchange:
                if self._commit(before, after):
                    self._keep_lost_parts(before, after, fresh)
                    return result

    def _keep_lost_parts(
        self,
        before: _core.VisionTransformer,
        after: _core.VisionTransformer,
        fresh: str | None,
    ) -> None:
        """Lets held parts that `after` no longer has read from `before`."""
        held = dict(self._parts)
        if not held:
            return
        anew = [fresh] if fresh is not None else []
        if before._pool_serial != after._pool_serial:
            anew.append("attn_pool")
        old, new = before.param_shapes(), after.param_shapes()
        for path, part in held.items():
            is_anew = any(f"{path}.".startswith(f"{a}.") for a in anew)
            if is_anew or (_below(path, old) and not _below(path, new)):
                part._model = before
                del self._parts[path]


def _below(path: str, names: Iterable[str]) -> list[str]:
    """The names within a part, without the part's own path."""
    start = f"{path}."
    return [name[len(start) :] for name in names if name.startswith(start)]


class Module:
    """A part of a model by its path: parameters and parts as attributes.

    ``model.blocks[0].attn.qkv.weight`` is a new read-only float32 array.
    """

    def __init__(self, model: _core.VisionTransformer, path: str) -> None:
        self._model = model  # live, or the last state that had this part
        self._path = path

    def _now(self) -> _core.VisionTransformer:
        """The state of the model that this part shows."""
        with exchange:
            return self._model._snapshot()

    def _child(self, name: str) -> Module:
        path = f"{self._path}.{name}"
        if isinstance(self._model, HasParts):
            return self._model._part(path, Module)
        return Module(self._model, path)

    def _names(self) -> list[str]:
        return _below(self._path, self._now().param_shapes())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        with exchange:
            now = self._now()
            names = _below(self._path, now.param_shapes())
            if any(n.startswith(f"{name}.") for n in names):
                return self._child(name)
        if name in names:
            return now.get_parameter(f"{self._path}.{name}")
        parts = ", ".join(dict.fromkeys(n.partition(".")[0] for n in names))
        raise AttributeError(
            f"{self._path} has no {name!r}; it has {parts or 'no parameters'}"
        )

    def __len__(self) -> int:
        indices = {n.partition(".")[0] for n in self._names()}
        return len(indices) if all(i.isdigit() for i in indices) else 0

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int) -> Module:
        number = index.__index__()
        with exchange:
            count = len(self)
            if -count <= number < count:
                return self._child(str(number % count))
        raise IndexError(f"{self._path} has {count} items, not one of index {number}")

    def __iter__(self) -> Iterator[Module]:
        with exchange:
            return iter([self._child(str(i)) for i in range(len(self))])

    def __dir__(self) -> list[str]:
        return sorted({n.partition(".")[0] for n in self._names()})

    def named_parameters(self) -> Iterator[tuple[str, Float32]]:
        """(name within this part, new read-only array), in timm's order."""
        now = self._now()
        for name in _below(self._path, now.param_shapes()):
            yield name, now.get_parameter(f"{self._path}.{name}")

    def __repr__(self) -> str:
        shapes = self._now().param_shapes()
        rows = [
            f"  {n}: {shapes[f'{self._path}.{n}']}" for n in _below(self._path, shapes)
        ]
        if not rows:
            return f"{self._path}: Identity()"
        return "\n".join([f"{self._path}:", *rows])


class FcNorm(Module):
    """The norm after the pool, which can be called on pooled features."""

    def __call__(self, x: Any) -> Float32:
        """fc_norm of x, shape (B, C), as a new float32 array; x's own numbers where
        the model has no fc_norm."""
        return self._now().fc_norm(x)


class PatchEmbed(Module):
    """The patch embedding, with the sizes that timm's has."""

    @property
    def img_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        size: tuple[int, int] = self._now()._options()["img_size"]
        return size

    @property
    def patch_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        size: tuple[int, int] = self._now()._options()["patch_size"]
        return size

    @property
    def grid_size(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return grid_of(self._now()._options())

    @property
    def num_patches(self) -> int:
        """Rows times columns."""
        rows, columns = self.grid_size
        return rows * columns


def grid_of(options: Mapping[str, Any]) -> tuple[int, int]:
    """(rows, columns) of patches in an image of the model's own size."""
    (height, width), (rows, columns) = options["img_size"], options["patch_size"]
    return height // rows, width // columns


def prefix_tokens_of(options: Mapping[str, Any]) -> int:
    """How many class and register tokens there are."""
    return int(options["class_token"]) + int(options["reg_tokens"])
