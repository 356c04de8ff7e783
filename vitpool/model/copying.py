# SPDX-License-Identifier: Apache-2.0
"""Copies and pickles of a model, and the attributes that a user sets on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from .. import _core
from ..config import all_arguments_of
from .dtypes import Stored
from .facts import Facts
from .shown import Shown

if TYPE_CHECKING:
    from typing_extensions import Self

# What a pickle holds. 1, which vitpool 0.1.0 wrote without the number: the constructor
# arguments that differ from its defaults. 2: every argument that tells something of the
# model, so that no later default changes what a pickle means. 3: which parameters are
# random as well. 4: what is kept as another dtype than float32; a model without such
# parameters is still written as 3. The user's own attributes are the pickle's state, as
# pickle has it.
_PICKLE_VERSION = 4

# What to do in place of assigning a name that the model reads from its own state.
_INSTEAD = {
    "num_classes": "reset_classifier(num_classes) makes a new head",
    "global_pool": "reset_classifier(num_classes, global_pool) changes the pool",
    "head": "reset_classifier makes a new one, set_head one of given weights",
    "attn_pool": "reset_classifier(num_classes, 'map', add_attn_pool=True) makes one",
    "img_size": "set_input_size(img_size) resamples the positions",
    "patch_embed": "set_input_size resamples it, patch_embed.proj.weight = array loads",
    "blocks": "prune_intermediate_layers drops some, load_state_dict sets weights",
    "training": "a model computes inference only, and vitpool.train trains it",
    **dict.fromkeys(
        ("norm_pre", "norm", "fc_norm"),
        "its weight and bias can be, and load_state_dict sets all weights",
    ),
}


def refuse_own_name(kind: type[Facts], name: str) -> None:
    """AttributeError for a method or property of a model that has no setter."""
    owner = next((cls for cls in kind.__mro__ if name in vars(cls)), None)
    # Not what a subclass has defined, nor a slot of every object's (__class__).
    if owner is None or owner.__module__.partition(".")[0] != "vitpool":
        return
    member = vars(owner)[name]
    if isinstance(member, property):
        if member.fset is None:
            way = _INSTEAD.get(name, "the constructor's options say it")
            raise AttributeError(f"{name} of a model cannot be assigned: {way}")
    elif callable(member):
        raise AttributeError(
            f"{name} is a method of {kind._family} and cannot be assigned: a "
            "subclass may override it"
        )
    elif not name.startswith("__"):
        raise AttributeError(f"{name} of a model cannot be assigned: its class says it")


class Copying(Shown):
    """The part of a model that copies and pickles."""

    if not TYPE_CHECKING:  # for a type checker a subclass declares its attributes

        def __setattr__(self, name: str, value: Any) -> None:
            """Keeps an attribute of the user's own; copies and pickles take it along.

            AttributeError: a name of the model's own, which would be hidden and not
            changed.
            """
            refuse_own_name(type(self), name)
            super().__setattr__(name, value)

    def _bare_copy(self) -> Self:
        """A copy without the configuration and the user's own attributes."""
        copy = type(self).__new__(type(self))
        copy._adopt(self)
        copy._init_state()
        return copy

    def _own_attributes(self, bare: Copying) -> dict[str, Any]:
        """What the user has set on this model: all that a bare copy has not."""
        return {k: v for k, v in dict(vars(self)).items() if k not in vars(bare)}

    def __copy__(self) -> Self:
        copy = self._bare_copy()
        copy._pretrained_cfg = dict(self._pretrained_cfg)
        copy._drop_rates = dict(self._drop_rates)
        copy._rope_moves = dict(self._rope_moves)
        vars(copy).update(self._own_attributes(copy))
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Weights never change in place, so a copy may share them.
        copy = memo[id(self)] = self._bare_copy()
        copy._pretrained_cfg = deepcopy(self._pretrained_cfg, memo)
        copy._drop_rates = dict(self._drop_rates)
        copy._rope_moves = dict(self._rope_moves)
        vars(copy).update(deepcopy(self._own_attributes(copy), memo))
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        now = self._bare_copy()  # options and weights of one state
        arguments = all_arguments_of(now._options())
        arguments |= self._drop_rates | self._rope_moves
        stored = Stored.of(now)
        cfg, random = self._pretrained_cfg, now.untrained()
        made: tuple[Any, ...] = (type(self), arguments, stored.arrays, cfg, 3, random)
        if stored.dtypes:
            made = (*made[:4], _PICKLE_VERSION, random, stored.dtypes)
        own = self._own_attributes(now)
        return (_rebuild, made, own) if own else (_rebuild, made)


def _rebuild(
    cls: type[Copying],
    arguments: dict[str, Any],
    weights: dict[str, Any],
    pretrained_cfg: dict[str, Any],
    version: int = 1,
    untrained: Sequence[str] = (),
    dtypes: Mapping[str, str] = {},
) -> Copying:
    """A model from its pickle; see _PICKLE_VERSION.

    As with any pickle, the __init__ of a user's subclass is not called.
    """
    from . import CLASSES

    if version > _PICKLE_VERSION:
        raise ValueError(
            f"this pickle is of version {version}, written by a later vitpool; "
            f"{_core.__version__} reads versions up to {_PICKLE_VERSION}"
        )
    read = CLASSES[cls._family](**arguments, weights=Stored(weights, dtypes))
    read._replace(None, {}, untrained)
    model = cls.__new__(cls)
    model._adopt(read)
    model._init_state()
    model._drop_rates, model._rope_moves = read._drop_rates, read._rope_moves
    model.pretrained_cfg = pretrained_cfg
    return model


_rebuild.__module__ = "vitpool.model"  # the name that pickles hold, not this file's
