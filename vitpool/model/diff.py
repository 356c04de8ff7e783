# SPDX-License-Identifier: Apache-2.0
"""model.diff(before): what a change did to each part, in words and as lists."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from .. import _core
from ..config import all_arguments_of
from .parts import Float32

Shape = tuple[int, ...]

# The title of a block, or of several in a row.
_BLOCKS = re.compile(r"blocks\.\d+(-\d+)?")


@dataclass(frozen=True)
class Difference:
    """What a model is beside what it was; true if it differs in anything.

    added, removed, changed, kept: names of parameters; `changed` have another shape,
    other bits or another dtype, `kept` are the same bit for bit. untrained: those of
    the model that are random, drawn and not loaded since. largest: for each changed one
    of the same shape the largest |difference|. options: for each constructor argument
    that changed (what it was, what it is); shapes: the same for every parameter, None
    where there is none; dtypes: the same for those that are kept as another dtype.
    """

    added: list[str]
    removed: list[str]
    changed: list[str]
    kept: list[str]
    untrained: list[str]
    largest: dict[str, float]
    options: dict[str, tuple[Any, Any]]
    shapes: dict[str, tuple[Shape | None, Shape | None]]
    dtypes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.options)

    def lines(self) -> list[str]:
        """A line for each part, in the model's order, and one for each option."""
        lines: list[_Told] = []
        for told in self._told():
            if not (lines and lines[-1].take(told)):
                lines.append(told)
        return [
            *map(self._line, lines),
            *(
                f"{name}: {was!r} -> {now!r}"
                for name, (was, now) in self.options.items()
            ),
        ]

    def __str__(self) -> str:
        same = "" if self else "no difference\n"
        return same + "\n".join(self.lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def _dtype_of(self, names: Iterable[str]) -> str:
        """', float32 -> int8' where these are kept as another dtype."""
        pairs = dict.fromkeys(self.dtypes[n] for n in names if n in self.dtypes)
        return "".join(f", {was} -> {now}" for was, now in pairs)

    def _state(self, name: str) -> str:
        """What happened to one parameter."""
        random = name in self.untrained
        if name in self.removed:
            return "dropped"
        if name in self.kept:
            return f"kept, bit for bit{', untrained' if random else ''}"
        if random:
            return "new, untrained"
        return "new" if name in self.added else "changed"

    def _told(self) -> Iterator[_Told]:
        """Each part of one state whole; of another part each parameter that was not
        kept, and then the others."""
        for part, group in groupby(self.shapes, _part_of):
            names = list(group)
            states = {name: self._state(name) for name in names}
            if len(set(states.values())) == 1:
                yield _Told(part, names, states[names[0]])
                continue
            kept: dict[str, list[str]] = {}
            for name in names:
                if name in self.kept:
                    kept.setdefault(states[name], []).append(name)
                else:
                    yield _Told(name, [name], states[name])
            for state, others in kept.items():
                yield _Told(f"{part}, {len(others)} others", others, state)

    def _line(self, told: _Told) -> str:
        text = f"{told.title}: {told.state}"
        shapes = {self.shapes[n] for n in told.names if not n.endswith("bias")}
        (was, now) = shapes.pop() if len(shapes) == 1 else (None, None)
        if told.state.startswith("new") and now:
            return f"{text} {now}"
        if told.state == "changed":
            text += self._dtype_of(told.names)
            largest = [self.largest[n] for n in told.names if n in self.largest]
            if largest:  # NaN, where one is or was, is the largest
                return f"{text}, max |difference| {np.max(largest):.3g}"
            return f"{text}, {was} -> {now}" if now else f"{text}, other shapes"
        return text


@dataclass
class _Told:
    """Parameters that are told of in one line."""

    title: str
    names: list[str]
    state: str

    def take(self, other: _Told) -> bool:
        """Makes one line of two blocks of one state, if these are."""
        titles = self.title, other.title
        if self.state != other.state or not all(map(_BLOCKS.fullmatch, titles)):
            return False
        first = self.title.partition("-")[0]
        self.title = f"{first}-{other.title.rpartition('.')[2]}"
        self.names += other.names
        return True


def _part_of(name: str) -> str:
    """The part that a parameter is told of with: a block, or what the model has."""
    words = name.split(".")
    return ".".join(words[: 2 if words[0] == "blocks" else 1])


def difference(
    before: _core.VisionTransformer, now: _core.VisionTransformer
) -> Difference:
    """What is different in `now`, both of them snapshots."""
    old, new = before.param_shapes(), now.param_shapes()
    changed, kept, largest = [], [], {}
    was_of, is_of = before._dtypes(), now._dtypes()
    dtypes = {
        name: (was_of[name], is_of[name])
        for name in new
        if old.get(name) == new[name] and was_of[name] != is_of[name]
    }
    for name in new:
        if name not in old:
            continue
        if old[name] != new[name]:
            changed.append(name)
            continue
        was, is_ = before.get_parameter(name), now.get_parameter(name)
        if name not in dtypes and np.array_equal(
            was.view(np.uint32), is_.view(np.uint32)
        ):
            kept.append(name)
        else:
            changed.append(name)
            largest[name] = _largest(was, is_)
    return Difference(
        added=[name for name in new if name not in old],
        removed=[name for name in old if name not in new],
        changed=changed,
        kept=kept,
        untrained=now.untrained(),
        largest=largest,
        options=_options(before._options(), now._options()),
        dtypes=dtypes,
        shapes={n: (old.get(n), new.get(n)) for n in _merged(old, new)},
    )


def _largest(was: Float32, now: Float32) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.max(np.abs(now - was)))


def _options(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    old, new = all_arguments_of(before), all_arguments_of(now)
    return {k: (old[k], new[k]) for k in new if old[k] != new[k]}


def _merged(old: Iterable[str], new: Iterable[str]) -> list[str]:
    """The names of both in the order of `new`; one of `old` alone follows the name that
    it followed."""
    out = list(new)
    known = set(out)
    after = 0
    for name in old:
        if name in known:
            after = out.index(name) + 1
        else:
            out.insert(after, name)
            after += 1
    return out
