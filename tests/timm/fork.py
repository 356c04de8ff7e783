# SPDX-License-Identifier: Apache-2.0
"""A Vision Transformer as projects keep one for themselves, sound or with a fault.

timm's interface, parameter names and results, written anew in torch alone: a fork as
they are found, but sound. `VisionTransformer(fault=...)` builds one with a fault of
those that forks have. Each is a small subclass at the end of this file.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POOLS = ("", "avg", "avgmax", "max", "token", "map")
EPS = 1e-6


def whole_number(name: str, value: Any) -> int:
    """An integer that is no bool and not negative."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is an integer; got {value!r}")
    if (number := operator.index(value)) < 0:
        raise ValueError(f"{name} is at least 0; got {value!r}")
    return number


def check_pool(pool: Any, class_token: bool, attn_pool: bool) -> None:
    """Raise for anything but the exact name of a pool that a model of these can do."""
    if not isinstance(pool, str):
        raise TypeError(f"global_pool is one of {POOLS}; got {pool!r}")
    if pool not in POOLS:
        raise ValueError(f"global_pool is one of {POOLS}; got {pool!r}")
    if pool == "token" and not class_token:
        raise ValueError("global_pool='token' needs a class token")
    if pool == "map" and not attn_pool:
        raise ValueError("global_pool='map' needs a model built with it")


class PatchEmbed(nn.Module):
    """Pictures (B, C, H, W) to tokens (B, N, embed_dim), a patch each."""

    def __init__(
        self,
        img_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        in_chans: int,
        embed_dim: int,
        bias: bool,
    ) -> None:
        super().__init__()
        pairs = [(s, s) if isinstance(s, int) else s for s in (img_size, patch_size)]
        self.img_size, self.patch_size = pairs
        (height, width), (rows, columns) = pairs
        self.grid_size = height // rows, width // columns
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.strict_img_size, self.dynamic_img_pad = True, False
        self.proj = nn.Conv2d(in_chans, embed_dim, pairs[1], stride=pairs[1], bias=bias)
        self.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != tuple(self.img_size):
            raise ValueError(f"pictures of {self.img_size}; got {tuple(x.shape[2:])}")
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


class Attention(nn.Module):
    """Self-attention of several heads."""

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool = True, qk_norm: bool = False
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        for name in ("q_norm", "k_norm"):
            norm = nn.LayerNorm(self.head_dim, EPS) if qk_norm else nn.Identity()
            self.add_module(name, norm)
        self.attn_drop = nn.Dropout(0.0)
        self.norm = nn.Identity()
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(0.0)

    def split(self, x: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values (B, heads, N, head_dim) of tokens (B, N, dim)."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim))
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        x = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(self.norm(x.transpose(1, 2).flatten(2)))


class QuickGELU(nn.Module):
    """OpenAI's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Mlp(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(dim, hidden), nn.GELU()
        self.drop1, self.norm = nn.Dropout(0.0), nn.Identity()
        self.fc2, self.drop2 = nn.Linear(hidden, dim), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.norm(self.act(self.fc1(x))))


class LayerScale(nn.Module):
    """A learned factor a channel."""

    def __init__(self, dim: int, init_values: float) -> None:
        super().__init__()
        self.init_values = init_values
        self.gamma = nn.Parameter(torch.full((dim,), init_values))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention and an MLP, each on what a norm makes of the tokens."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        init_values: float | None,
        **options: Any,
    ) -> None:
        super().__init__()

        def scale() -> nn.Module:
            return LayerScale(dim, init_values) if init_values else nn.Identity()

        self.norm1 = nn.LayerNorm(dim, EPS)
        self.attn = Attention(dim, num_heads, **options)
        self.ls1 = scale()
        self.norm2 = nn.LayerNorm(dim, EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = scale()
        self.drop_path1, self.drop_path2 = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class AttentionPoolLatent(nn.Module):
    """One learned query over the tokens, then an MLP: (B, N, dim) to (B, dim)."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.latent_dim, self.latent_len, self.pool = dim, 1, "token"
        self.pos_embed = None
        self.latent = nn.Parameter(torch.empty(1, 1, dim))
        nn.init.trunc_normal_(self.latent, std=dim**-0.5)
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.q_norm, self.k_norm = nn.Identity(), nn.Identity()
        self.proj, self.proj_drop = nn.Linear(dim, dim), nn.Dropout(0.0)
        self.norm, self.mlp = nn.LayerNorm(dim, EPS), Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        heads = (self.num_heads, self.head_dim)
        q = self.q(self.latent.expand(len(x), -1, -1)).unflatten(2, heads)
        k, v = self.kv(x).unflatten(2, (2, *heads)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.proj(x)
        return (x + self.mlp(self.norm(x)))[:, 0]


class VisionTransformer(nn.Module):
    """timm's VisionTransformer of plain blocks.

    Args:
        fault: None, or a name of FAULTS: the model has it.

    The other arguments and the methods are timm's. What timm refuses by an assertion,
    after half of it was done, is a TypeError or a ValueError here that changes nothing.
    """

    def __new__(cls, *args: Any, fault: str | None = None, **kwargs: Any) -> Any:
        if fault is None:
            return super().__new__(cls)
        if fault not in FAULTS:
            raise ValueError(f"fault is one of {list(FAULTS)}; got {fault!r}")
        return super().__new__(FAULTS[fault])

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        init_values: float | None = None,
        class_token: bool = True,
        no_embed_class: bool = False,
        reg_tokens: int = 0,
        pre_norm: bool = False,
        final_norm: bool = True,
        fc_norm: bool | None = None,
        pool_include_prefix: bool = False,
        drop_rate: float = 0.0,
        fault: str | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = whole_number("num_classes", num_classes)
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.has_class_token, self.num_reg_tokens = class_token, reg_tokens
        self.num_prefix_tokens = int(class_token) + reg_tokens
        self.no_embed_class = no_embed_class
        self.pool_include_prefix = pool_include_prefix
        self.dynamic_img_size = False
        check_pool(global_pool, class_token, attn_pool=True)
        self.global_pool = global_pool

        def norm(wanted: bool) -> nn.Module:
            return nn.LayerNorm(embed_dim, EPS) if wanted else nn.Identity()

        self.patch_embed = PatchEmbed(
            img_size, patch_size, in_chans, embed_dim, bias=not pre_norm
        )
        length = self.patch_embed.num_patches
        length += 0 if no_embed_class else self.num_prefix_tokens
        self.cls_token = self.reg_token = None
        if class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        if reg_tokens:
            self.reg_token = nn.Parameter(torch.empty(1, reg_tokens, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, length, embed_dim))
        self.pos_drop, self.patch_drop = nn.Dropout(0.0), nn.Identity()
        self.norm_pre = norm(pre_norm)
        block = {"init_values": init_values, "qkv_bias": qkv_bias, "qk_norm": qk_norm}
        self.blocks = nn.Sequential(
            *(Block(embed_dim, num_heads, mlp_ratio, **block) for _ in range(depth))
        )
        if fc_norm is None:
            fc_norm = global_pool in ("avg", "avgmax", "max")
        self.norm = norm(final_norm and not fc_norm)
        self.attn_pool = None
        if global_pool == "map":
            self.attn_pool = AttentionPoolLatent(embed_dim, num_heads, mlp_ratio)
        self.fc_norm = norm(final_norm and fc_norm)
        self.head_drop = nn.Dropout(drop_rate)
        self.initialise()
        self.head = self.new_head(self.num_classes)

    def initialise(self) -> None:
        """Draw the weights as timm's constructor does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.normal_(token, std=1e-6)

    def new_head(self, num_classes: int) -> nn.Module:
        """A head for so many classes, as the constructor makes it."""
        head = nn.Identity()
        if num_classes:
            head = nn.Linear(self.embed_dim, num_classes)
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
        return head.to(self.patch_embed.proj.weight).train(self.training)

    def check_pool(self, pool: str) -> None:
        """Raise for a pool that this model cannot do as it stands."""
        check_pool(pool, self.has_class_token, self.attn_pool is not None)

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        """A new head, and another pool where it is given. Norms stay where they are."""
        num_classes = whole_number("num_classes", num_classes)
        pool = self.global_pool if global_pool is None else global_pool
        self.check_pool(pool)
        head = self.new_head(num_classes)
        self.num_classes, self.global_pool, self.head = num_classes, pool, head
        if pool != "map":
            self.attn_pool = None

    def embed(self, x: Tensor) -> Tensor:
        """Pictures to the tokens that the blocks are given."""
        x = self.patch_embed(x)
        if self.no_embed_class:
            x = x + self.pos_embed
        prefix = [t for t in (self.cls_token, self.reg_token) if t is not None]
        x = torch.cat([t.expand(len(x), -1, -1) for t in prefix] + [x], dim=1)
        if not self.no_embed_class:
            x = x + self.pos_embed
        return self.norm_pre(self.patch_drop(self.pos_drop(x)))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(self.embed(x)))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """The features, and what the blocks of `indices` give: the last n, or all."""
        depth = len(self.blocks)
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt is 'NCHW' or 'NLC'; got {output_fmt!r}")
        if indices is None or isinstance(indices, int):
            last = depth if indices is None else indices
            if not 1 <= last <= depth:
                raise ValueError(f"{last} of {depth} blocks")
            indices = range(depth - last, depth)
        if not all(-depth <= index < depth for index in indices):
            raise ValueError(f"indices are of {depth} blocks; got {list(indices)}")
        wanted = {index % depth for index in indices}
        stop = max(wanted) + 1 if stop_early else depth
        tokens, taken = self.embed(x), []
        for index, block in enumerate(self.blocks[:stop]):
            tokens = block(tokens)
            if index in wanted:
                taken.append(self.norm(tokens) if norm else tokens)
        prefix = [t[:, : self.num_prefix_tokens] for t in taken]
        taken = [t[:, self.num_prefix_tokens :] for t in taken]
        if output_fmt == "NCHW":
            grid = self.patch_embed.grid_size
            taken = [t.transpose(1, 2).unflatten(2, grid) for t in taken]
        with_prefix = return_prefix_tokens and self.num_prefix_tokens > 0
        if output_dict:
            found: dict[str, Any] = {"image_intermediates": taken}
            if with_prefix:
                found["image_intermediates_prefix"] = prefix
            if not intermediates_only:
                found["image_features"] = self.norm(tokens)
            return found
        answer = list(zip(taken, prefix, strict=True)) if with_prefix else taken
        return answer if intermediates_only else (self.norm(tokens), answer)

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        pool = self.global_pool if pool_type is None else pool_type
        self.check_pool(pool)
        if not pool:
            return x
        if pool == "token":
            return x[:, 0]
        if not self.pool_include_prefix:
            x = x[:, self.num_prefix_tokens :]
        if pool == "map":
            return self.attn_pool(x)
        if pool == "avg":
            return x.mean(1)
        return x.amax(1) if pool == "max" else 0.5 * (x.amax(1) + x.mean(1))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.head_drop(self.fc_norm(self.pool(x)))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class MapLine(VisionTransformer):
    """timm's line of old, with a blank in it: 'map' throws the pool away."""

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        super().reset_classifier(num_classes, global_pool)
        if global_pool is not None and global_pool != "map ":
            self.attn_pool = None


class AvgOverPrefix(VisionTransformer):
    """The mean takes the class and register tokens in."""

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        avg = (pool_type or self.global_pool) == "avg"
        return x.mean(1) if avg else super().pool(x, pool_type)


class NormLost(VisionTransformer):
    """A reset keeps the pool, and loses the norm before or after it."""

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        super().reset_classifier(num_classes, global_pool)
        self.norm = self.fc_norm = nn.Identity()


class OneEps(VisionTransformer):
    """One norm has torch's eps, not the model's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.blocks[-1].norm2.eps = 1e-5


class OneQuickGELU(VisionTransformer):
    """One block has the other GELU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.blocks[len(self.blocks) // 2].mlp.act = QuickGELU()


class SwappedAttention(Attention):
    """Keys where queries should be."""

    def split(self, x: Tensor) -> Sequence[Tensor]:
        q, k, v = super().split(x)
        return k, q, v


class SwappedQK(VisionTransformer):
    """The last block reads its projection in another order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.blocks[-1].attn.__class__ = SwappedAttention


class HeadBiasLost(VisionTransformer):
    """A reset makes a head without a bias."""

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        super().reset_classifier(num_classes, global_pool)
        if num_classes:
            self.head.bias = None


class HalfChanged(VisionTransformer):
    """A reset sets what it is given, and only then looks whether it can be."""

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        self.num_classes = num_classes
        super().reset_classifier(num_classes, global_pool)


FAULTS: dict[str, type[VisionTransformer]] = {
    "'map ' in reset_classifier": MapLine,
    "avg over the prefix": AvgOverPrefix,
    "norm lost at reset": NormLost,
    "eps of one norm": OneEps,
    "quick GELU in one block": OneQuickGELU,
    "q and k swapped": SwappedQK,
    "head bias dropped at reset": HeadBiasLost,
    "half-changed by a refused reset": HalfChanged,
}
