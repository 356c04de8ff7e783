# SPDX-License-Identifier: Apache-2.0
"""A trainer's options, checked, and the one table of their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from ..config import as_bool, as_float, as_int, plain
from ..model.constructor import random_seed
from ..text import did_you_mean
from .optimizers import OPTIMIZERS
from .parts import RATES, Part
from .schedule import SCHEDULES

Schedule = Literal["cosine", "constant"]


class Recipe(NamedTuple):
    """Defaults of one kind of training."""

    lr: Mapping[str, float]  # by optimiser
    per_256: frozenset[str]  # whose lr is multiplied by images a step / 256
    weight_decay: float
    layer_decay: float
    epochs: int
    warmup: float
    batch_size: int = 64


_ALL = frozenset(OPTIMIZERS)
_TUNED = {"adamw": 5e-4, "sgd": 1e-3, "lars": 1e-1}
# head: MAE's linear probe (arXiv 2111.06377: 90 epochs, 10 of warm-up, no decay, LARS
# 0.1 for 256 images); SGD's lr is in the middle of DINOv2's grid (2304.07193).
# pool: V-JEPA's attentive probe (2404.08471: AdamW 1e-3 to 0, decay 1e-3, 20 epochs);
# LARS as in "Attention, Please!" (2506.10178). blocks, all: fine-tuning of MAE and BEiT
# (2106.08254: AdamW 5e-4 for 256 images, decay 0.05, layer decay 0.75, 5 of warm-up).
RECIPES = {
    "head": Recipe(
        {"adamw": 1e-3, "sgd": 1e-2, "lars": 1e-1},
        *(frozenset({"sgd", "lars"}), 0.0, 1.0, 90, 10),
    ),
    "pool": Recipe(
        {"adamw": 1e-3, "sgd": 1e-2, "lars": 1e-1},
        *(frozenset({"sgd", "lars"}), 1e-3, 1.0, 20, 0),
    ),
    "blocks": Recipe(_TUNED, _ALL, 0.05, 0.75, 50, 5),
    "all": Recipe(_TUNED, _ALL, 0.05, 0.75, 100, 5),
}


@dataclass(frozen=True)
class Options:
    """What a Trainer was given, with every default put in."""

    optimizer: str
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    momentum: float
    layer_decay: float
    warmup: float
    schedule: str
    epochs: int
    batch_size: int
    accumulate: int
    clip_grad: float | None
    ema: float | None
    mixup: float
    cutmix: float
    patience: int | None
    seed: int
    checkpointing: bool
    memory: int | None

    def told(self) -> dict[str, Any]:
        """The options as JSON has them."""
        return {**asdict(self), "betas": list(self.betas)}


def recipe_of(train: Any, part: Part) -> Recipe:
    """The defaults of `train`, of which `part` has been made."""
    if isinstance(train, str):
        return RECIPES[train]
    if any(name.startswith("blocks.") for name in part.names):
        return RECIPES["all" if part.entry == "images" else "blocks"]
    kinds = {"images": "all", "pre_logits": "head"}
    return RECIPES[kinds.get(part.entry, "pool")]


def resolved(recipe: Recipe, given: Mapping[str, Any]) -> Options:
    """Options from Trainer's arguments; TypeError, ValueError name the argument."""

    def number(name: str, least: float = 0.0, below: float | None = None) -> float:
        value = as_float(given[name], name)
        if value < least or (below is not None and value >= below):
            end = "" if below is None else f" and below {below:g}"
            raise ValueError(f"{name} must be at least {least:g}{end}, not {value:g}")
        return value

    def default(name: str, value: float) -> float:
        return value if given[name] is None else number(name)

    optimizer = _one_of(given["optimizer"], "optimizer", OPTIMIZERS)
    batch = given["batch_size"]
    batch = recipe.batch_size if batch is None else as_int(batch, "batch_size", 1)
    accumulate = as_int(given["accumulate"], "accumulate", 1)
    lr = recipe.lr[optimizer]
    if optimizer in recipe.per_256:
        lr *= batch * accumulate / 256
    epochs = given["epochs"]
    epochs = recipe.epochs if epochs is None else as_int(epochs, "epochs", 1)
    warmup = default("warmup", recipe.warmup)
    if given["warmup"] is None:
        warmup *= epochs / recipe.epochs
    if warmup >= epochs:
        raise ValueError(f"warmup must be below epochs, {epochs}, not {warmup:g}")
    clip, ema, patience = given["clip_grad"], given["ema"], given["patience"]
    memory = given["memory"]
    if clip is not None and number("clip_grad") == 0:
        raise ValueError("clip_grad must be above 0, or None")
    return Options(
        optimizer=optimizer,
        lr=default("lr", lr),
        weight_decay=default("weight_decay", recipe.weight_decay),
        betas=_betas(given["betas"]),
        momentum=number("momentum", 0.0, 1.0),
        layer_decay=default("layer_decay", recipe.layer_decay),
        warmup=warmup,
        schedule=_one_of(given["schedule"], "schedule", SCHEDULES),
        epochs=epochs,
        batch_size=batch,
        accumulate=accumulate,
        clip_grad=None if clip is None else number("clip_grad"),
        ema=None if ema is None else number("ema", 0.0, 1.0),
        mixup=number("mixup"),
        cutmix=number("cutmix"),
        patience=None if patience is None else as_int(patience, "patience", 1),
        seed=random_seed(given["seed"]),
        checkpointing=as_bool(given["checkpointing"], "checkpointing"),
        memory=None if memory is None else as_int(memory, "memory", 1),
    )


def checked_rates(given: Mapping[str, Any]) -> dict[str, float | None]:
    """Rates of dropout by their names; None stays."""
    rates: dict[str, float | None] = {}
    for name in RATES:
        value = given[name]
        rates[name] = None if value is None else as_float(value, name)
        if value is not None and not 0.0 <= as_float(value, name) < 1.0:
            raise ValueError(f"{name} must be from 0 to below 1, not {value}")
    return rates


def _one_of(value: Any, what: str, names: tuple[str, ...]) -> str:
    allowed = ", ".join(map(repr, names))
    if not isinstance(value, str):
        raise TypeError(f"{what} must be {allowed}, not {type(value).__name__}")
    if value not in names:
        hint = did_you_mean(value, names)
        raise ValueError(f"{what} must be {allowed}, not {value!r}{hint}")
    return value


def _betas(value: Any) -> tuple[float, float]:
    value = plain(value)
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"betas must be two numbers, not {value!r}")
    first, second = (as_float(beta, "betas") for beta in value)
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ValueError(f"betas must be from 0 to below 1, not {value!r}")
    return first, second
