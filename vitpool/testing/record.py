# SPDX-License-Identifier: Apache-2.0
"""A model's outputs of one day, as a side to compare a model with."""

from __future__ import annotations

import hashlib
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from .. import _core
from .comparison.pictures import input_of
from .comparison.side import Array, Side, Stages, place
from .seeded import images as seeded_images

# timm's names of what its tests keep, and the stages that they are in a model which has
# all of them.
ROLES = {"output": "head", "pre_logits": "fc_norm", "features": "norm"}
# The stage before this one has that role; None: the last of all.
_FOLLOWED = {"pool": "features", "head": "pre_logits", None: "output"}


class Record(Side):
    """Some stages of a model, with the pictures they are of and the facts of that day.

    stored: outputs by stage. roles: the stages that are timm's `output` (logits),
    `pre_logits` (pooled, as the head gets them) and `features` (tokens, as the pool
    gets them). made: what may change numbers and is no part of the configuration, as
    `surroundings` tells it. seed: of `testing.images`, where that gives the pictures.
    """

    def __init__(
        self,
        name: str,
        images: Array,
        stored: Mapping[str, Array],
        roles: Mapping[str, str] = ROLES,
        configuration: Mapping[str, Any] | None = None,
        made: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> None:
        self.name = name
        self.images: Array = np.ascontiguousarray(images)
        _, channels, height, width = images.shape
        self.input_size = (channels, height, width)
        self.stored = {
            # in C order: safetensors writes a transposed array's memory as it lies
            stage: np.ascontiguousarray(stored[stage])
            for stage in sorted(stored, key=place)
        }
        self.roles = {role: stage for role, stage in roles.items() if stage in stored}
        self.configuration = dict(configuration or {})
        self.made = dict(made or {})
        self.seed = seed

    def facts(self) -> dict[str, Any]:
        """What it was made with, and the configuration; nothing in a file of timm's."""
        return {**self.made, **self.configuration}

    def parameters(self) -> Mapping[str, Array]:
        """None are stored: `made` has their digest."""
        return {}

    def pixels(self, files: Sequence[Any]) -> NoReturn:
        """TypeError: a record has numbers for its own pictures alone."""
        raise TypeError(f"{self.name} is a record, of its own pictures alone")

    def stages(self, images: Array) -> Stages:
        """The stored outputs. ValueError for other pictures than the record's."""
        if not np.array_equal(images, self.images, equal_nan=True):
            raise ValueError(f"{self.name} is a record, of other pictures than these")
        for name, output in self.stored.items():
            if (yield name, output) is not None:
                raise TypeError(f"{self.name} is a record: nothing goes on from {name}")

    def exact(self) -> Side:
        """TypeError: a record cannot be computed anew."""
        raise TypeError(f"{self.name} is a record, which cannot be had in float64")

    def drawn(self, seed: int) -> Side:
        """TypeError: a record cannot be computed anew."""
        raise TypeError(f"{self.name} is a record, whose weights cannot be drawn")

    def beside(self, side: Side) -> Record:
        """Another side as a record of the same pictures and stages, as far as it has
        them, to compare with this one.

        timm's names are compared with themselves, under the stage that each is here:
        what the pool gets is another stage in a model that ends without a norm. Facts
        that this record has not are left out of the other.
        """
        if isinstance(side, Record):
            other = side
        else:
            plays = {stage: role for role, stage in self.roles.items()}
            wanted = [plays.get(stage, stage) for stage in self.stored]
            other = _run(side, self.images, wanted, self.seed)
        stored = {
            stage: output
            for stage, output in other.stored.items()
            if stage in self.stored or stage not in other.roles.values()
        } | {
            self.roles[role]: other.stored[stage]
            for role, stage in other.roles.items()
            if role in self.roles
        }
        configuration = other.configuration if self.configuration else {}
        made = other.made if self.made else {}
        return Record(
            other.name,
            other.images,
            stored,
            self.roles,
            configuration,
            made,
            other.seed,
        )


def record_of(
    side: Side,
    images: Any = None,
    intermediates: Iterable[int | str] = (),
    *,
    features: bool = False,
) -> Record:
    """Runs a side, and keeps its logits, what the head gets, and `intermediates`.

    images: (B, C, H, W), or files, by the side's own preprocessing; None stands for
    `testing.images` of the side. intermediates:
    blocks by index, from the last where negative, and stages by name. features: is what
    the pool gets kept too, as if it were among them by this name?
    Raises TypeError or ValueError for a block or a stage that the side has not.
    """
    x = seeded_images(side) if images is None else input_of(side, images)
    wanted = [*_wanted(intermediates, side), *(["features"] if features else [])]
    record = _run(side, x, wanted, 0 if images is None else None)
    for name in wanted:
        if name not in (*record.stored, *record.roles):
            raise ValueError(f"{side.name} has no stage {name!r}")
    return record


def _run(side: Side, images: Array, wanted: Sequence[str], seed: int | None) -> Record:
    """A record of a side, with those of the wanted stages and roles that it has."""
    kept = {*wanted, "output", "pre_logits"}
    stored: dict[str, Array] = {}
    roles: dict[str, str] = {}
    name = ""
    for name, output, following in _with_next(side.stages(images)):
        role = _FOLLOWED.get(following)
        if role:
            roles[role] = name
        if name in kept or role in kept:
            stored[name] = output
    roles.setdefault("pre_logits", name)  # of a model without a head
    return Record(
        side.name, images, stored, roles, side.facts(), surroundings(side), seed
    )


def _with_next(stages: Stages) -> Iterator[tuple[str, Array, str | None]]:
    """Each stage, and the name of the one that follows; None after the last.

    The end of a block is the block: blocks.3.mlp is blocks.3.
    """
    before = None
    for name, output in stages:
        if before:
            yield *before, name
        before = name.removesuffix(".mlp"), output
    if before:
        yield *before, None


def _wanted(intermediates: Iterable[int | str], side: Side) -> list[str]:
    """Intermediates as names of stages, or an error before anything is run."""
    if isinstance(intermediates, (str, int)):
        raise TypeError(
            "intermediates must be several blocks or stages, as [-1, 'norm'], not "
            f"{intermediates!r}"
        )
    keys = side.parameters()
    depth = len({key.split(".")[1] for key in keys if key.startswith("blocks.")})
    names = []
    for each in intermediates:
        if not isinstance(each, str):
            index = operator.index(each)
            if not -depth <= index < depth:
                raise ValueError(f"intermediates: no block {index}, there are {depth}")
            each = f"blocks.{index % depth}"
        elif each not in ROLES:
            place(each)
        names.append(each.removesuffix(".mlp"))
    return names


def surroundings(side: Side) -> dict[str, Any]:
    """What may change a side's numbers and is no part of its configuration."""
    made = {"weights": digest_of(side.parameters()), "vitpool": _core.__version__}
    module = getattr(side, "module", None)
    if module is None:
        model = getattr(side, "model", None)
        dtype = "float32" if model is None else str(model.dtype)
        return made | {"dtype": dtype, "target": _core.show_config()["target"]}
    dtypes = {str(p.dtype).removeprefix("torch.") for p in module.parameters()}
    torch = str(sys.modules["torch"].__version__)
    return made | {"dtype": ", ".join(sorted(dtypes)), "torch": torch}


def digest_of(parameters: Mapping[str, Array]) -> str:
    """A text that changes with any parameter, and not with their order."""
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(parameters):
        array = np.ascontiguousarray(parameters[key])
        digest.update(f"{key} {array.shape} {array.dtype}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
