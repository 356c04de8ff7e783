# SPDX-License-Identifier: Apache-2.0
"""torch's autograd on timm's models as the reference for training, in both precisions.

Dropout's masks are those of `drop_masks`, put in place of timm's modules, so that both
sides drop the same numbers. What stays frozen runs as it does at inference.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import drop_masks
import numpy as np
import prepare  # noqa: F401
import reference
import torch
import torch.nn.functional as F
from gradient_measure import Found
from timm.layers import calculate_drop_path_rates
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

Part = Any  # 'head', 'pool', 'all', or how many of the last blocks


class Dropped(nn.Module):
    """Dropout whose mask follows from a seed: an image's numbers in their order."""

    def __init__(self, rate: float, seed: int, site: int, image: int) -> None:
        super().__init__()
        self.rate, self.seed, self.site, self.image = rate, seed, site, image

    def images(self, x: Tensor) -> range:
        return range(self.image, self.image + len(x))

    def scaled(self, x: Tensor, kept: np.ndarray) -> Tensor:
        scale = 1 / (1 - float(np.float32(self.rate)))
        return x * (torch.from_numpy(kept).to(x.dtype) * scale)

    def forward(self, x: Tensor) -> Tensor:
        count = math.prod(x.shape[1:])
        kept = drop_masks.kept(self.rate, self.seed, self.site, self.images(x), count)
        return self.scaled(x, kept.reshape(x.shape))


class DroppedPath(Dropped):
    """The same number for all of an image: stochastic depth."""

    def forward(self, x: Tensor) -> Tensor:
        kept = drop_masks.kept(self.rate, self.seed, self.site, self.images(x), 1)
        return self.scaled(x, kept.reshape(len(x), *[1] * (x.ndim - 1)))


class DroppedPatches(Dropped):
    """timm's PatchDropout: some patches go, the prefix tokens stay."""

    prefix = 0

    def forward(self, x: Tensor) -> Tensor:
        head, x = x[:, : self.prefix], x[:, self.prefix :]
        kept = drop_masks.kept_patches(
            self.rate, self.seed, self.site, self.images(x), x.shape[1]
        )
        index = torch.from_numpy(kept)[..., None].expand(-1, -1, x.shape[-1])
        return torch.cat((head, x.gather(1, index)), 1)


def first_block(model: VisionTransformer, part: Part) -> int:
    """The first of the blocks that a part trains; the depth where it trains none."""
    depth = len(model.blocks)
    return {"all": 0, "head": depth, "pool": depth}.get(
        part, depth - part if isinstance(part, int) else 0
    )


def entry(model: VisionTransformer, part: Part) -> tuple[str, int]:
    """Where a training pass of this part begins: `_gradients`' entry and block."""
    names = {"all": "images", "head": "pre_logits", "pool": "features"}
    return names.get(part, "block"), first_block(model, part)


def trained(model: VisionTransformer, part: Part) -> list[str]:
    """timm's names of the parameters that a part trains."""
    starts: tuple[str, ...] = ("head.",)
    if part != "head":
        starts += ("attn_pool.", "fc_norm.")
    if isinstance(part, int):
        blocks = range(first_block(model, part), len(model.blocks))
        starts += ("norm.", *(f"blocks.{i}." for i in blocks))
    names = [name for name, _ in model.named_parameters()]
    return [n for n in names if part == "all" or n.startswith(starts)]


def least(model: VisionTransformer, part: Part) -> Part:
    """The part of the same parameters that begins last.

    A pool may have none of its own; inputs are then taken at the head.
    """
    names = set(trained(model, part))
    same = [p for p in ("head", "pool") if set(trained(model, p)) == names]
    return [*same, part][0]


def drop(
    model: VisionTransformer,
    part: Part,
    rates: Mapping[str, float],
    seed: int = 0,
    image: int = 0,
) -> VisionTransformer:
    """A copy of the model whose dropout acts where a training pass of this part runs.

    rates: of `_gradients`, by the names of timm's *_rate options without `_rate`.
    """
    model = copy.deepcopy(model)
    depth = len(model.blocks)

    def put(
        kind: type[Dropped], on: nn.Module, name: str, rate: float, at: int
    ) -> None:
        if rate:
            setattr(on, name, kind(rate, seed, at, image))

    get = {"drop": 0.0} | dict(rates)
    put(Dropped, model, "head_drop", get["drop"], depth * 8 + drop_masks.HEAD_DROP)
    if part == "all":
        at = depth * 8 + drop_masks.POS_DROP
        put(Dropped, model, "pos_drop", get.get("pos_drop", 0.0), at)
        at = depth * 8 + drop_masks.PATCH_DROP
        put(DroppedPatches, model, "patch_drop", get.get("patch_drop", 0.0), at)
        if get.get("patch_drop"):
            model.patch_drop.prefix = model.num_prefix_tokens
    paths = calculate_drop_path_rates(get.get("drop_path", 0.0), depth)
    for i in range(first_block(model, part), depth):
        block: Any = model.blocks[i]
        start, proj = drop_masks.site(i, 0), get.get("proj_drop", 0.0)
        if get.get("attn_drop"):
            block.attn.fused_attn = False
        for on, name, rate, place in (
            (block.attn, "attn_drop", get.get("attn_drop", 0.0), drop_masks.ATTN_DROP),
            (block.attn, "proj_drop", proj, drop_masks.PROJ_DROP),
            (block.mlp, "drop1", proj, drop_masks.MLP_DROP1),
            (block.mlp, "drop2", proj, drop_masks.MLP_DROP2),
        ):
            put(Dropped, on, name, rate, start + place)
        put(DroppedPath, block, "drop_path1", paths[i], start + drop_masks.DROP_PATH1)
        put(DroppedPath, block, "drop_path2", paths[i], start + drop_masks.DROP_PATH2)
    return model


def rest(model: VisionTransformer, part: Part, x: Tensor, mask: Any = None) -> Tensor:
    """The logits of what stands at the part's entry."""
    name, block = entry(model, part)
    if name == "images":
        return model(x, attn_mask=mask)
    if name == "block":
        for module in model.blocks[block:]:
            x = module(x, attn_mask=mask)
        x = model.norm(x)
    if name == "pre_logits":
        return model.head(model.head_drop(x))
    return model.forward_head(x)


def inputs(
    model: VisionTransformer, part: Part, x: np.ndarray, mask: Any = None
) -> np.ndarray:
    """What stands at the part's entry for these images: float32, from float64."""
    name, block = entry(model, part)
    if name == "images":
        return x

    def call(one: VisionTransformer, x: Tensor, *masks: Any) -> Tensor:
        x = one.norm_pre(one.patch_drop(one._pos_embed(one.patch_embed(x))))
        for module in one.blocks[:block]:
            x = module(x, attn_mask=masks[0] if masks else None)
        if name == "block":
            return x
        x = one.norm(x)
        return x if name == "features" else one.forward_head(x, pre_logits=True)

    given = (x,) if mask is None else (x, mask)
    double = copy.deepcopy(model).double()
    return np.ascontiguousarray(reference.exactly(double, call, *given), np.float32)


@dataclass(frozen=True)
class Goal:
    """A loss with its targets, for each side.

    kind, targets (B, K // groups), weights (K // groups,) or None, scale, groups: as
    `_gradients` takes them. torch: of logits (B, K) in either precision the losses
    (groups,). labels and public: y and further options of vitpool.train.gradients.
    """

    kind: str
    targets: np.ndarray
    scale: float
    torch: Callable[[Tensor], Tensor]
    labels: np.ndarray
    public: dict[str, Any]
    weights: np.ndarray | None = None
    groups: int = 1


# Each loss: its kind, its labels (classes, distributions, several of a picture,
# numbers), the smoothing, and whether classes have weights.
GOALS: dict[str, tuple[str, str, float, bool]] = {
    "hard": ("cross_entropy", "one", 0.0, False),
    "smoothed": ("cross_entropy", "one", 0.1, False),
    "weighted": ("cross_entropy", "one", 0.1, True),
    "soft": ("cross_entropy", "soft", 0.0, False),
    "soft_smoothed": ("cross_entropy", "soft", 0.2, False),
    "soft_weighted": ("cross_entropy", "soft", 0.0, True),
    "bce": ("binary_cross_entropy", "many", 0.0, False),
    "bce_weighted": ("binary_cross_entropy", "many", 0.0, True),
    "mse": ("mse", "numbers", 0.0, False),
    "mse_weighted": ("mse", "numbers", 0.0, True),
}


def goal(name: str, batch: int, classes: int, seed: int, groups: int = 1) -> Goal:
    """A loss by its name in GOALS, with random labels for a batch."""
    kind, form, smoothing, weighted = GOALS[name]
    random = np.random.default_rng(seed)
    one = random.integers(0, classes, batch)
    weight = random.uniform(0.5, 2.0, classes).astype(np.float32)
    labels: np.ndarray = {
        "one": one,
        "soft": random.dirichlet(np.ones(classes), batch).astype(np.float32),
        "many": (random.random((batch, classes)) < 0.4).astype(np.float32),
        "numbers": random.standard_normal((batch, classes)).astype(np.float32),
    }[form]

    def torchs(logits: Tensor) -> Tensor:
        dtype = logits.dtype
        y = torch.from_numpy(labels)
        y = y if form == "one" else y.to(dtype)
        w = torch.from_numpy(weight).to(dtype) if weighted else None
        if kind == "cross_entropy":
            return F.cross_entropy(logits, y, weight=w, label_smoothing=smoothing)
        if kind == "mse":
            w = w if w is None else w.expand_as(logits)
            return F.mse_loss(logits, y, weight=w)
        return F.binary_cross_entropy_with_logits(logits, y, weight=w)

    def each(logits: Tensor) -> Tensor:
        return torch.stack([torchs(part) for part in logits.chunk(groups, dim=-1)])

    targets = np.eye(classes, dtype=np.float32)[one] if form == "one" else labels
    scale = 1 / (batch * classes)
    if kind == "cross_entropy":
        smoothed = targets * (1.0 - smoothing) + smoothing / classes
        targets = (smoothed * weight if weighted else smoothed).astype(np.float32)
        # torch's mean is over the weights of labels that are classes.
        share = weight[one].astype(np.float64).sum() if weighted else batch
        scale = 1 / float(share if form == "one" else batch)
    elif kind == "mse" and weighted:
        scale = 1 / float(batch * weight.astype(np.float64).sum())
    public = {
        "loss": kind,
        "label_smoothing": smoothing,
        "class_weight": weight if weighted else None,
    }
    given = weight if weighted and kind != "cross_entropy" else None
    return Goal(kind, targets, scale, each, labels, public, given, groups)


@contextmanager
def kinks() -> Iterator[list[float]]:
    """How near numbers come to a kink, where a gradient jumps: a list, of each place.

    At ReLU and at a maximum two float32 computations may stand on either side of it,
    and neither is wrong. Gaps are relative to the largest number there.
    """
    found: list[float] = []
    relu, amax = F.relu, Tensor.amax

    def note(gap: Tensor, x: Tensor) -> None:
        found.append(float((gap.abs().min() / x.abs().max()).detach()))

    def watched_relu(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        note(x, x)
        return relu(x, *args, **kwargs)

    def watched_amax(x: Tensor, dim: int) -> Tensor:
        if x.shape[dim] > 1:
            first, second = x.topk(2, dim).values.unbind(dim)
            note(first - second, x)
        return amax(x, dim)

    with mock.patch.object(F, "relu", watched_relu):
        with mock.patch.object(Tensor, "amax", watched_amax):
            yield found


def gradients(
    model: VisionTransformer,
    part: Part,
    x: np.ndarray,
    aim: Goal,
    mask: np.ndarray | None = None,
    double: bool = False,
) -> Found:
    """torch's own, of a model from `drop`, at the part's entry."""
    model = copy.deepcopy(model)
    model = model.double() if double else model
    model.requires_grad_(False)
    wanted = dict(model.named_parameters())
    wanted = {name: wanted[name] for name in trained(model, part)}
    for parameter in wanted.values():
        parameter.requires_grad_(True)

    def run() -> tuple[Tensor, Tensor]:
        given = reference.tensor(x, double)
        logits = rest(model, part, given, reference.tensor(mask, double))
        losses = aim.torch(logits)
        losses.sum().backward()
        return losses, logits

    if double:
        with reference.unrounded():
            losses, logits = run()
    else:
        losses, logits = run()
    grads = {
        name: np.zeros(tuple(p.shape)) if p.grad is None else p.grad.numpy()
        for name, p in wanted.items()
    }
    return Found(reference.arrays(losses), reference.arrays(logits), grads)
