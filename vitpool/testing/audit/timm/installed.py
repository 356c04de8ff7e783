# SPDX-License-Identifier: Apache-2.0
"""The classes of the installed timm: those of the table, and those that it lacks."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

from ..finding import Audit, Skip
from .table import Entry, entries


def modules() -> Iterator[Any]:
    """The modules of timm.models that have models; timm is imported here."""
    import timm

    for name in timm.list_modules():
        yield importlib.import_module(f"timm.models.{name}")


def own_classes() -> dict[str, type]:
    """The classes of timm.models to audit, by name.

    Those with a reset_classifier of their own, and those that the function of a
    registered model is annotated with: a model that is registered is taken for a
    classifier by what is written for all of them.
    """
    found = {}
    for module in modules():
        own = [cls for cls in vars(module).values() if inspect.isclass(cls)]
        with_head = {cls for cls in own if "reset_classifier" in vars(cls)}
        for cls in own:
            if cls.__module__ != module.__name__:
                continue
            if cls in with_head or cls in _registered(module):
                found[f"{module.__name__.rpartition('.')[2]}.{cls.__name__}"] = cls
    return found


def _registered(module: Any) -> set[Any]:
    """What the functions of a module's registered models say that they return."""
    import timm

    names = timm.list_models(module=module.__name__.rpartition(".")[2])
    functions = [getattr(module, name) for name in names if hasattr(module, name)]
    return {inspect.signature(function).return_annotation for function in functions}


def classes(pattern: str = "*") -> list[Entry]:
    """The entries whose class (or its module, or its name alone) matches a pattern.

    A pattern is fnmatch's and takes case as it comes: 'vision_transformer*', 'Eva',
    'resnet.ResNet'.

    Raises:
        ValueError: no class matches.
    """
    found = [entry for entry in entries() if _matches(entry.cls, pattern, entry.name)]
    if not found:
        raise ValueError(f"no class of timm.models matches {pattern!r}")
    return found


def _matches(cls: str, pattern: str, name: str = "") -> bool:
    known = (cls, *cls.split("."))
    return name == pattern or any(fnmatch.fnmatchcase(text, pattern) for text in known)


def unaudited(pattern: str = "*") -> list[Audit]:
    """Reports of the classes that match a pattern and have no line in the table.

    A newer timm has some; a report without a model is one that broke.
    """
    had = {entry.cls for entry in entries()}
    skip = Skip("all", "the table of small models has no line for it", failed=True)
    return [
        Audit(name, (), (skip,), ())
        for name in own_classes()
        if name not in had and _matches(name, pattern)
    ]
