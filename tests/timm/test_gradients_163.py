# SPDX-License-Identifier: Apache-2.0
"""Every architecture of timm's vision_transformer.py, one block of it, is trained.

At its own width and with all of its own options, on pictures of 4 x 4 patches; of those
that are one model then, which are as many as there are sizes of pictures, the first.
Models whose blocks do not train are refused by name, and their heads and pools train.
"""

from __future__ import annotations

from typing import Any

import autograd
import numpy as np
import pytest
import reference
import timm
import torch
from golden import recipe
from gradient_measure import errors, passes
from gradient_pairs import Pair, public
from timm.models.vision_transformer import Attention, Block, ResPostBlock

import vitpool
from vitpool.checkpoint.live_timm import read_options

CLASSES, BATCH = 5, 2


def cut(name: str) -> dict[str, Any]:
    """The options that cut a model of this name."""
    with torch.device("meta"):
        whole = timm.create_model(name, weight_init="skip", depth=1)
    rows, columns = whole.patch_embed.patch_size
    options = {"img_size": (4 * rows, 4 * columns), "depth": 1, "num_classes": CLASSES}
    # else there is nothing to classify
    return options if whole.global_pool else options | {"global_pool": "avg"}


def firsts() -> list[str]:
    """The first name of each model that is left when all are cut."""
    found: dict[str, str] = {}
    for name in timm.list_models(module="vision_transformer"):
        with torch.device("meta"):
            model = timm.create_model(name, weight_init="skip", **cut(name))
        what = str((model, read_options(model)))
        found.setdefault(what, name)
    return list(found.values())


class Named(Pair):
    """Ours and timm's of an architecture, cut to one block and 4 x 4 patches."""

    def __init__(self, name: str) -> None:
        self.options = cut(name)
        self.timm = timm.create_model(name, **self.options).eval()
        weights = reference.fill(self.timm)
        self.ours = vitpool.create_model(name, weights=weights, **self.options)


def compared(pair: Named, part: Any) -> None:
    part = autograd.least(pair.timm, part)
    shape = (BATCH, pair.timm.in_chans, *pair.options["img_size"])
    x = autograd.inputs(pair.timm, part, recipe.picture(shape))
    aim = autograd.goal("smoothed", BATCH, CLASSES, 0)
    exact = autograd.gradients(pair.timm, part, x, aim, double=True)
    plain = autograd.gradients(pair.timm, part, x, aim)
    got = errors(public(pair, part, x, aim, rates={}), exact)
    beside = errors(plain, exact)
    assert passes([got], [beside]), (got, beside)


@pytest.mark.parametrize("name", firsts())
def test_an_architecture_trains(name: str) -> None:
    pair = Named(name)
    block = pair.timm.blocks[0]
    if type(block) in (Block, ResPostBlock) and type(block.attn) is Attention:
        compared(pair, "all")
        return
    compared(pair, 0)
    x = np.zeros((BATCH, pair.timm.in_chans, *pair.options["img_size"]), np.float32)
    aim = autograd.goal("hard", BATCH, CLASSES, 0)
    with pytest.raises(ValueError, match="does not train yet"):
        public(pair, 1, x, aim, rates={})
