# SPDX-License-Identifier: Apache-2.0
"""torch.nn.Module's ways through a tree of modules, for a model and for its parts."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ...config import as_bool
from ...text import did_you_mean
from ..dtypes import arrays_of, is_buffer
from ..tree import children_of, folded, tree, within
from .switches import Switches

if TYPE_CHECKING:
    from .module import Module

Float32 = NDArray[np.float32]

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


class Walk(Switches):
    """What lies below a model or a part. Names are paths from here.

    Whatever a method gives is of one state of the model: later changes do not reach it.
    """

    __slots__ = ()

    def _roots(self) -> list[tuple[str, _core.VisionTransformer, str]]:
        """(name here, state of the model, path there) of all that lies below."""
        raise NotImplementedError

    def _at(self, name: str) -> Module:
        """The part of this name, which is below; under the lock."""
        raise NotImplementedError

    def _modules_here(self) -> dict[str, tuple[str, str]]:
        """(class name, extra_repr) by name; this one itself is at ''."""
        here: dict[str, tuple[str, str]] = {}
        for name, now, path in self._roots():
            below = within(tree(now._options()), path)
            here.update({_join(name, rest): module for rest, module in below.items()})
        here[""] = (type(self).__name__, here.get("", ("", ""))[1])
        return here

    def _child_names(self) -> Sequence[str]:
        [(_, now, path)] = self._roots()
        return children_of(now._options(), path)

    # -- modules --

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, part) of each part directly below."""
        with exchange:
            found = [(name, self._at(name)) for name in self._child_names()]
        return iter(found)

    def children(self) -> Iterator[Module]:
        """Each part directly below."""
        return (part for _, part in self.named_children())

    def named_modules(self, *, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """(path, part) of this one, whose path is '', and of all below, in torch's
        order; prefix: a path to put before them."""
        with exchange:
            names = [name for name in self._modules_here() if name]
            found = [("", self), *((name, self._at(name)) for name in names)]
        return ((_join(prefix, name), part) for name, part in found)

    def modules(self) -> Iterator[Any]:
        """This one and all below."""
        return (part for _, part in self.named_modules())

    def get_submodule(self, target: str) -> Any:
        """The part of this dotted path, e.g. 'blocks.0.attn'; '' is this one.

        AttributeError: there is none.
        """
        with exchange:
            modules = self._modules_here()
            if target in modules:
                return self._at(target) if target else self
        hint = did_you_mean(target, modules)
        raise AttributeError(f"{type(self).__name__} has no part {target!r}{hint}")

    # -- parameters --

    def named_parameters(
        self, prefix: str = "", recurse: bool = True
    ) -> Iterator[tuple[str, Float32]]:
        """(path, new read-only array) of every parameter, in timm's order; without
        the running statistics of BatchNorms, which are buffers.

        prefix: a path to put before them. recurse: those of the parts below, too.
        """
        for name, now, path in self._roots():
            for rest in _below(path, now.param_shapes()):
                found = _join(name, rest)
                if (recurse or "." not in found) and not is_buffer(found):
                    yield _join(prefix, found), now.get_parameter(_join(path, rest))

    def parameters(self, recurse: bool = True) -> Iterator[Float32]:
        """Every parameter as a new read-only array, in timm's order."""
        return (array for _, array in self.named_parameters(recurse=recurse))

    def state_dict(
        self, *, prefix: str = "", dequantize: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Every parameter by timm's key, as new arrays of the caller's own.

        float32, but what is kept as another dtype is of that: float16, ml_dtypes'
        bfloat16, or int8 beside NAME_scale, the float32 scale of each output, (n,).

        Of ConvStem's BatchNorms it has the running statistics and not
        num_batches_tracked, the count of their batches, which no output depends on:
        timm's load_state_dict takes it strictly all the same.

        prefix: goes before each key as it is, with its dot. dequantize: all as float32,
        and no scales. ImportError: bfloat16 without ml_dtypes.
        """
        state: dict[str, NDArray[Any]] = {}
        wide = as_bool(dequantize, "dequantize")
        for name, now, path in self._roots():
            dtypes = now._dtypes()
            start = len(path) + 1 if path else 0
            for rest in _below(path, dtypes):
                full = _join(path, rest)
                for key, array in arrays_of(now, full, dtypes[full], dequantize=wide):
                    state[prefix + _join(name, key[start:])] = array
        return state

    def _kept_as(self) -> set[str]:
        """The dtypes of the parameters below."""
        return {
            now._dtypes()[_join(path, rest)]
            for _, now, path in self._roots()
            for rest in _below(path, now.param_shapes())
        }

    def __repr__(self) -> str:
        """torch's tree of modules; blocks that print alike are one line. What is not
        float32 says so."""
        modules = self._modules_here()
        for name, now, path in self._roots():
            dtypes = now._dtypes()
            for rest in _below(path, dtypes):
                dtype = dtypes[_join(path, rest)]
                if dtype != "float32":
                    owner = _join(name, rest).rpartition(".")[0]
                    kind, extra = modules[owner]
                    modules[owner] = kind, f"{extra}, dtype={dtype}"
        kind, extra = modules[""]
        modules[""] = kind, extra or self._extra_repr()
        return folded(modules)

    def _extra_repr(self) -> str:
        """What the first line says where torch's says nothing."""
        return ""


def _join(start: str, rest: str) -> str:
    return f"{start}.{rest}" if start and rest else start or rest


def _below(path: str, names: Mapping[str, Any]) -> list[str]:
    """The names within a part, without the part's own path."""
    start = f"{path}." if path else ""
    return [name[len(start) :] for name in names if name.startswith(start)]
