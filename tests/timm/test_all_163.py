# SPDX-License-Identifier: Apache-2.0
"""Every architecture of timm's vision_transformer.py: keys, shapes and outputs.

Models of more than 100 million parameters are cut to two blocks, every other option
kept. VITPOOL_WHOLE_BELOW=3e9 keeps all of them whole, in some 40 GiB.
"""

from __future__ import annotations

import gc
import os
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
WHOLE_BELOW = float(os.environ.get("VITPOOL_WHOLE_BELOW", "100e6"))


def on_meta(name: str, **options: Any) -> Any:
    """timm's model without memory for its weights."""
    with torch.device("meta"):
        return timm.create_model(name, weight_init="skip", **options).eval()


def weights(model: Any) -> dict[str, np.ndarray]:
    """The recipe's scales with numbers that NumPy draws fast."""
    rng = np.random.default_rng(0)
    out = {}
    for key, shape in reference.shapes(model).items():
        u = rng.random(shape, np.float32)
        u *= 2
        u -= 1
        out[key] = recipe.scaled(key, u)
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


def our_views(model: Any, x: np.ndarray) -> dict[str, Any]:
    """The same, each by its own method."""
    out = reference.views(model, x)
    both = model.forward_intermediates(x, indices=[0, -1])
    return out | {"forward_intermediates": list(both)}


def test_the_names_are_timms() -> None:
    assert len(NAMES) == 163
    assert set(vitpool.list_models()) >= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_agrees(name: str) -> None:
    model = on_meta(name)
    options: dict[str, Any] = {}
    if sum(p.numel() for p in model.parameters()) > WHOLE_BELOW:
        options["depth"] = 2
        model = on_meta(name, depth=2)
    state = weights(model)
    tensors = {k: torch.from_numpy(v) for k, v in state.items()}
    model.load_state_dict(tensors, assign=True)
    ours = vitpool.create_model(name, weights=state, **options)
    shapes = [(k, tuple(v)) for k, v in ours.param_shapes().items()]
    assert shapes == list(reference.shapes(model).items())
    channels, height, width = model.pretrained_cfg["input_size"]
    assert (height, width) == tuple(model.patch_embed.img_size)
    x = recipe.picture((1, channels, height, width))
    exact, plain = reference.both(model, timms_views, x)
    del model, tensors
    gc.collect()
    RATIOS[name] = reference.compare(our_views(ours, x), exact, plain, name)


def test_errors_are_no_larger_than_timms_on_the_whole() -> None:
    """Over the models that ran before in this session."""
    if not RATIOS:
        pytest.fail("run this test together with the models")
    ratios = [ratio for found in RATIOS.values() for ratio in found]
    assert measure.mean_ratio(ratios) < 1.1
