# SPDX-License-Identifier: Apache-2.0
"""What models of timm's other classes look at: return_attn, plots, the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from concepts import CONCEPTS, small_of
from golden import recipe
from PIL import Image

import vitpool
from vitpool import cli, plot

X = recipe.picture((2, 3, 32, 48))
PATCHES = 6


@pytest.mark.parametrize("name", CONCEPTS)
def test_weights_are_of_every_token_and_sum_to_1(name: str) -> None:
    model = small_of(name)
    depth, tokens = len(model.blocks), PATCHES + model.num_prefix_tokens
    logits, maps = model(X, return_attn=list(range(depth)))
    np.testing.assert_allclose(logits, model(X), rtol=1e-4, atol=1e-5)
    for weights in maps.values():
        assert weights.shape == (2, 4, tokens, tokens)
        assert weights.min() >= 0
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", CONCEPTS)
def test_a_map_is_the_class_tokens_or_the_mean_over_tokens(name: str) -> None:
    model = small_of(name)
    prefix = model.num_prefix_tokens
    _, maps = model(X, return_attn=[-1])
    weights = maps[-1][..., prefix:]
    row = weights[..., 0, :] if model.has_class_token else weights.mean(axis=-2)
    heat = plot.attention_maps(model, X, -1)
    assert heat.shape == (2, 4, 2, 3)
    np.testing.assert_allclose(heat.reshape(2, 4, PATCHES), row, rtol=1e-6)
    rolled = plot.rollout(model, X)
    assert rolled.shape == (2, 2, 3)
    assert np.isfinite(rolled).all()
    if model.attn_pool is not None:
        heads = model.attn_pool.num_heads
        assert plot.attention_maps(model, X).shape == (2, heads, 2, 3)


@pytest.mark.parametrize(
    "name", ["eva-dinov3", "eva-mixed", "beit", "relpos", "naflex"]
)
def test_the_command_draws_it(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, out = tmp_path / "model", tmp_path / "seen.png"
    model = small_of(name)
    model.pretrained_cfg = {"input_size": (3, 32, 48), "num_classes": 5}
    model.save_pretrained(folder)
    argv = ["attention", "-q", *vitpool.samples()[:2], "-o", out, "--layer=-1,rollout"]
    code = cli.main([*map(str, argv), "-m", f"local-dir:{folder}"])
    assert (code, *capsys.readouterr()) == (0, f"{out}\n", "")
    with Image.open(out) as image:
        assert image.width > 200
