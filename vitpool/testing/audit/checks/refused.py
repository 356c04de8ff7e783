# SPDX-License-Identifier: Apache-2.0
"""A call that raises leaves the model as it was."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..finding import Finding, Skip
from ..registry import check
from ..subject import POOLS, Subject

COUNTS: tuple[Any, ...] = (None, -3, 2.5, True, "5")
# What a model tells of its head, be it an attribute or a property.
FACTS = ("num_classes", "global_pool", "num_features", "head_hidden_size", "drop_rate")
PLAIN = (bool, int, float, str, type(None))
# Names that are none; the checks of names try more.
NEAR: tuple[Any, ...] = ("map ", " avg", "CatAvgMax", "gem", b"avg")
MOST = 6  # changes that a message names, and a snippet looks at
Call = tuple[Any, ...]
Changes = tuple[tuple[str, str], ...]  # (path, how it is compared)
OUTPUT = ("output", "numbers")


@dataclass
class Snapshot:
    """All of a model by path, as 'head.weight' or 'head.training'.

    objects: modules and parameters, which must stay the very same. values: attributes
    of plain values, training modes among them. state: the arrays, as copies.
    """

    objects: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)

    def changed(self, after: Snapshot) -> Changes:
        """What is not as it was; of a module that is another, no more than that."""
        gone = object()
        values = [
            (path, "==")
            for path, value in self.values.items()
            if (new := after.values.get(path, gone)) != value
            or type(new) is not type(value)
        ]
        objects = [
            (path, "is")
            for path, value in self.objects.items()
            if after.objects.get(path, gone) is not value
        ]
        numbers = [
            (path, "numbers")
            for path, value in self.state.items()
            if path not in after.state
            or not np.array_equal(value, after.state[path], equal_nan=True)
        ]
        others = tuple(f"{path}." for path, _ in objects)
        told = {path for path, _ in (*values, *objects)}
        found = [*values, *objects, *(item for item in numbers if item[0] not in told)]
        return tuple(item for item in found if not item[0].startswith(others))


def snapshot(subject: Subject, model: Any) -> Snapshot:
    """The model as it is now; what it holds is kept alive."""
    taken = Snapshot(state=subject.state(model))
    for path, module in subject.kind.modules(model).items():
        if path:
            taken.objects[path] = module
        for name, value in getattr(module, "__dict__", {}).items():
            if name.isidentifier() and _is_plain(value):
                taken.values[f"{path}.{name}".lstrip(".")] = copy.copy(value)
    for name in FACTS:
        value = getattr(model, name, None)
        if _is_plain(value):
            taken.values[name] = value
    for path, parameter in subject.kind.parameters(model).items():
        if not isinstance(parameter, np.ndarray):  # those are views, new each time
            taken.objects[path] = parameter
    return taken


def _is_plain(value: Any) -> bool:
    if type(value) in (tuple, list):
        return all(_is_plain(item) for item in value)
    if type(value) is dict:
        return all(_is_plain(item) for item in value.values())
    return isinstance(value, PLAIN)


def expression(path: str) -> str:
    """The Python expression for what lies at a path of `model`."""
    parent, _, name = path.rpartition(".")
    if not name.isidentifier():
        return f"model.get_submodule({path!r})"
    if all(part.isidentifier() for part in parent.split(".")):
        return f"model.{path}"
    return f"model.get_submodule({parent!r}).{name}" if parent else f"model.{name}"


def calls(subject: Subject) -> list[Call]:
    """Arguments that reset_classifier may refuse: names, counts, pools it has not."""
    counts: list[Call] = [(count,) for count in COUNTS]
    if not subject.pools:
        return counts
    if subject.slow:
        return [(5, "map "), (5, "CatAvgMax"), (0, "map "), (-3,), (2.5,), (2.5, "avg")]
    return [
        *((5, name) for name in (*NEAR, *POOLS)),
        *((0, name) for name in ("map ", "gem")),
        *counts,
        *((count, pool) for count in (None, 2.5) for pool in subject.pools),
    ]


def starts(subject: Subject) -> list[dict[str, Any]]:
    """Options of the models to try: none, and pools that have weights of their own."""
    own = set(subject.state(subject.example))
    found: list[dict[str, Any]] = [{}]
    for pool in subject.pools:
        if pool != subject.pool(subject.example) and pool:
            keys = set(subject.state(subject.build(global_pool=pool)))
            if len(keys - own) > 2:  # more than a norm that moved
                found.append({"global_pool": pool})
    return found


@check(
    "a reset_classifier that raises leaves attributes, modules, parameters, training "
    "mode and output as they were (timm and its copies set num_classes, and some the "
    "pool, before they look at the name)"
)
def a_refused_reset_changes_nothing(subject: Subject) -> Iterator[Finding | Skip]:
    """Each kind of damage is told once, with the calls that do it."""
    name = "a_refused_reset_changes_nothing"
    if subject.slow:
        yield Skip(name, f"six calls alone: {subject.slow}")
    refused = 0
    told: set[Changes] = set()
    for built in starts(subject):
        damage: dict[Changes, list[Call]] = defaultdict(list)
        model = None
        for call in calls(subject):
            if model is None:
                model = subject.build(**built)
                subject.fill(model)
                out, before = subject.run(model), snapshot(subject, model)
            try:
                subject.reset(model, *call)
            except Exception:
                refused += 1
            else:
                model = None  # accepted: not what this is about
                continue
            changed = before.changed(snapshot(subject, model))
            if not changed and not _runs_as_before(subject, model, out):
                changed = (OUTPUT,)
            if changed:
                damage[changed].append(call)
                model = None
        for changes, by in damage.items():
            if changes not in told:
                yield _finding(subject, name, built, changes, by)
        told |= set(damage)
    if not refused:
        yield Skip(name, "reset_classifier refuses nothing that was tried")


def _runs_as_before(subject: Subject, model: Any, out: np.ndarray) -> bool:
    try:
        return np.array_equal(subject.run(model), out, equal_nan=True)
    except Exception:
        return False


def _finding(
    subject: Subject, name: str, built: dict[str, Any], changes: Changes, by: list[Call]
) -> Finding:
    """What a kind of damage is, and the first call that does it as a program."""
    call = f"reset_classifier({', '.join(map(repr, by[0]))})"
    more = f" (and {len(by) - 1} more calls)" if by[1:] else ""
    model = "".join(f" of a {pool!r} model" for pool in built.values())
    parts = any(how != "==" for _, how in changes)
    kind = "parts of it" if parts else "what it tells of itself"
    what = ", ".join(path for path, _ in changes[:MOST])
    what += f" and {len(changes) - MOST} more" if changes[MOST:] else ""
    before, after = _compared(changes[:MOST])
    lines = ["try:", f"    model.{call}", "except Exception:", "    pass"]
    return Finding(
        name,
        "C",
        f"{call}{more}{model} raises, after it has changed {kind}: {what}",
        subject.snippet(*before, *lines, *after, **built),
    )


def _compared(changes: Changes) -> tuple[list[str], list[str]]:
    """Lines that keep what is there, and lines that assert that it still is."""
    before, after = [], []
    for number, (path, how) in enumerate(changes):
        if (path, how) == OUTPUT:
            text = "model(x)"
        elif how == "numbers":
            text = f"model.state_dict()[{path!r}]"
        else:
            text = expression(path)
        kept = f"before_{number}"
        now = f"{text} {how} {kept}"
        if how == "numbers":
            now = f"({text} == {kept}).all()"
            text += " + 0"  # a copy, of a tensor or an array
        before.append(f"{kept} = {text}")
        after.append(f"assert {now}, {f'{path} has changed'!r}")
    return before, after
