# SPDX-License-Identifier: Apache-2.0
"""Optimisers, groups, schedules and mixing beside their formulas in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from models import small

from vitpool.train.mix import mix
from vitpool.train.optimizers import Optimizer, clip, groups_of, norm_of
from vitpool.train.schedule import factor

SHAPES: dict[str, tuple[int, ...]] = {
    **{"head.weight": (10, 32), "head.bias": (10,), "pos_embed": (1, 5, 32)},
    **{"blocks.0.mlp.fc1.weight": (128, 32), "cls_token": (1, 1, 32)},
}
LR, DECAY, BETAS, MOMENTUM = 0.03, 0.1, (0.8, 0.95), 0.7
STEPS = 20


def reference(name: str) -> Any:
    """A step of `name` on float64 arrays; its state is in the closure."""
    memory: dict[str, Any] = {}

    def adamw(key: str, w: Any, g: Any, lr: float, decay: float, step: int) -> Any:
        m, v = memory.get(key, (0, 0))
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * g**2
        memory[key] = m, v
        m_hat, v_hat = m / (1 - BETAS[0] ** step), v / (1 - BETAS[1] ** step)
        return w - lr * decay * w - lr * m_hat / (np.sqrt(v_hat) + 1e-8)

    def sgd(key: str, w: Any, g: Any, lr: float, decay: float, step: int) -> Any:
        memory[key] = MOMENTUM * memory.get(key, 0) + g + decay * w
        return w - lr * memory[key]

    def lars(key: str, w: Any, g: Any, lr: float, decay: float, step: int) -> Any:
        if w.ndim > 1:
            g = g + decay * w
            g = g * 0.001 * np.linalg.norm(w) / np.linalg.norm(g)
        memory[key] = MOMENTUM * memory.get(key, 0) + g
        return w - lr * memory[key]

    return {"adamw": adamw, "sgd": sgd, "lars": lars}[name]


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_twenty_steps_are_the_formulas(name: str) -> None:
    rng = np.random.default_rng(0)
    groups = groups_of(small(), SHAPES, 0.75)
    w = {k: rng.standard_normal(s).astype(np.float32) for k, s in SHAPES.items()}
    exact = {k: a.astype(np.float64) for k, a in w.items()}
    options: dict[str, Any] = {"betas": BETAS, "momentum": MOMENTUM}
    optimizer = Optimizer(name, groups, SHAPES, weight_decay=DECAY, **options)
    step_of = reference(name)
    for step in range(1, STEPS + 1):
        g = {k: rng.standard_normal(s).astype(np.float32) for k, s in SHAPES.items()}
        lr = LR / step
        optimizer.step(w, g, lr, step)
        for key in SHAPES:
            # Of these five, timm has only matrices of Linear layers decay.
            decay = DECAY if key.endswith("weight") else 0.0
            # Depth 1: the stem, the block, and what follows.
            behind = {"head": 0, "blocks": 1}.get(key.split(".")[0], 2)
            exact[key] = step_of(
                key,
                exact[key],
                g[key].astype(np.float64),
                lr * 0.75**behind,
                decay,
                step,
            )
    for key, array in w.items():
        np.testing.assert_allclose(array, exact[key], rtol=2e-5, atol=2e-6)


def test_groups_are_timms_of_a_whole_model() -> None:
    model = small(depth=2, reg_tokens=1, qk_norm=True, init_values=0.1, pre_norm=True)
    groups = groups_of(model, model.param_shapes(), 0.5)
    scale = {name: group.lr_scale for name, group in groups.items()}
    stem = ("cls_token", "reg_token", "pos_embed", "patch_embed.proj.weight")
    assert {scale[n] for n in (*stem, "norm_pre.weight")} == {0.5**3}
    assert scale["blocks.0.norm1.weight"] == 0.5**2
    assert scale["blocks.1.mlp.fc2.bias"] == scale["norm.weight"] == 0.5
    assert scale["head.weight"] == 1
    decays = {name for name, group in groups.items() if group.decays}
    matrices = ("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight", "head.weight")
    assert decays == {name for name in groups if name.endswith(matrices)}


def test_clipping_shortens_what_is_longer() -> None:
    rng = np.random.default_rng(1)
    given = {k: rng.standard_normal(s).astype(np.float32) for k, s in SHAPES.items()}
    exact = math.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in given.values()))
    norm = norm_of(given.values())
    assert norm == pytest.approx(exact, rel=1e-12)
    clipped = {k: g.copy() for k, g in given.items()}
    clip(clipped, norm, exact / 4)
    for key, g in given.items():
        np.testing.assert_allclose(clipped[key], g / 4, rtol=1e-6)
    kept = {k: g.copy() for k, g in given.items()}
    clip(kept, norm, 2 * exact)
    assert all(np.array_equal(kept[k], given[k]) for k in given)


def test_the_schedule_rises_and_falls() -> None:
    rates = [factor(step, 50, 10, "cosine") for step in range(50)]
    expected = [(s + 1) / 11 for s in range(10)]
    expected += [(1 + math.cos(math.pi * s / 40)) / 2 for s in range(40)]
    assert rates == pytest.approx(expected, abs=1e-15)
    assert max(rates) == rates[10] == 1
    assert 0 < rates[-1] < 0.002
    flat = [factor(step, 50, 10, "constant") for step in range(50)]
    assert flat == rates[:10] + [1.0] * 40


def test_mixup_blends_with_the_batch_reversed() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((5, 4, 8)).astype(np.float32)
    y = np.eye(5, dtype=np.float32)
    kept = x.copy()
    mixed, soft = mix(x, y, np.random.default_rng(0), mixup=0.8)
    share = float(soft[0, 0])
    assert 0 < share < 1
    np.testing.assert_allclose(mixed, share * x + (1 - share) * x[::-1], atol=1e-6)
    np.testing.assert_allclose(soft, share * y + (1 - share) * y[::-1], atol=1e-6)
    assert np.array_equal(x, kept)


def test_cutmix_cuts_one_box_and_counts_its_pixels() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((4, 3, 12, 20)).astype(np.float32)
    y = np.eye(4, dtype=np.float32)
    for seed in range(20):
        mixed, soft = mix(x, y, np.random.default_rng(seed), cutmix=1.0)
        foreign = (mixed != x).all((0, 1))
        rows, columns = np.flatnonzero(foreign.any(1)), np.flatnonzero(foreign.any(0))
        assert foreign.sum() == len(rows) * len(columns)
        assert np.array_equal(mixed[:, :, foreign], x[::-1][:, :, foreign])
        assert np.array_equal(mixed[:, :, ~foreign], x[:, :, ~foreign])
        assert soft[0, 0] == pytest.approx(1 - foreign.mean(), abs=1e-6)
        assert soft.sum(1) == pytest.approx(np.ones(4))


def test_of_mixup_and_cutmix_each_takes_its_turn() -> None:
    x = np.random.default_rng(2).standard_normal((4, 3, 16, 16)).astype(np.float32)
    cut = 0
    for seed in range(200):
        mixed, _ = mix(x, x[:, 0, 0], np.random.default_rng(seed), 0.8, 1.0)
        cut += bool(np.isin(mixed, x).all())
    assert 70 < cut < 130
