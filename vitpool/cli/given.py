# SPDX-License-Identifier: Apache-2.0
"""What a user names that is no model of ours: code of their own, as text."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..text import did_you_mean, some
from .errors import UsageError, one_line

MODULE_PREFIX = "torch:"
FORMS = "torch:package.module:Class or file.py:Class"
# What has these names is in use by everybody: no file of a user's takes their place.
_SHARED = {*sys.stdlib_module_names, "numpy", "torch", "vitpool"}

# Where code lies that is not the user's: Python's own, what is installed, and ours.
_INSTALLED = (
    *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]) + os.sep,
)
_MOST = 300  # letters of what an error says


class _Place(NamedTuple):
    """Where an object's text says that it is."""

    module: str  # dotted
    name: str  # in the module, dotted where it is an attribute of a class; '' unsaid
    root: Path  # from where the module is imported
    file: Path | None  # of the module, where the text names a file


def is_object(text: str) -> bool:
    """Whether a text names code: torch:package.module:Class or file.py:Class."""
    file = text.rpartition(":")[0]
    return text.startswith(MODULE_PREFIX) or file.endswith(".py") or _is_file(text)


def _is_file(text: str) -> bool:
    """Whether a text is that of a Python file without a class."""
    return text.endswith(".py") and not os.path.isdir(text)


def _place(text: str) -> _Place:
    if text.startswith(MODULE_PREFIX):
        module, _, name = text.removeprefix(MODULE_PREFIX).partition(":")
        return _Place(module, name, Path.cwd(), None)
    path, _, name = (text, "", "") if _is_file(text) else text.rpartition(":")
    file = Path(path).resolve()
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    root, parts = file.parent, [file.stem]
    while (root / "__init__.py").is_file():  # as Python names what is in a package
        root, parts = root.parent, [root.name, *parts]
    if parts[-1] == "__init__":
        parts.pop()
    return _Place(".".join(parts), name, root, file)


def load_object(text: str) -> Callable[..., Any]:
    """The class or function that torch:package.module:Class or file.py:Class names.

    The file may lie in a package, and import what lies beside it. A module of that name
    from elsewhere stays with those who have it, so that two copies of a package can be
    loaded one after the other: build what the first one makes before.

    UsageError where the text has no such form, the module cannot be imported or raises,
    it has no such name, or that makes no torch module; FileNotFoundError.
    """
    place = _place(text)
    if not place.module or not place.name:
        module = _imported(place, text) if place.module else None
        raise UsageError(
            f"{text}: say the class, or the function that makes a model, as {FORMS}"
            + (_made_there(module) if module else "")
        )
    found: Any = _imported(place, text)
    for part in place.name.split("."):
        if not hasattr(found, part):
            near = did_you_mean(part, dir(found))
            raise UsageError(f"{text}: no such name{near or _made_there(found)}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(
            f"{text}: must be a class, or a function that makes a model, got "
            f"{type(found).__name__}"
        )
    if isinstance(found, type) and not makes_models(found):
        raise UsageError(
            f"{text}: must be a torch module (torch.nn.Module), its bases are "
            f"{some(base.__name__ for base in found.__mro__[1:])}"
        )
    return found


def source_of(text: str) -> str:
    """Python lines that import what a text names, as `make`."""
    place = _place(text)
    outer, _, rest = place.name.partition(".")
    if place.file and not _is_importable(place.module):
        lines = [
            "import runpy",
            f"make = runpy.run_path({str(place.file)!r})[{outer!r}]",
        ]
    else:
        lines = ["import sys", f"sys.path.insert(0, {str(place.root)!r})"]
        lines.append(f"from {place.module} import {outer} as make")
    if rest:
        lines.append(f"make = make.{rest}")
    return "\n".join(lines)


def _is_importable(module: str) -> bool:
    """Whether a file of this name can be had by an import statement."""
    parts = module.split(".")
    return all(part.isidentifier() for part in parts) and parts[0] not in _SHARED


def _imported(place: _Place, text: str) -> Any:
    """The module; what it raises as one line that says where."""
    root = str(place.root)
    if root not in sys.path:
        sys.path.insert(0, root)
    if place.file:
        _make_way(place.root)
    try:
        if place.file is None or _is_importable(place.module):
            return importlib.import_module(place.module)
        name = f"given_{place.module}"
        spec = importlib.util.spec_from_file_location(name, place.file)
        assert spec is not None  # the file is there
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:
        raise UsageError(f"{text}: {where(error)}") from error


def _make_way(root: Path) -> None:
    """Forget modules of the names that lie in a folder, where they are not its own.

    Python would give those of another copy in their place, in silence.
    """
    own = {p.stem for p in root.glob("*.py")} | {
        p.parent.name for p in root.glob("*/__init__.py")
    }
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        file = getattr(module, "__file__", None)
        if top in own - _SHARED and file and not Path(file).is_relative_to(root):
            del sys.modules[name]
    sys.path.remove(str(root))
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()


def where(error: BaseException) -> str:
    """What code raised, in one line, and in which line of the user's own."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*_INSTALLED, "<"))
    ]
    line = f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""
    if isinstance(error, SyntaxError):  # which says where itself
        line = ""
    kind, what = type(error).__name__, one_line(error)
    if len(what) > _MOST:
        what = f"{what[:_MOST]} ..."
    return (what if what == kind else f"{kind}: {what}") + line


def makes_models(kind: type) -> bool:
    """Whether what a class makes are models, torch's or ours."""
    from ..model import PlainViT

    torch = sys.modules.get("torch")
    known = (PlainViT, *([torch.nn.Module] if torch is not None else ()))
    return issubclass(kind, known)


def _made_there(module: Any) -> str:
    """'; it has ...': the models that are made in a module, or nothing."""
    names = [
        name
        for name, kind in vars(module).items()
        if inspect.isclass(kind)
        and kind.__module__ == getattr(module, "__name__", None)
        and makes_models(kind)
    ]
    return f"; it has {some(names)}" if names else ""
