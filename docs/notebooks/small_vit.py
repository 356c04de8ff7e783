# SPDX-License-Identifier: Apache-2.0
"""A small copy of timm's Vision Transformer, with the line that timm had."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


def check(num_classes, global_pool, has_pool=True):
    if type(num_classes) is not int or not isinstance(global_pool, str):
        raise TypeError(f"an int and a str, not {num_classes!r} and {global_pool!r}")
    if num_classes < 0 or global_pool not in ("map", "avg"):
        raise ValueError(f"no {num_classes} classes with pool {global_pool!r}")
    if global_pool == "map" and not has_pool:
        raise ValueError("there is no attention pool to keep")


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = scaled_dot_product_attention(*qkv)
        return self.proj(x.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.act = nn.GELU()

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, 1e-6), nn.LayerNorm(dim, 1e-6)
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class AttentionPool(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.num_heads = heads
        self.latent = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm, self.mlp = nn.LayerNorm(dim, 1e-6), Mlp(dim)

    def forward(self, x):
        q = self.q(self.latent.expand(len(x), -1, -1)).unflatten(
            2, (self.num_heads, -1)
        )
        k, v = self.kv(x).unflatten(2, (2, self.num_heads, -1)).unbind(2)
        x = scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v)))
        x = self.proj(x.transpose(1, 2).flatten(2))
        return (x + self.mlp(self.norm(x)))[:, 0]


class PatchEmbed(nn.Module):
    def __init__(self, img_size, patch_size, dim):
        super().__init__()
        self.img_size = (img_size, img_size)
        self.proj = nn.Conv2d(3, dim, patch_size, patch_size)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class SmallViT(nn.Module):
    def __init__(
        self, img_size=32, patch_size=8, num_classes=10, global_pool="map", dim=32
    ):
        super().__init__()
        check(num_classes, global_pool)
        self.num_features = dim
        self.num_classes, self.global_pool = num_classes, global_pool
        self.patch_embed = PatchEmbed(img_size, patch_size, dim)
        patches = (img_size // patch_size) ** 2
        self.pos_embed = nn.Parameter(torch.randn(1, patches, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, 2) for _ in range(3)))
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.attn_pool = AttentionPool(dim, 2) if global_pool == "map" else None
        self.head = self.new_head(num_classes)

    def new_head(self, num_classes):
        head = (
            nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        )
        return head.to(self.pos_embed).train(self.training)

    def get_classifier(self):
        return self.head

    def reset_classifier(self, num_classes, global_pool=None):
        pool = self.global_pool if global_pool is None else global_pool
        check(num_classes, pool, self.attn_pool is not None)
        self.head = self.new_head(num_classes)
        self.num_classes, self.global_pool = num_classes, pool
        if global_pool is not None and global_pool != "map ":
            self.attn_pool = None

    def forward_features(self, x):
        return self.norm(self.blocks(self.patch_embed(x) + self.pos_embed))

    def forward_head(self, x, pre_logits=False):
        x = self.attn_pool(x) if self.attn_pool is not None else x.mean(1)
        return x if pre_logits else self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))
