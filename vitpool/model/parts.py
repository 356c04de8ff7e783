# SPDX-License-Identifier: Apache-2.0
"""The parts of a model by their paths: what they hold, read from the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core

Float32 = NDArray[np.float32]


class Module:
    """A part of a model by its path: parameters and parts as attributes.

    ``model.blocks[0].attn.qkv.weight`` is a new read-only float32 array. A part shows
    the model as it is, until a change of the model drops the part: then it keeps what
    it had.
    """

    def __init__(self, model: _core.VisionTransformer, path: str) -> None:
        self._model = model
        self._path = path
        held = getattr(model, "_held", None)
        if held is not None:  # None: a snapshot, which drops nothing
            held.add(self)

    def _is_at(self, path: str) -> bool:
        """Is this the part of that path, or within it?"""
        return self._path == path or self._path.startswith(f"{path}.")

    def _names(self) -> list[str]:
        start = f"{self._path}."
        return [
            n[len(start) :] for n in self._model.param_shapes() if n.startswith(start)
        ]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        names = self._names()
        if name in names:
            return self._model.get_parameter(f"{self._path}.{name}")
        if any(n.startswith(f"{name}.") for n in names):
            return Module(self._model, f"{self._path}.{name}")
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
        count = len(self)
        number = index.__index__()
        if not -count <= number < count:
            raise IndexError(
                f"{self._path} has {count} items, not one of index {number}"
            )
        return Module(self._model, f"{self._path}.{number % count}")

    def __iter__(self) -> Iterator[Module]:
        return (self[i] for i in range(len(self)))

    def __dir__(self) -> list[str]:
        return sorted({n.partition(".")[0] for n in self._names()})

    def named_parameters(self) -> Iterator[tuple[str, Float32]]:
        """(name within this part, new read-only array), in timm's order."""
        for name in self._names():
            yield name, self._model.get_parameter(f"{self._path}.{name}")

    def __repr__(self) -> str:
        shapes = self._model.param_shapes()
        rows = [f"  {n}: {shapes[f'{self._path}.{n}']}" for n in self._names()]
        if not rows:
            return f"{self._path}: Identity()"
        return "\n".join([f"{self._path}:", *rows])


class FcNorm(Module):
    """The norm after the pool, which can be called on pooled features."""

    def __call__(self, x: Any) -> Float32:
        """fc_norm of x, shape (B, C); x itself, as float32, where there is none."""
        return _core.VisionTransformer.fc_norm(self._model, x)  # a property hides it


class PatchEmbed(Module):
    """The patch embedding, with the sizes that timm's has."""

    @property
    def img_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        size: tuple[int, int] = self._model._options()["img_size"]
        return size

    @property
    def patch_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        size: tuple[int, int] = self._model._options()["patch_size"]
        return size

    @property
    def grid_size(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        options = self._model._options()
        (h, w), (ph, pw) = options["img_size"], options["patch_size"]
        return h // ph, w // pw

    @property
    def num_patches(self) -> int:
        """Rows times columns."""
        rows, columns = self.grid_size
        return rows * columns
