# SPDX-License-Identifier: Apache-2.0
"""Every architecture of timm's vision_transformer.py: keys, shapes and outputs.

A model is cut to two blocks, every other option kept, where timm's weights and ours
together would not fit into 20 GiB, or where one pass takes more than 10^11
operations, which leaves 69 whole: all take some eight minutes, and 25 with 10^12.
VITPOOL_WHOLE=1 lifts the second limit. VITPOOL_OPERATIONS is another: where two blocks
take more than that, the pictures are smaller, too.
"""

from __future__ import annotations

import gc
import math
import os
import zlib
from collections.abc import Iterator
from typing import Any

import measure
import numpy as np
import pytest
import reference
import timm
import torch
from golden import recipe
from timm.models.vision_transformer import ResPostBlock

import vitpool

NAMES = timm.list_models(module="vision_transformer")
RATIOS: dict[str, list[float]] = {}
ROOM = 20 * 2**30
WHOLE = os.environ.get("VITPOOL_WHOLE") == "1"
GIVEN = os.environ.get("VITPOOL_OPERATIONS")
OPERATIONS = float("inf") if WHOLE else float(GIVEN or 1e11)


def on_meta(name: str, **options: Any) -> Any:
    """timm's model without memory for its weights."""
    with torch.device("meta"):
        return timm.create_model(name, weight_init="skip", **options).eval()


def operations(model: Any) -> float:
    """Of one pass of a picture, roughly."""
    n, width, depth = model.patch_embed.num_patches, model.embed_dim, len(model.blocks)
    in_blocks = sum(p.numel() for p in model.blocks.parameters())
    return 2 * n * in_blocks + 4 * n * n * width * depth


def cut(model: Any) -> dict[str, Any]:
    """The options that make the model small enough; none where it is."""
    count = sum(p.numel() for p in model.parameters())
    if 2 * 4 * count <= ROOM and operations(model) <= OPERATIONS:
        return {}
    two = operations(model) * 2 / len(model.blocks)
    if not GIVEN or two <= OPERATIONS:
        return {"depth": 2}
    part = math.sqrt(OPERATIONS / two)  # of the patches each way
    embed = model.patch_embed
    sides = zip(embed.grid_size, embed.patch_size, strict=True)
    return {"depth": 2, "img_size": tuple(max(4, int(n * part)) * p for n, p in sides)}


def weights(model: Any) -> dict[str, np.ndarray]:
    """The recipe's scales with numbers that cost little: a million, again and again.

    Their number is a prime, so that no row repeats another.
    """
    pool = np.random.default_rng(0).uniform(-1, 1, 1_000_003).astype(np.float32)
    out = {}
    for key, shape in reference.shapes(model).items():
        count = math.prod(shape)
        numbers = np.resize(np.roll(pool, zlib.crc32(key.encode())), count)
        out[key] = recipe.scaled(key, numbers.reshape(shape))
        if isinstance(model.blocks[0], ResPostBlock) and ".norm" in key:
            # These norms stand behind attention and MLP and start at 1e-5. Near 1 the
            # residual grows so that timm itself in float32 is off by 3e-5.
            out[key] *= np.float32(0.1)
    return out


def timms_views(model: Any, x: Any) -> dict[str, Any]:
    """All outputs from one pass: the final features are forward_features."""
    final, layers = model.forward_intermediates(x, indices=[0, -1])
    return {
        "forward_features": final,
        "pre_logits": model.forward_head(final, pre_logits=True),
        "forward": model.forward_head(final),
        "forward_intermediates": [final, layers],
    }


def exact_views(model: Any, x: np.ndarray) -> Any:
    """timms_views in float64; it uses the model up.

    A block becomes float64 when its turn comes and is dropped after it: the largest
    models would not fit into memory otherwise.
    """

    def widen(block: Any, inputs: Any) -> None:
        block.double()

    def drop(block: Any, inputs: Any, output: Any) -> None:
        block.to("meta")

    for name, child in model.named_children():
        if name != "blocks":
            child.double()
    for parameter in model.parameters(recurse=False):
        parameter.data = parameter.data.double()
    for block in model.blocks:
        block.register_forward_pre_hook(widen)
        block.register_forward_hook(drop)
    with torch.no_grad(), reference.unrounded():
        return reference.arrays(timms_views(model, reference.tensor(x, double=True)))


def our_views(model: Any, x: np.ndarray) -> dict[str, Any]:
    """The same, each by its own method."""
    out = reference.views(model, x)
    both = model.forward_intermediates(x, indices=[0, -1])
    return out | {"forward_intermediates": list(both)}


def test_the_names_are_timms() -> None:
    assert len(NAMES) == 163
    assert set(vitpool.list_models()) >= set(NAMES)


@pytest.fixture(scope="module")
def all_cores() -> Iterator[None]:
    """Large models do compute more than they wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("all_cores")
@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_agrees(name: str) -> None:
    model = on_meta(name)
    options = cut(model)
    if options:
        model = on_meta(name, **options)
    state = weights(model)
    tensors = {k: torch.from_numpy(v) for k, v in state.items()}
    model.load_state_dict(tensors, assign=True)
    ours = vitpool.create_model(name, weights=state, **options)
    del state, tensors
    shapes = [(k, tuple(v)) for k, v in ours.param_shapes().items()]
    assert shapes == list(reference.shapes(model).items())
    channels, height, width = model.pretrained_cfg["input_size"]
    height, width = options.get("img_size", (height, width))
    assert (height, width) == tuple(model.patch_embed.img_size)
    x = recipe.picture((1, channels, height, width))
    with torch.no_grad():
        plain = reference.arrays(timms_views(model, reference.tensor(x)))
    exact = exact_views(model, x)
    del model
    gc.collect()
    RATIOS[name] = reference.compare(our_views(ours, x), exact, plain, name)


def test_errors_are_no_larger_than_timms_on_the_whole() -> None:
    """Over the models that ran before in this session."""
    if not RATIOS:
        pytest.fail("run this test together with the models")
    ratios = [ratio for found in RATIOS.values() for ratio in found]
    assert measure.mean_ratio(ratios) < 1.1
