# SPDX-License-Identifier: Apache-2.0
"""The small models of `models.txt`, read."""

from __future__ import annotations

import ast
import builtins
import functools
import re
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from ..subject import Subject


@dataclass(frozen=True)
class Entry:
    """A small model of one of timm's classes: what `audit` takes, and its name.

    name: the class in its module, as 'vision_transformer.VisionTransformer', with a
    label where there are several. source: Python text after which `make` builds it.
    input_size: (channels, height, width) of its pictures, or None where trying finds
    it. kwargs: of the small model.
    """

    name: str
    source: str
    input_size: tuple[int, int, int] | None
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def cls(self) -> str:
        """The class in its module, without the label."""
        return self.name.partition("[")[0]

    def subject(self) -> Subject:
        """The subject of an audit; timm is imported here."""
        names: dict[str, Any] = {}
        exec(self.source, names)
        return Subject(
            names["make"],
            source=self.source,
            input_size=self.input_size,
            name=self.name,
            kwargs=self.kwargs,
        )


def _read(line: str) -> Entry:
    """A line: the name, the size and the call, with two spaces or more between them."""
    name, size, text = re.split(r"\s{2,}", line, maxsplit=2)
    call = ast.parse(text, mode="eval").body
    if not isinstance(call, ast.Call):
        raise ValueError(f"not a call: {text!r}")
    kwargs, rest = {}, []
    for keyword in call.keywords:
        try:
            kwargs[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:  # not a plain value: it stays in the source
            rest.append(keyword)
    source = _source(name.partition(".")[0], ast.Call(call.func, call.args, rest))
    height, _, width = size.partition("x")
    return Entry(name, source, (3, int(height), int(width or height)), kwargs)


def _source(module: str, call: ast.Call) -> str:
    """Text that makes the `make` of a call."""
    used = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
    own = sorted(used - {"create_model"} - set(dir(builtins)))
    lines = []
    if "create_model" in used:
        lines.append("from timm import create_model")
    if own:
        lines.append(f"from timm.models.{module} import {', '.join(own)}")
    func = ast.unparse(call.func)
    if not call.args and not call.keywords:
        return "\n".join([*lines, f"make = {func}"])
    # A function, not a partial: some constructors use up what they are given.
    given = [ast.unparse(value) for value in call.args]
    values = [f"{key.arg!r}: {ast.unparse(key.value)}" for key in call.keywords]
    given.append(f"**{{{', '.join(values)}}} | kwargs" if values else "**kwargs")
    call_text = f"{func}({', '.join(given)})"
    return "\n".join([*lines, "", "def make(**kwargs):", f"    return {call_text}"])


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All of the table, in its order: by class."""
    text = resources.files(__package__).joinpath("models.txt").read_text("utf-8")
    lines = (line.strip() for line in text.splitlines())
    return tuple(_read(line) for line in lines if line and not line.startswith("#"))
