# SPDX-License-Identifier: Apache-2.0
"""A part of a model: the base of all, and what its attributes are.

A part reads from the model: as long as the model has it, it shows what the model is
now. A part that a change took away (a pruned block, the head before reset_classifier)
keeps the weights that it had, and computes with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    NoReturn,
    Protocol,
    TypeVar,
    overload,
)

from ... import _core
from ...config import defaults_of
from ...text import did_you_mean
from ..tensors import like
from .walk import Float32, Walk, exchange

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
M = TypeVar("M", bound="Module")

# How another value of a fact is had, by its name or its whole path.
_WAYS = {
    "img_size": "model.set_input_size(img_size=...) changes it",
    "patch_size": "model.set_input_size(patch_size=...) changes it",
    "grid_size": "model.set_input_size changes it",
    "num_patches": "model.set_input_size changes it",
    "window_size": "model.set_input_size changes it",
    "window_area": "model.set_input_size changes it",
    "feat_shape": "model.set_input_size changes it",
    "strict_img_size": "{family}(dynamic_img_size=True) takes any size",
    "dynamic_img_pad": "{family}(dynamic_img_pad=True) pads",
    "eps": "{family}(norm_layer=(name, eps)) has another",
    "num_heads": "{family}(num_heads=...) has others",
    "head.out_features": "model.reset_classifier(num_classes) makes another head",
}
# Facts of classes that take images of any size.
_DYNAMIC = {"strict_img_size": "dynamic_img_size", "dynamic_img_pad": "dynamic_img_pad"}


class Home(Protocol):
    """What a part is of: a model, or the last state of one that had the part."""

    def _snapshot(self) -> _core.VisionTransformer: ...
    def _part(self, path: str) -> Any: ...
    def _load(self, path: str, value: Any, part: Module | None = None) -> None: ...


class Module(Walk):
    """A part of a model by its path, as timm's module of that path and class.

    Parameters are new read-only float32 arrays. Assigning one loads it into the model,
    whole or not at all: ``model.head.weight = array``. Writing into an array that was
    read is refused by NumPy. What is no parameter cannot be assigned.

    An annotation names the class that timm's defaults give. An option may put another
    in its place, or an Identity where the model has no such part; a bias that the model
    has not is None.
    """

    __slots__ = ("__weakref__", "_home", "_path")

    def __init__(self, home: Home, path: str) -> None:
        self._home = home
        self._path = path

    def _now(self) -> _core.VisionTransformer:
        """The state of the model that this part shows."""
        with exchange:
            return self._home._snapshot()

    def _option(self, name: str) -> Any:
        return self._now()._options()[name]

    def _roots(self) -> list[tuple[str, _core.VisionTransformer, str]]:
        return [("", self._now(), self._path)]

    def _at(self, name: str) -> Any:
        return self._home._part(f"{self._path}.{name}")

    # -- computing --

    def __call__(self, x: Any) -> Float32:
        """What this part makes of x, as timm's module of its class does: a new float32
        array, or a torch tensor where x is one.

        ValueError: x has another shape than the message names. TypeError: x is no array
        of floats. NotImplementedError: timm's module, too, does not compute by itself.
        """
        return self.forward(x)

    def forward(self, x: Any) -> Float32:
        """The same as calling it."""
        return like(x, self._compute(self._now(), x))

    def _compute(self, now: _core.VisionTransformer, x: Any) -> Float32:
        return now._run_part(self._path, x)

    # -- attributes --

    def __dir__(self) -> list[str]:
        """The names of timm's module of this class, and the methods."""
        own = {name for name in super().__dir__() if not name.startswith("_")}
        return sorted(own | {n for n in self._child_names() if n.isidentifier()})

    def _refusal(self, name: str, what: str) -> AttributeError:
        """What to say of a name that this part has not."""
        words = [n for n in dir(self) if n not in dir(Module)]
        has = ", ".join(words) or "no parameters and no parts"
        return AttributeError(
            f"{self._path} is {type(self).__name__} and has no {name!r}{what}"
            f"{did_you_mean(name, dir(self))}; it has {has}"
        )

    if not TYPE_CHECKING:  # for a type checker no name is known but those declared

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            with exchange:
                if name in self._child_names():
                    return self._at(name)
            raise self._refusal(name, "")

        def __setattr__(self, name: str, value: Any) -> None:
            if not hasattr(type(self), name):
                raise self._refusal(name, " to assign to")
            object.__setattr__(self, name, value)


def states_of(parts: Iterable[Module]) -> list[_core.VisionTransformer]:
    """What each part shows at one moment: parts of one model show one state of it."""
    with exchange:
        found = list(parts)
        homes = {id(part._home): part._home for part in found}
        states = {key: home._snapshot() for key, home in homes.items()}
        return [states[id(part._home)] for part in found]


class Weight:
    """A parameter: a new read-only float32 array of this shape; assigning loads it."""

    def __init__(self, shape: str) -> None:
        self.__doc__ = f"{shape}, a parameter: assigning an array loads it."

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: Module, owner: type) -> Float32: ...
    def __get__(self, part: Module | None, owner: type) -> Any:
        if part is None:
            return self
        try:
            return part._now().get_parameter(f"{part._path}.{self._name}")
        except KeyError:
            return None  # as in torch: a bias that was not asked for

    def __set__(self, part: Module, value: Any) -> None:
        part._home._load(f"{part._path}.{self._name}", value, part)


class Child(Generic[M]):
    """A part of a part."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: Module, owner: type) -> M: ...
    def __get__(self, part: Module | None, owner: type) -> Any:
        return self if part is None else part._at(self._name)

    def __set__(self, part: Module, value: NoReturn) -> NoReturn:
        raise AttributeError(
            f"{part._path}.{self._name} cannot be assigned: assign its parameters, or "
            "load_state_dict takes many at once"
        )


class Option(Child[M]):
    """A part that some models have not: None there, as timm's attribute is."""

    @overload  # type: ignore[override] # of some models there is nothing to give
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: Module, owner: type) -> M | None: ...
    def __get__(self, part: Module | None, owner: type) -> Any:
        if part is None:
            return self
        with exchange:
            has = self._name in part._child_names()
            return part._at(self._name) if has else None


class Fact(Generic[T]):
    """What a part is: a property whose refusal says how to have another value."""

    def __init__(self, read: Callable[[Any], T]) -> None:
        self._read = read
        self.__doc__ = read.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: Module, owner: type) -> T: ...
    def __get__(self, part: Module | None, owner: type) -> Any:
        return self if part is None else self._read(part)

    def __set__(self, part: Module, value: NoReturn) -> NoReturn:
        path = f"{part._path}.{self._name}"
        way = _WAYS.get(path) or _WAYS.get(
            self._name, "the constructor's options say it"
        )
        family = part._now()._options()["family"]
        option = _DYNAMIC.get(self._name)
        if option is not None and option not in defaults_of(family):
            way = "{family} takes images of one size"
        way = way.format(family=family)
        raise AttributeError(f"{path} cannot be assigned: {way}")
