# SPDX-License-Identifier: Apache-2.0
"""timm's plain Vision Transformers beside vision_transformer.py's, in both precisions.

Their names, models of them with drawn weights at a size that a test can pay for, and
float64 where timm itself stays with float32: rotations, and logarithms of distances.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import reference
import timm
import torch
from timm.layers import pos_embed_rel, pos_embed_sincos

from vitpool.checkpoint.drawn import drawn

MODULES = ("eva", "deit", "beit", "vision_transformer_relpos", "naflexvit")
NAMES = [name for module in MODULES for name in timm.list_models(module=module)]
NAMES += ["vit_base_mci_224"]  # of vision_transformer_hybrid, the one without a ResNet


def small_enough(name: str) -> dict[str, Any]:
    """The options that cut a model of this name to a few blocks, each kind of them.

    Sapiens2's first and last blocks have as many heads of keys as of queries.
    """
    if "sapiens2" in name:
        with torch.device("meta"):
            whole = timm.create_model(name)
        few = whole.blocks[len(whole.blocks) // 2].attn.num_kv_heads
        return {"depth": 3, "num_kv_heads": (None, few, None)}
    return {"depth": 2}


def on_meta(name: str, **options: Any) -> Any:
    """timm's model without memory for its weights."""
    with torch.device("meta"):
        return timm.create_model(name, **options).eval()


def draw(model: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Give a timm model weights that matter, each of them; returns these.

    The model may be on meta.
    """
    state = {
        key: number(key, shape, seed) for key, shape in reference.shapes(model).items()
    }
    fill(model, state)
    return state


def number(key: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """What `drawn` gives; of BatchNorm a variance above 0, and no batches."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    numbers = drawn(key, shape, seed)
    return 0.5 + np.abs(numbers) if key.endswith("running_var") else numbers


def fill(model: Any, state: Mapping[str, np.ndarray]) -> None:
    """Put these weights into a timm model, without a copy, and make its buffers."""
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    model.load_state_dict(tensors, assign=True)
    for module in model.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[key] = torch.empty_like(buffer, device="cpu")
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()


# ------------------------------------------------------------------------- in float64


def _layout(angles: np.ndarray, half: bool) -> np.ndarray:
    """[..., D / 2] of angles as [sin | cos], each of them for the two that it turns."""
    wide = np.tile(angles, 2) if half else np.repeat(angles, 2, axis=-1)
    return np.concatenate([np.sin(wide), np.cos(wide)], axis=-1)


def _axes(rope: Any, grid: tuple[int, int], at: list[np.ndarray]) -> list[np.ndarray]:
    """Of each patch its place on the first axis of the channels, and on the second."""
    rows, columns = (axis.ravel() for axis in np.meshgrid(*at, indexing="ij"))
    return [columns, rows] if rope.grid_indexing == "xy" else [rows, columns]


def _cat(rope: Any, grid: tuple[int, int]) -> np.ndarray:
    at = [np.arange(n) + rope.grid_offset for n in grid]
    if rope.ref_feat_shape is not None:
        pairs = zip(at, grid, rope.ref_feat_shape, strict=True)
        at = [axis / n * ref for axis, n, ref in pairs]
    bands = rope.temperature ** -(np.arange(rope.dim // 4) / (rope.dim // 4))
    angles = [axis[:, None] * bands for axis in _axes(rope, grid, at)]
    return _layout(np.concatenate(angles, axis=-1), rope.rotate_half)


def _dinov3(rope: Any, grid: tuple[int, int]) -> np.ndarray:
    at = [2 * (np.arange(0.5, n) + rope.grid_offset) / n - 1 for n in grid]
    periods = rope.temperature ** (np.arange(rope.dim // 4) / (rope.dim // 4))
    angles = [2 * np.pi * axis[:, None] / periods for axis in _axes(rope, grid, at)]
    return _layout(np.concatenate(angles, axis=-1), rope.rotate_half)


def _mixed(rope: Any, grid: tuple[int, int]) -> np.ndarray:
    at = [np.arange(float(n)) for n in grid]
    freqs = rope.freqs.detach().double().numpy()  # [2][depth][heads][D / 2]
    first, second = (
        axis[:, None] * f[:, :, None]
        for axis, f in zip(_axes(rope, grid, at), freqs, strict=True)
    )
    return _layout(first + second, half=False)


_TABLES = {
    pos_embed_sincos.RotaryEmbeddingCat: _cat,
    pos_embed_sincos.RotaryEmbeddingDinoV3: _dinov3,
    pos_embed_sincos.RotaryEmbeddingMixed: _mixed,
}


def rotations(rope: Any, grid: tuple[int, int]) -> np.ndarray:
    """What timm's rope module gives for this grid, computed in float64.

    [tokens][2 D], or [depth][heads][tokens][2 D]: the sines, then the cosines.
    """
    return _TABLES[type(rope)](rope, grid)


def _exact_rope(rope: Any, model: Any) -> None:
    def get_embed(shape: Any = None, dtype: Any = None) -> torch.Tensor:
        grid = tuple(shape or rope.feat_shape)
        return torch.from_numpy(rotations(rope, grid))

    rope.get_embed = get_embed


def _exact_coordinates(module: Any) -> None:
    swin = module.mode == "swin"
    at = [np.arange(1.0 - n, n) for n in module.window_size]
    if swin:
        pairs = zip(at, module.window_size, strict=True)
        at = [8 * axis / (n - 1) for axis, n in pairs]
    places = np.stack(np.meshgrid(*at, indexing="ij"), axis=-1)
    logs = np.log2(1 + np.abs(places)) / 3 if swin else np.log1p(np.abs(places))
    module.rel_coords_log = torch.from_numpy(np.sign(places) * logs)


def exact(model: Any, *, use_up: bool = False) -> Any:
    """The model in float64, what timm computes of places too; use_up: in its place."""
    double = (model if use_up else copy.deepcopy(model)).double()
    if getattr(double, "rope", None) is not None:
        _exact_rope(double.rope, double)
    for module in double.modules():
        if isinstance(module, pos_embed_rel.RelPosMlp):
            _exact_coordinates(module)
    return double


# ---------------------------------------------------------------------------- the sizes


def own_size(model: Any) -> tuple[int, int]:
    """Height and width that the model is for, as its configuration says."""
    _, height, width = model.pretrained_cfg["input_size"]
    return height, width


def patch_of(model: Any) -> tuple[int, int]:
    """Height and width of a patch; of MobileCLIP's stem all strides together."""
    if hasattr(model, "embeds"):
        return tuple(model.embeds.patch_size)
    size, grid = model.patch_embed.img_size, model.patch_embed.grid_size
    return size[0] // grid[0], size[1] // grid[1]


def smaller_size(model: Any, operations: float) -> tuple[int, int]:
    """Its own size, or one at which a pass takes no more than so many operations."""
    (height, width), patch = own_size(model), patch_of(model)
    rows, columns = height // patch[0], width // patch[1]
    n, depth = rows * columns, len(model.blocks)
    in_blocks = sum(p.numel() for p in model.blocks.parameters())
    whole = 2 * n * in_blocks + 4 * n * n * model.embed_dim * depth
    part = min(1.0, math.sqrt(operations / whole))  # of the patches each way
    return int(rows * part) * patch[0], int(columns * part) * patch[1]


def other_size(model: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Another size, not square, of fewer patches one way and a few more the other."""
    patch = patch_of(model)
    rows, columns = size[0] // patch[0], size[1] // patch[1]
    return max(2, rows // 2) * patch[0], (columns // 2 + 3) * patch[1]


def takes_any_size(model: Any) -> bool:
    """Does its forward take pictures of another size as it is?"""
    return hasattr(model, "embeds") or bool(getattr(model, "dynamic_img_size", False))


def resized(models: tuple[Any, Any, Any], size: tuple[int, int]) -> None:
    """timm's model, the one in float64 and ours made for pictures of that size."""
    model, double, ours = models
    with torch.no_grad():
        model.set_input_size(img_size=size)
        with reference.unrounded():
            double.set_input_size(img_size=size)
    ours.set_input_size(img_size=size)


def views(model: Any, x: Any) -> Iterator[tuple[str, Any]]:
    """forward_features, pre_logits, forward and forward_intermediates of either."""
    tokens = model.forward_features(x)
    yield "forward_features", tokens
    yield "pre_logits", model.forward_head(tokens, pre_logits=True)
    yield "forward", model(x)
    final, layers = model.forward_intermediates(x, indices=[0, -1])
    yield "forward_intermediates", [final, list(layers)]


def check(
    ours: Any, model: Any, call: reference.Call, x: np.ndarray, *args: Any
) -> list[float]:
    """reference.check, with all of timm's places in float64 as well."""
    double = exact(model)
    given = [(near, *args) for near in reference.versions(x)]
    got = reference.stacked([call(ours, *inputs) for inputs in given])
    plain = reference.stacked(
        [reference.plainly(model, call, *inputs) for inputs in given]
    )
    right = reference.stacked(
        [reference.exactly(double, call, *inputs) for inputs in given]
    )
    return reference.compare(got, right, plain)
