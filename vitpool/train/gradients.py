# SPDX-License-Identifier: Apache-2.0
"""Gradients of a model's loss, for tests and for optimisers of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from .. import _core
from ..config import as_bool, as_int
from ..model import CLASSES, Float32, PlainViT
from ..model.constructor import random_seed
from ..model.parts import prefix_tokens_of
from ..model.positions import pos_embed_for, positions_gradient, rope_for
from .losses import Loss, LossName
from .options import checked_rates
from .parts import Part, features_of, part_of

Train = Literal["head", "pool", "all"] | int | Iterable[str]
# Bytes of a chunk's activations, or twice the weights' if that is more.
MEMORY = 2**28


def gradients(
    model: PlainViT,
    x: Any,
    y: Any,
    *,
    train: Train = "all",
    loss: LossName = "cross_entropy",
    label_smoothing: float = 0.0,
    class_weight: Any = None,
    seed: int | None = None,
    drop_rate: float | None = None,
    pos_drop_rate: float | None = None,
    patch_drop_rate: float | None = None,
    proj_drop_rate: float | None = None,
    attn_drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    checkpointing: bool = False,
    memory: int | None = None,
    attn_mask: Any = None,
) -> tuple[float, dict[str, Float32]]:
    """The mean loss of a batch, and its gradient by every parameter that trains.

    x: images (B, in_chans, height, width); or, of images that the frozen part has
    already seen, tokens before the first block that trains (B, N, C), forward_features'
    tokens for an attention pool or fc_norm, forward_head(..., pre_logits=True)'s (B, C)
    for the head. y: B classes, or (B, K) numbers.

    train: 'head'; 'pool', the attention pool, fc_norm and head; K, the last K blocks
    and what follows; 'all'; or a list of parameters' names. loss: torch's
    'cross_entropy', 'binary_cross_entropy' (of logits) or 'mse', as reduction='mean'
    has it. label_smoothing, class_weight (K,): as in torch; see vitpool.train.Loss.

    drop_rate and the other rates: of dropout in what trains; None: the model's own. The
    masks follow from seed, None: another one each time. checkpointing: recompute
    activations block by block. memory: bytes of activations that a chunk of images may
    take, one image at least; None: 256 MiB, or twice the weights' where that is more.
    attn_mask: as in the model's forward.

    Gives (loss, {timm's name: array of its shape}). The same bits for any number of
    threads. ValueError: a parameter that is not there, or whose kind does not train;
    labels or a shape that do not fit.
    """
    rates = checked_rates(locals())
    now = model._snapshot()
    part = part_of(now, train)
    options = now._options()
    kind = Loss(loss, options["num_classes"], label_smoothing, class_weight)
    checkpointing = as_bool(checkpointing, "checkpointing")
    memory = None if memory is None else as_int(memory, "memory", 1)
    bits = random_seed(seed)
    inputs = _core.as_float32(x, "x")
    images = part.is_images(inputs.shape, options)
    labels = kind.labels(y, len(inputs))
    if not len(inputs):
        raise ValueError("x has no images: a mean loss needs one")
    if images:
        inputs = features_of(view_of(now), part, inputs)
    shapes = now.param_shapes()
    arrays = {name: np.zeros(shapes[name], np.float32) for name in part.names}
    value, _ = run(
        now,
        part,
        inputs,
        kind.targets(kind.soft(labels)),
        arrays,
        loss=kind,
        scale=1 / kind.share(labels),
        rates=rates_for(part, rates, model),
        seed=bits,
        checkpointing=checkpointing,
        memory=memory,
        mask=attn_mask,
    )
    return value, arrays


def run(
    now: _core.VisionTransformer,
    part: Part,
    inputs: Float32,
    targets: Float32,
    arrays: Mapping[str, Float32],
    *,
    loss: Loss,
    scale: float,
    rates: Mapping[str, float],
    seed: int,
    image: int = 0,
    checkpointing: bool = False,
    memory: int | None = None,
    mask: Any = None,
) -> tuple[float, Float32]:
    """A training pass: the sum of the losses times scale, and logits (B, K).

    inputs: what part's entry takes. arrays: gradients are added to them. rates: as
    `rates_for` gives them. image: place of the first input in the batch, for the masks.
    """
    into = dict(arrays)
    images = part.entry == "images"
    positions = pos_embed_for(now, inputs, {}) if images else None
    rope = rope_for(now, inputs, {}) if images else None
    if positions is not None and "pos_embed" in into:
        into["pos_embed"] = np.zeros_like(positions)
    losses, logits = now._gradients(
        np.ascontiguousarray(inputs),
        targets,
        into,
        entry=part.entry,
        block=part.block,
        loss=loss.name,
        weights=loss.weights,
        scale=scale,
        rates=dict(rates),
        seed=seed,
        image=image,
        checkpointing=checkpointing,
        memory=memory_of(now) if memory is None else memory,
        mask=mask,
        pos_embed=positions,
        rope=rope,
    )
    if positions is not None and "pos_embed" in into:
        own = positions_gradient(now, into["pos_embed"], inputs.shape[2:])
        arrays["pos_embed"][...] += own
    return float(losses[0]), logits


def memory_of(now: _core.VisionTransformer) -> int:
    """Bytes of activations that a chunk may take where nobody says.

    Each chunk packs the weights once more, so that a large model wants larger ones.
    """
    return max(MEMORY, 2 * now.memory_bytes()["weights"])


def check_trains(
    now: _core.VisionTransformer, part: Part, loss: Loss, rates: Mapping[str, float]
) -> None:
    """ValueError: the core cannot train this part of this model; a pass of no images.

    rates: as `rates_for` gives them.
    """
    options, shapes = now._options(), now.param_shapes()
    height, width = options["img_size"]
    rows, columns = now._grid(height, width)
    tokens = rows * columns + prefix_tokens_of(options)
    shape: tuple[int, ...] = (0, tokens, options["embed_dim"])
    if part.entry == "images":
        shape = 0, options["in_chans"], height, width
    elif part.entry == "pre_logits":
        shape = 0, options["embed_dim"]
    arrays = {name: np.zeros(shapes[name], np.float32) for name in part.names}
    targets = np.zeros((0, options["num_classes"]), np.float32)
    inputs = np.zeros(shape, np.float32)
    run(now, part, inputs, targets, arrays, loss=loss, scale=1, rates=rates, seed=0)


def rates_for(
    part: Part, given: Mapping[str, float | None], model: PlainViT
) -> dict[str, float]:
    """The rates that act on a part, under the core's names (no '_rate').

    given: by the constructor's names; None is the model's own. ValueError: one that is
    given and acts on nothing that trains; a model whose training in timm moves the
    coordinates of its rotary embedding, which stay where they are here.
    """
    own = model.drop_rates
    for name, value in model._rope_moves.items():
        still = 0 if name == "rope_shift_coords" else 1  # timm's factors begin at 1
        if part.has_blocks and value != still:
            raise ValueError(
                f"the model has {name}={value}, with which timm moves coordinates "
                f"while blocks train: not done here; build it with {name}={still}"
            )
    for name, rate in given.items():
        if rate and name not in part.rates:
            raise ValueError(
                f"{name} would do nothing: what it acts on is frozen, and runs as at "
                f"inference (training begins at {part.place})"
            )
    rates = {}
    for name in part.rates:
        rate = given[name]
        rates[name.removesuffix("_rate")] = own.get(name, 0.0) if rate is None else rate
    return {name: rate for name, rate in rates.items() if rate}


def view_of(now: _core.VisionTransformer) -> PlainViT:
    """A model of this state, which no change of another one reaches."""
    kind = CLASSES[now._options()["family"]]
    view = kind.__new__(kind)
    view._adopt(now)
    view._init_state()
    return view
