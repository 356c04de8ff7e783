# SPDX-License-Identifier: Apache-2.0
"""Who gives out parts, and the exchange of a model for its successor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import Any, NoReturn, TypeVar
from weakref import WeakValueDictionary

from ... import _core
from ..tree import tree
from . import attention, beit, blocks, eva, layers, naflex, rel_pos, rope, stem
from .module import Home, Module
from .walk import Walk, exchange

T = TypeVar("T")


def _classes(*files: ModuleType) -> dict[str, type[Module]]:
    return {
        kind.__name__: kind
        for file in files
        for kind in vars(file).values()
        if isinstance(kind, type) and issubclass(kind, Module)
    }


# The class of a part by the name that the tree has for it. Beit has classes of its own
# of names that others have, too.
_KINDS = _classes(layers, attention, blocks, eva, rope, rel_pos, stem, naflex)
_BEITS = {name: kind for name, kind in vars(beit).items() if name in beit.__all__}


def _kind_of(options: Mapping[str, Any], name: str) -> type[Module]:
    own = _BEITS.get(name) if options["family"] == "Beit" else None
    return own if own is not None else _KINDS[name]


def _part_of(home: Home, held: WeakValueDictionary[str, Module], path: str) -> Any:
    """The part at this path: one object for as long as anyone holds it."""
    with exchange:
        part = held.get(path)
        if part is None:
            options = home._snapshot()._options()
            modules = tree(options)
            if path not in modules:
                raise AttributeError(f"no part {path!r}")
            part = held[path] = _kind_of(options, modules[path][0])(home, path)
        return part


class HasParts(Walk, _core.VisionTransformer):
    """The base of a model that gives out its parts and makes its changes."""

    def _init_parts(self) -> None:
        self._parts: WeakValueDictionary[str, Module] = WeakValueDictionary()

    def _part(self, path: str) -> Any:
        return _part_of(self, self._parts, path)

    def _roots(self) -> list[tuple[str, _core.VisionTransformer, str]]:
        return [("", self._snapshot(), "")]

    def _at(self, name: str) -> Any:
        return self._part(name)

    def _load(self, path: str, value: Any, part: Module | None = None) -> None:
        """Loads the parameter at this path; part: whose it is."""

        def load(model: _core.VisionTransformer) -> None:
            with exchange:
                lost = part is not None and part._home is not self
            if lost:
                _refuse(path)
            if path not in model.param_shapes():
                raise AttributeError(
                    f"{path} cannot be assigned: this model was built without it"
                )
            model._replace(None, {path: value})

        self._change(load)

    def _change(
        self,
        change: Callable[[_core.VisionTransformer], T],
        fresh: Collection[str] = (),
    ) -> T:
        """Applies `change` to a snapshot, which then becomes the model; its result.

        change runs again if another thread has changed the model meanwhile. If it
        raises, the model stays as it was. fresh: paths of parts that it makes anew.
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
        fresh: Collection[str],
    ) -> None:
        """Lets held parts that `after` no longer has read from `before`."""
        # Not dict(self._parts): a part that another thread lets go of between its key
        # and its value would be a KeyError.
        refs = self._parts.valuerefs()
        held = {ref.key: part for ref in refs if (part := ref()) is not None}
        if not held:
            return
        modules, lost = tree(after._options()), _Lost(before)
        for path, part in held.items():
            kind = modules[path][0] if path in modules else None
            if path in fresh or kind != type(part).__name__:
                lost._parts[path] = self._parts.pop(path)
                part._home = lost


class _Lost:
    """The last state of a model that had these parts."""

    def __init__(self, state: _core.VisionTransformer) -> None:
        self._state = state
        self._parts: WeakValueDictionary[str, Module] = WeakValueDictionary()

    def _snapshot(self) -> _core.VisionTransformer:
        return self._state

    def _part(self, path: str) -> Any:
        return _part_of(self, self._parts, path)

    def _load(self, path: str, value: Any, part: Module | None = None) -> NoReturn:
        _refuse(path)


def _refuse(path: str) -> NoReturn:
    raise AttributeError(
        f"{path} cannot be assigned: the model no longer has this part, which keeps "
        "the weights it had"
    )
