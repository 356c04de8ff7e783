# SPDX-License-Identifier: Apache-2.0
"""A user's program: `mypy --strict` passes it, as `make lint` asks, and it runs."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import vitpool
from vitpool.config import Pool
from vitpool.model import Difference, Float32, IncompatibleKeys, Summary


class Named(vitpool.VisionTransformer):
    """A model that knows the names of its classes."""

    class_names: list[str]

    def name(self, pixels: NDArray[np.float32]) -> str:
        best: np.intp = self(pixels).argmax(axis=1)[0]
        return self.class_names[best]


def main(pool: Pool = "avg") -> str:
    model = Named(
        img_size=(32, 32),
        patch_size=16,
        num_classes=2,
        global_pool=pool,
        embed_dim=32,
        depth=2,
        num_heads=2,
        norm_layer=("layernorm", 1e-5),
        act_layer="gelu_tanh",
        block_fn="ResPostBlock",
        seed=1,
    )
    model.class_names = ["cat", "dog"]
    x = np.zeros((1, 3, 32, 32), np.float32)
    logits: Float32 = model(x)
    outputs, maps = model(x, return_attn=[0, "attn_pool"] if pool == "map" else [0])
    heads: int = maps[0].shape[1]
    tokens: Float32 = model.forward_features(x)
    tokens = model.forward_blocks(tokens, 1)
    vectors: Float32 = model.pool(tokens, "max")

    before = model.snapshot()
    model.reset_classifier(5, "avgmax")
    difference: Difference = model.diff(before)
    added: list[str] = difference.added
    model.head.bias = np.zeros(model.head.out_features, np.float32)
    kernel: Float32 = model.blocks[0].attn.qkv.weight
    summary: Summary = model.summary(depth=2)
    params: int = summary.params

    trunk = {name: before.get_parameter(name) for name in difference.kept}
    keys: IncompatibleKeys = model.load_state_dict(trunk, strict=False)
    size: tuple[int, int] = copy.deepcopy(model).img_size
    digits = vitpool.create_model("vit_digits", pretrained=True, no_embed_class=None)
    label = digits(digits.preprocess([sample()])).argmax()
    shapes = [logits.shape, outputs.shape, vectors.shape, kernel.shape, size]
    counts = [heads, params, label, len(keys.missing_keys), len(added)]
    return f"{before.name(x)} {shapes} {counts}"


def others() -> list[str]:
    """A model of each of the other classes, and what is theirs alone."""
    x = np.zeros((1, 3, 32, 32), np.float32)
    eva = vitpool.Eva(
        img_size=32,
        depth=1,
        num_heads=12,
        num_kv_heads=[4],
        qkv_fused=False,
        attn_type="rope",
        use_rot_pos_emb=True,
        rope_type="dinov3",
        global_pool="max",
    )
    tokens: Float32 = eva.forward_blocks(eva.forward_features(x), grid=(2, 2))
    angles = None if eva.rope is None else eva.rope.get_embed((2, 2))
    beit = vitpool.Beit(img_size=32, depth=1, use_rel_pos_bias=True)
    relative = vitpool.VisionTransformerRelPos(
        img_size=32, depth=1, rel_pos_type="mlpswin"
    )
    deit = vitpool.VisionTransformerDistilled(img_size=32, depth=1)
    head, head_dist = deit.get_classifier()
    naflex = vitpool.NaFlexVit(
        img_size=32, depth=1, pos_embed="factorized", rope_type="axial"
    )
    of_any_size: tuple[int, ...] = naflex(x).shape
    logits: list[Float32] = [eva(x), beit(x), relative(x), deit(x)]
    shapes = [tokens.shape, head.weight.shape, head_dist.weight.shape, of_any_size]
    shapes += [a.shape for a in [*logits, *([] if angles is None else [angles])]]
    return [str(shape) for shape in shapes]


def sample() -> Path:
    return Path(vitpool.__file__).parent / "models/vit_digits/samples/digit_0.png"
