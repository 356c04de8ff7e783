# SPDX-License-Identifier: Apache-2.0
"""Where the stages of a torch module are read in its own forward, and replaced there.

A part is known by its name in the module, as timm and its forks have them; what they
do between the parts (rope, masks, residuals) is theirs. A block's stream after
attention is what goes into norm2 or, where a norm follows the MLP, into the MLP. If it
is only the block's input, or norm1's output, attention and MLP cannot be told apart:
the block is one stage.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

from .side import place

# What goes on from a tensor: itself, or another in its place.
See: TypeAlias = Callable[[Any], Any]


def first_tensor(value: Any) -> Any:
    """The first tensor of what a module gives or gets; None: there is none."""
    if hasattr(value, "detach"):
        return value
    if hasattr(value, "values"):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((item for item in value if hasattr(item, "detach")), None)
    return None


def _with_first(value: Any, tensor: Any) -> Any:
    """The same with another first tensor."""
    if isinstance(value, (tuple, list)):
        old = first_tensor(value)
        return type(value)([tensor if item is old else item for item in value])
    return tensor


def is_there(part: Any) -> bool:
    """Is this a module that does something?"""
    return hasattr(part, "register_forward_hook") and type(part).__name__ != "Identity"


def blocks_of(module: Any) -> list[Any]:
    """The blocks in order, those in lists of lists too."""
    found: list[Any] = []
    for block in module.blocks:
        if type(block).__name__ == "ModuleList":
            found.extend(filter(is_there, block))
        else:
            found.append(block)
    return found


class Stages:
    """The stages that a forward comes by: each once and in order.

    stage(name, tensor) gives what goes on in place of the tensor.
    """

    def __init__(self, stage: Callable[[str, Any], Any]) -> None:
        self._stage = stage
        self._last = (-1, 0, 0)
        # The last stage as it went on.
        self.gone: Any = None

    def __call__(self, name: str, tensor: Any) -> Any:
        """What goes on from here; the tensor itself where this is no stage to come."""
        if self.is_past(name):
            return tensor
        self._last = place(name)
        self.gone = self._stage(name, tensor)
        return self.gone

    def is_past(self, name: str) -> bool:
        """Has this stage been, or one after it?"""
        return place(name) <= self._last


def _here(see: See) -> See:
    """The same in this thread. In another somebody else runs the module."""
    thread = threading.get_ident()
    return lambda tensor: see(tensor) if threading.get_ident() == thread else tensor


def _before(part: Any, see: See) -> Any:
    """Let `see` have what goes into a part. What it gives goes in."""
    here = _here(see)

    def hook(_: Any, args: Any) -> Any:
        tensor = first_tensor(args)
        if tensor is None:
            return None
        seen = here(tensor)
        return None if seen is tensor else _with_first(args, seen)

    return part.register_forward_pre_hook(hook)


def _after(part: Any, see: See) -> Any:
    """Let `see` have what comes out of a part. What it gives goes on."""
    here = _here(see)

    def hook(_: Any, __: Any, output: Any) -> Any:
        tensor = first_tensor(output)
        if tensor is None:
            return None
        seen = here(tensor)
        return None if seen is tensor else _with_first(output, seen)

    return part.register_forward_hook(hook)


class _Block:
    """A block on its way: where its attention ends and its MLP begins."""

    def __init__(self, stages: Stages, indices: list[int]) -> None:
        self._stages = stages
        self._indices = deque(indices)  # a module may be several blocks
        self._path = ""
        self._whole = True
        self._input: tuple[Any, int] = (None, 0)
        # norm1's output; the stream, its numbers then, and what goes on in its place.
        self._normed: Any = None
        self._stream: Any = None
        self._own: Any = None
        self._given: Any = None

    def enter(self, x: Any) -> Any:
        self._path = f"blocks.{self._indices.popleft()}" if self._indices else ""
        self._whole = not self._path
        self._input = x, x._version
        self._normed = self._stream = self._own = self._given = None
        return x

    def norm1(self, x: Any) -> Any:
        self._normed = x
        return x

    def mlp(self, x: Any) -> Any:
        """What goes into norm2, an MLP, or one of several that are parallel."""
        if self._stream is None and not self._whole:
            before, version = self._input  # to which a fork may add in place
            untouched = x is before and x._version == version
            self._whole = untouched or x is self._normed
            name = f"{self._path}.attn"
            if not self._whole and not self._stages.is_past(name):
                self._stream, self._own = x, x.clone()
                self._given = self._stages(name, x)
        return self._given if x is self._stream else x

    def leave(self, x: Any) -> Any:
        if not self._path:
            return x
        if self._stream is None:
            return self._stages(self._path, x)
        if self._given is not self._stream:
            x = self._given + (x - self._own)  # what the MLP adds, to what was given
        self._stream = self._own = None
        return self._stages(f"{self._path}.mlp", x)


def _block_hooks(block: Any, stages: Stages, indices: list[int]) -> Iterator[Any]:
    state = _Block(stages, indices)
    yield _before(block, state.enter)
    if is_there(getattr(block, "norm1", None)):
        yield _after(block.norm1, state.norm1)
    heads = [getattr(block, name, None) for name in ("norm2", "mlp")]
    for part in (*heads, *getattr(block, "ffns", ())):
        if is_there(part):
            yield _before(part, state.mlp)
    yield _after(block, state.leave)


def _hooks(module: Any, stages: Stages) -> Iterator[Any]:
    def named(name: str) -> See:
        return lambda tensor: stages(name, tensor)

    def part(name: str) -> Any:
        found = getattr(module, name, None)
        return found if hasattr(found, "register_forward_hook") else None

    blocks = blocks_of(module)
    if is_there(part("patch_embed")):
        yield _after(part("patch_embed"), named("patch_embed"))
    # Whichever of these comes first gets the tokens with their positions.
    firsts = [
        part("norm_pre"),
        *blocks[:1],
        part("norm"),
        part("fc_norm"),
        part("head"),
    ]
    for first in firsts:
        if first is not None:
            yield _before(first, named("pos_embed"))
    for name in ("norm_pre", "norm", "fc_norm", "head", "head_dist"):
        if name in ("fc_norm", "head") and part(name) is not None:
            yield _before(part(name), named("pool"))
        if is_there(part(name)):
            yield _after(part(name), named(name))
    indices: dict[int, list[int]] = {}
    for index, block in enumerate(blocks):
        indices.setdefault(id(block), []).append(index)
    for block in {id(block): block for block in blocks}.values():
        yield from _block_hooks(block, stages, indices[id(block)])


@contextmanager
def hooked(module: Any, stage: Callable[[str, Any], Any]) -> Iterator[Stages]:
    """Lets `stage` have each stage of a forward in this thread; then removes all."""
    stages = Stages(stage)
    with ExitStack() as stack:
        for handle in _hooks(module, stages):
            stack.callback(handle.remove)
        yield stages
