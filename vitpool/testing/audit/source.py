# SPDX-License-Identifier: Apache-2.0
"""Values and callables as the text of a program that makes them again."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any


class Code(str):
    """A value of kwargs that is written as it stands: the name of a variable."""

    __slots__ = ()
    __repr__ = str.__str__


def is_importable(value: Any) -> bool:
    """Whether `from MODULE import NAME` gives this very object in another process."""
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", "")
    if not module or not name.isidentifier() or module in ("__main__", "builtins"):
        return False
    try:
        return getattr(importlib.import_module(module), name, None) is value
    except ImportError:
        return False


def expression(value: Any, imports: set[str]) -> str:
    """The value as an expression; what it needs is added to `imports`, a line each."""
    if isinstance(value, functools.partial):
        imports.add("import functools")
        parts = [expression(item, imports) for item in (value.func, *value.args)]
        parts += arguments(value.keywords, imports)
        return f"functools.partial({', '.join(parts)})"
    if isinstance(value, dict):
        pairs = [
            f"{expression(k, imports)}: {expression(v, imports)}"
            for k, v in value.items()
        ]
        return "{" + ", ".join(pairs) + "}"
    if type(value) in (list, tuple):
        inner = ", ".join(expression(item, imports) for item in value)
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if is_importable(value):
        imports.add(f"from {value.__module__} import {value.__qualname__}")
        return str(value.__qualname__)
    if isinstance(value, type) and value.__module__ == "builtins":
        return value.__name__
    return repr(value)


def arguments(kwargs: Mapping[str, Any], imports: set[str]) -> list[str]:
    """Keyword arguments as they are written in a call."""
    return [f"{key}={expression(value, imports)}" for key, value in kwargs.items()]


def definition(make: Callable[..., Any]) -> str:
    """Python text after which `make` is that callable, by importing it.

    What cannot be imported (a lambda, a function of a function, one of __main__)
    becomes a line that says so when it runs: give `source` for one that does.
    """
    imports: set[str] = set()
    inner = make.func if isinstance(make, functools.partial) else make
    if not is_importable(inner):
        what = f"define `make` here: {inner!r} cannot be imported"
        return f"raise NameError({what!r})"
    text = expression(make, imports)
    if text == inner.__qualname__ != "make":
        return f"from {make.__module__} import {text} as make"
    return "\n".join(
        [*sorted(imports), *([f"make = {text}"] if text != "make" else [])]
    )


def options_of(make: Callable[..., Any]) -> dict[str, Any]:
    """The names and defaults of what a callable takes (`inspect`'s empty: no default).

    Behind the **kwargs of a class stand the constructors of its bases, and the fields
    of a dataclass that is the type of one of its arguments (NaFlexVit's `cfg`).
    """
    if isinstance(make, functools.partial):
        return options_of(make.func) | make.keywords
    found: dict[str, Any] = {}
    bases = make.__mro__[:-1] if isinstance(make, type) else ()
    functions = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]
    for function in functions or [make]:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # a constructor of C
            break
        for parameter in parameters:
            if parameter.kind in (
                parameter.POSITIONAL_OR_KEYWORD,
                parameter.KEYWORD_ONLY,
            ):
                found.setdefault(parameter.name, parameter.default)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
        found = _fields(function) | found
    found.pop("self", None)
    return found


def flags_of(model: Any, method: str) -> set[str]:
    """The names of what a method takes, its bases' behind its **kwargs included."""
    found: set[str] = set()
    bases = [vars(kind)[method] for kind in type(model).__mro__ if method in vars(kind)]
    for function in bases or [getattr(model, method)]:
        parameters = inspect.signature(function).parameters
        found |= parameters.keys()
        if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            break
    return found


def _fields(function: Callable[..., Any]) -> dict[str, Any]:
    """The fields of dataclasses among the types of a function's arguments."""
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):
        return {}
    kinds = {kind for hint in hints.values() for kind in (hint, *typing.get_args(hint))}
    return {
        field.name: field.default
        for kind in kinds
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
        for field in dataclasses.fields(kind)
    }
