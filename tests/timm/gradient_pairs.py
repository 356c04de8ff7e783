# SPDX-License-Identifier: Apache-2.0
"""One model as ours and as timm's, whose gradients are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import autograd
import numpy as np
import reference
from autograd import Goal
from golden import recipe
from gradient_measure import FLOOR, Found, errors, passes, worst

import vitpool
from vitpool.train import gradients

# Numbers nearer to a kink than this may fall on the other side of it.
KINK = 1e-5
# One largest error is luck. Where it is beyond the limit, so many versions of the input
# that differ by a thousandth, as well or as badly conditioned, are compared too.
INPUTS, NEARBY = 2, 32


class Pair:
    """Ours and timm's of the same options, with the recipe's weights."""

    def __init__(self, options: Mapping[str, Any], seed: int = 0) -> None:
        self.options = dict(options)
        self.timm = reference.build(options)
        weights = reference.fill(self.timm, seed)
        self.ours = vitpool.VisionTransformer(**options, weights=weights)


def ours(
    pair: Pair,
    part: autograd.Part,
    x: np.ndarray,
    aim: Goal,
    *,
    rates: Mapping[str, float],
    seed: int = 0,
    image: int = 0,
    mask: np.ndarray | None = None,
    **how: Any,
) -> Found:
    """The core's: x stands at the part's entry."""
    entry, block = autograd.entry(pair.timm, part)
    shapes = pair.ours.param_shapes()
    names = autograd.trained(pair.timm, part)
    grads = {name: np.zeros(shapes[name], np.float32) for name in names}
    losses, logits = pair.ours._gradients(
        x,
        aim.targets,
        grads,
        entry=entry,
        block=block if entry == "block" else 0,
        loss=aim.kind,
        weights=aim.weights,
        scale=aim.scale,
        groups=aim.groups,
        rates=dict(rates),
        seed=seed,
        image=image,
        mask=mask,
        **how,
    )
    return Found(losses, logits, grads)


def public(
    pair: Pair,
    part: autograd.Part,
    x: np.ndarray,
    aim: Goal,
    *,
    rates: Mapping[str, float],
    seed: int = 0,
    image: int = 0,
    mask: np.ndarray | None = None,
    **how: Any,
) -> Found:
    """vitpool.train.gradients': x stands at the part's entry, or is pictures."""
    if image or aim.groups > 1:
        raise ValueError("a batch of its own, and one head")
    loss, grads = gradients(
        pair.ours,
        x,
        aim.labels,
        train=part,
        seed=seed,
        attn_mask=mask,
        **{f"{name}_rate": rate for name, rate in rates.items()},
        **aim.public,
        **how,
    )
    return Found(np.array([loss]), None, grads)


def agree(
    options: Mapping[str, Any],
    part: autograd.Part = "all",
    loss: str = "hard",
    *,
    batch: int = 3,
    size: tuple[int, ...] | None = None,
    rates: Mapping[str, float] | None = None,
    mask: tuple[str, tuple[int, ...]] | None = None,
    groups: int = 1,
    seed: int = 0,
    image: int = 0,
    count: int = INPUTS,
    door: Callable[..., Found] = ours,
    **how: Any,
) -> float:
    """Assert that gradients, loss and logits agree; returns our error over torch's.

    size: of images (C, H, W); mask: kind and shape, of recipe.mask; count: of inputs;
    door: `ours` or `public`; how: the rest of the door's options.
    """
    pair = Pair(options, seed)
    rates = rates or {}
    if door is public:
        part = autograd.least(pair.timm, part)
    model = autograd.drop(pair.timm, part, rates, seed, image)
    shape = (batch, *(size or (pair.timm.in_chans, *pair.timm.patch_embed.img_size)))
    classes = pair.timm.num_classes // groups
    seen = recipe.mask(*mask, seed) if mask else None
    mine: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []

    def compare(x: np.ndarray, aim: Goal) -> bool:
        """Adds the errors for this input, unless it is near a kink."""
        with autograd.kinks() as gaps:
            exact = autograd.gradients(model, part, x, aim, seen, double=True)
        if min(gaps, default=1.0) < KINK:
            return False
        plain = autograd.gradients(model, part, x, aim, seen)
        dropped = {"rates": rates, "seed": seed, "image": image}
        got = door(pair, part, x, aim, mask=seen, **dropped, **how)
        mine.append(errors(got, exact))
        theirs.append(errors(plain, exact))
        return True

    kept, number = [], seed
    while len(kept) < count:
        number += 1
        if number > seed + 20 * count:
            raise AssertionError("no input was found that is far from every kink")
        aim = autograd.goal(loss, batch, classes, number, groups)
        x = autograd.inputs(pair.timm, part, recipe.picture(shape, number), seen)
        if compare(x, aim):
            kept.append((x, aim))
    if not passes(mine, theirs):
        for x, aim in kept:
            for near in reference.versions(x, NEARBY)[1:]:
                compare(near, aim)
    (error, name), (torchs, _) = worst(mine), worst(theirs)
    if not passes(mine, theirs):
        beside = max(row[name] for row in theirs)
        raise AssertionError(
            f"{name}: error {error:.3g}; torch's float32 has {beside:.3g} there and "
            f"{torchs:.3g} at most. {part=} {loss=} {rates=} {mask=} {seed=} {options=}"
        )
    return error / max(torchs, FLOOR)
