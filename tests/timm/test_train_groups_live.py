# SPDX-License-Identifier: Apache-2.0
"""Groups, layers, mixing, losses and optimisers beside timm's and torch's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import prepare  # noqa: F401
import pytest
import timm.data.mixup
import timm.optim
import torch
from timm.loss import BinaryCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from timm.utils import ModelEmaV3
from torch.nn import functional

import vitpool
from vitpool.train import Loss, Trainer
from vitpool.train.mix import mix
from vitpool.train.optimizers import Optimizer, clip, groups_of, norm_of

SIZE = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "num_heads": 2}
MODELS: list[dict[str, Any]] = [
    {"depth": 3},
    {"depth": 3, "class_token": False, "global_pool": "map"},
    {"depth": 2, "global_pool": "avg", "reg_tokens": 2, "init_values": 0.1},
    {"depth": 1, "pre_norm": True, "qk_norm": True, "pos_embed": "none"},
    {"depth": 0},
]


@pytest.mark.parametrize("options", MODELS)
@pytest.mark.parametrize("decay", [1.0, 0.65])
def test_groups_are_timms(options: dict[str, Any], decay: float) -> None:
    theirs = VisionTransformer(**SIZE, **options, num_classes=5)
    ours = vitpool.VisionTransformer(**SIZE, **options, num_classes=5)
    groups = groups_of(ours, ours.param_shapes(), decay)
    names = {id(p): n for n, p in theirs.named_parameters()}
    found = {}
    for group in timm.optim.param_groups_layer_decay(
        theirs,
        weight_decay=0.05,
        no_weight_decay_list=theirs.no_weight_decay(),
        layer_decay=decay,
    ):
        for p in group["params"]:
            found[names[id(p)]] = group["lr_scale"], group["weight_decay"] > 0
    assert found == {name: tuple(group) for name, group in groups.items()}
    plain = timm.optim.param_groups_weight_decay(
        theirs, 0.05, no_weight_decay_list=theirs.no_weight_decay()
    )
    decayed = {names[id(p)] for g in plain if g["weight_decay"] for p in g["params"]}
    assert decayed == {name for name, group in groups.items() if group.decays}


class Draws:
    """numpy.random as timm's mixup calls it, from a Generator."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self.rand, self.beta = self._generator.random, self._generator.beta

    def randint(self, low: int, high: int, size: None) -> Any:
        return self._generator.integers(low, high)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_batches_are_mixed_as_timm_mixes_them(
    monkeypatch: pytest.MonkeyPatch, mixup: float, cutmix: float, smoothing: float
) -> None:
    loss = Loss("cross_entropy", 5, smoothing)
    rng = np.random.default_rng(0)
    for seed in range(20):
        x = rng.standard_normal((6, 3, 14, 18)).astype(np.float32)
        labels = rng.integers(0, 5, 6)
        with monkeypatch.context() as patch:
            patch.setattr(timm.data.mixup.np, "random", Draws(seed))
            mixer = timm.data.mixup.Mixup(
                mixup, cutmix, label_smoothing=smoothing, num_classes=5
            )
            images, targets = mixer(torch.tensor(x), torch.tensor(labels))
        generator = np.random.default_rng(seed)
        mixed, soft = mix(x, loss.soft(labels), generator, mixup, cutmix)
        np.testing.assert_allclose(mixed, images.numpy(), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(soft, targets.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weight", [None, [0.3, 1.0, 2.0, 0.7, 1.1]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_are_torchs_and_timms(
    weight: list[float] | None, smoothing: float
) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((8, 5)).astype(np.float32)
    classes = rng.integers(0, 5, 8)
    soft = rng.dirichlet(np.ones(5), 8).astype(np.float32)
    many = (rng.random((8, 5)) < 0.4).astype(np.float32)
    numbers = rng.standard_normal((8, 5)).astype(np.float32)
    x = torch.tensor(logits, dtype=torch.float64)
    w = None if weight is None else torch.tensor(weight, dtype=torch.float64)

    def ours(name: Any, y: np.ndarray) -> float:
        # total() has no smoothing: the targets bring it, and the weights
        loss = Loss(name, 5, smoothing if name != "mse" else 0.0, weight)
        labels = loss.labels(y, 8)
        smooth = loss.soft(labels)
        return Loss(name, 5, 0.0, weight).total(logits, smooth) / loss.share(labels)

    for y in (classes, soft):
        theirs = functional.cross_entropy(
            x, torch.tensor(y if y is classes else y.astype(np.float64)),
            weight=w, label_smoothing=smoothing,
        )  # fmt: skip
        assert ours("cross_entropy", y) == pytest.approx(float(theirs), rel=1e-6)
    binary = BinaryCrossEntropy(smoothing=smoothing, weight=w, smooth_dense=True)
    for y in (classes, many):
        theirs = binary(x, torch.tensor(y))
        assert ours("binary_cross_entropy", y) == pytest.approx(float(theirs), rel=1e-6)
    each = None if w is None else w.expand(8, 5)
    theirs = functional.mse_loss(
        x, torch.tensor(numbers, dtype=torch.float64), weight=each
    )
    assert ours("mse", numbers) == pytest.approx(float(theirs), rel=1e-6)


def sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9)


def adamw(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99))


@pytest.mark.parametrize(("name", "make"), [("sgd", sgd), ("adamw", adamw)])
def test_clipped_steps_and_their_average_are_torchs_and_timms(
    name: str, make: Any
) -> None:
    rng = np.random.default_rng(0)
    module = torch.nn.Linear(16, 8)
    average = ModelEmaV3(module, decay=0.9)
    w = {n: p.detach().numpy().copy() for n, p in module.named_parameters()}
    mean = {n: a.copy() for n, a in w.items()}
    groups = {"weight": (1.0, True), "bias": (1.0, False)}
    theirs = make([
        {"params": [module.weight], "weight_decay": 0.05},
        {"params": [module.bias], "weight_decay": 0.0},
    ])  # fmt: skip
    mine = Optimizer(
        name,
        {n: vitpool.train.optimizers.Group(*g) for n, g in groups.items()},
        {n: a.shape for n, a in w.items()},
        **{"weight_decay": 0.05, "betas": (0.9, 0.99), "momentum": 0.9},
    )
    for step in range(1, 21):
        g = {n: rng.standard_normal(a.shape).astype(np.float32) for n, a in w.items()}
        for n, p in module.named_parameters():
            p.grad = torch.tensor(g[n])
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        for group in theirs.param_groups:
            group["lr"] = 0.1 / step
        theirs.step()
        average.update(module)
        assert norm_of(g.values()) == pytest.approx(float(norm), rel=1e-6)
        clip(g, norm_of(g.values()), 5.0)
        mine.step(w, g, 0.1 / step, step)
        for n, a in mean.items():
            a += np.float32(1 - 0.9) * (w[n] - a)
    for n, p in module.named_parameters():
        np.testing.assert_allclose(w[n], p.detach().numpy(), rtol=1e-5, atol=1e-6)
    for n, p in average.module.named_parameters():
        np.testing.assert_allclose(mean[n], p.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", ["head", "pool", 1, "all"])
def test_twenty_steps_follow_torchs_loss(train: Any) -> None:
    torch.manual_seed(0)
    options = {"depth": 2, "class_token": False, "global_pool": "map"}
    theirs = VisionTransformer(**SIZE, **options, num_classes=5).train()
    ours = vitpool.from_timm(theirs)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 3, 32, 32)).astype(np.float32)
    y = rng.integers(0, 5, 12)
    trainer = Trainer(ours, train, lr=1e-3, weight_decay=0.05, layer_decay=0.8)
    groups = groups_of(ours, trainer.part.names, 0.8)
    params = dict(theirs.named_parameters())
    optimizer = torch.optim.AdamW([
        {"params": [params[n]], "lr": 1e-3 * scale, "weight_decay": 0.05 * decays}
        for n, (scale, decays) in groups.items()
    ])  # fmt: skip
    for _ in range(20):
        loss = functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        theirs.zero_grad()
        loss.backward()
        optimizer.step()
        assert trainer.step(x, y) == pytest.approx(loss.item(), abs=1e-4, rel=1e-4)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(
            ours.get_parameter(name), parameter.detach(), atol=2e-4, err_msg=name
        )
