# SPDX-License-Identifier: Apache-2.0
"""A vitpool model in float64, stage by stage: the judge between two float32 results.

Reads like timm's forward (timm.models.vision_transformer, timm.layers), in NumPy and
without torch. A part that a model has not is one that has no parameters in it.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from ...config import all_arguments_of
from ...model import PlainViT
from ...model.parts import grid_of
from ...resample import resample_abs_pos_embed
from . import float64 as f64
from .float64 import Float64
from .ours import NORM_AFTER, Ours
from .places import angles, biases, turned
from .side import Array, Side, Stages


class ExactVit(Ours):
    """A vitpool model as it is now, in float64.

    Each weight is read, and made float64, when a pass comes to it.
    """

    def __init__(self, model: PlainViT, name: str | None = None) -> None:
        super().__init__(model, name)
        if model._family == "NaFlexVit":
            raise TypeError(f"{self.name} cannot be had in float64")
        self._core = self.model._snapshot()
        self._shapes = self._core.param_shapes()
        self._options: Mapping[str, Any] = self._core._options()
        # An eps as the decimal that was meant: 1e-6, not the nearest float32.
        arguments = all_arguments_of(self._options)
        self._norm_layer = arguments["norm_layer"]
        self._embed_norm_layer = arguments.get("embed_norm_layer")
        # Rope's, of the grid of the images.
        self._angles: Float64 | None = None

    def exact(self) -> Side:
        """Itself."""
        return self

    def drawn(self, seed: int) -> Side:
        """The same with drawn weights."""
        return super().drawn(seed).exact()

    def stages(self, images: Array) -> Stages:
        """As Side's; ValueError: images of a size that the model does not take."""
        run, instead = self._forward(images), None
        while True:
            try:
                # Of NaN and infinity nothing is said here; not over the yield.
                with np.errstate(all="ignore"):
                    stage = run.send(instead)
            except StopIteration:
                return
            instead = yield stage

    def _forward(self, images: Array) -> Stages:
        o = self._options
        x = np.asarray(images, np.float64)
        grid = self._core._grid(*x.shape[2:])
        if o["rope"] != "none":
            self._angles = angles(o, grid, self._weight)
        x = yield from _stage("patch_embed", self._patch_embed(x, grid))
        x = yield from _stage("pos_embed", self._pos_embed(x, grid))
        x = yield from self._norm_stage("norm_pre", x)
        for index in range(o["depth"]):
            x = yield from self._halves(index, x)
        x = yield from self._norm_stage("norm", x)
        if o["dist_token"]:
            yield from self._two_heads(x)
            return
        x = yield from _stage("pool", self._pool(x))
        x = yield from self._norm_stage("fc_norm", x)
        if o["num_classes"]:
            yield from _stage("head", self._linear("head", x))

    def _two_heads(self, x: Float64) -> Stages:
        """Of the class token and of the distillation token, and their mean."""
        one, other = (yield from _stage("pool", x[:, 0])), x[:, 1]
        if self._options["num_classes"]:
            one = yield from _stage("head", self._linear("head", one))
            dist = self._linear("head_dist", other)
            other = yield from _stage("head_dist", dist)
        yield from _stage("output", (one + other) / 2)

    # -- layers, by path --

    def _has(self, name: str) -> bool:
        return name in self._shapes

    def _weight(self, name: str) -> Float64:
        return self._core.get_parameter(name).astype(np.float64)

    def _linear(self, path: str, x: Float64) -> Float64:
        y = x @ self._weight(f"{path}.weight").T
        return y + self._weight(f"{path}.bias") if self._has(f"{path}.bias") else y

    def _norm(
        self, path: str, x: Float64, kind: tuple[str, float] | None = None
    ) -> Float64:
        """x where the model has no norm there. kind: another than the model's."""
        if not self._has(f"{path}.weight"):
            return x
        name, eps = kind or self._norm_layer
        weight = self._weight(f"{path}.weight")
        if name == "layernorm":
            return f64.layer_norm(x, weight, self._weight(f"{path}.bias"), eps)
        return f64.rms_norm(x, weight, eps)

    def _norm_stage(self, path: str, x: Float64) -> Generator[Any, Any, Float64]:
        if not self._has(f"{path}.weight"):
            return x
        return (yield from _stage(path, self._norm(path, x)))

    def _act(self, x: Float64) -> Float64:
        return f64.ACTIVATIONS[self._options["act_layer"]](x)

    def _scale(self, path: str, x: Float64, own: str = "") -> Float64:
        """own: the parameter that stands for LayerScale where it is the block's."""
        for gamma in (f"{path}.gamma", own):
            if self._has(gamma):
                return x * self._weight(gamma)
        return x

    # -- embedding --

    def _patch_embed(self, images: Float64, grid: tuple[int, int]) -> Float64:
        if self._options["embed_layer"] == "ConvStem":
            return self._stem(images)
        x = f64.patches(images, self._options["patch_size"], grid)
        kernel = self._weight("patch_embed.proj.weight")
        x = x @ kernel.reshape(len(kernel), -1).T
        if self._has("patch_embed.proj.bias"):
            x = x + self._weight("patch_embed.proj.bias")
        return self._norm("patch_embed.norm", x, self._embed_norm_layer)

    def _stem(self, x: Float64) -> Float64:
        """ConvStem: three convolutions, each of patches of what is before it, with
        BatchNorm and GELU between them."""
        for index in range(3):
            path = f"patch_embed.backbone.{index}"
            kernel = self._weight(f"{path}.conv.weight")
            size = kernel.shape[2:]
            grid = x.shape[2] // size[0], x.shape[3] // size[1]
            x = f64.patches(x, size, grid) @ kernel.reshape(len(kernel), -1).T
            if self._has(f"{path}.conv.bias"):
                return x + self._weight(f"{path}.conv.bias")
            names = ("weight", "bias", "running_mean", "running_var")
            weight, bias, mean, variance = (
                self._weight(f"{path}.bn.{name}") for name in names
            )
            x = (x - mean) / np.sqrt(variance + f64.BATCH_NORM_EPS) * weight + bias
            x = f64.ACTIVATIONS["gelu"](x)
            x = x.transpose(0, 2, 1).reshape(len(x), -1, *grid)
        return x

    def _pos_embed(self, x: Float64, grid: tuple[int, int]) -> Float64:
        o = self._options
        tokens = ("cls_token", "dist_token", "reg_token")
        names = [n for n in tokens if self._has(n)]
        prefix = [np.repeat(self._weight(n), len(x), 0) for n in names]
        if not o["pos_embed"]:
            return np.concatenate([*prefix, x], 1)
        positions = self._weight("pos_embed")
        if o["dynamic_img_size"]:
            sizes = zip(o["img_size"], o["patch_size"], strict=True)
            height, width = (size // patch for size, patch in sizes)
            before = 0 if o["no_embed_class"] else self.model.num_prefix_tokens
            positions = resample_abs_pos_embed(
                positions, grid, (height, width), before, real=np.float64
            )
        if o["no_embed_class"]:
            return np.concatenate([*prefix, x + positions], 1)
        return np.concatenate([*prefix, x], 1) + positions

    # -- blocks --

    def _halves(self, index: int, x: Float64) -> Generator[Any, Any, Float64]:
        path, kind = f"blocks.{index}", self._options["block_fn"]
        if kind.endswith("ParallelScalingBlock"):
            return (yield from _stage(path, self._scaling_block(path, index, x)))
        attn, mlp = self._block_attn, self._block_mlp
        if kind in NORM_AFTER:
            attn, mlp = self._post_attn, self._post_mlp
        elif kind == "ParallelThingsBlock":
            attn, mlp = self._things_attn, self._things_mlp
        x = yield from _stage(f"{path}.attn", attn(path, index, x))
        return (yield from _stage(f"{path}.mlp", mlp(path, x)))

    def _block_attn(self, path: str, index: int, x: Float64) -> Float64:
        y = self._attention(f"{path}.attn", index, self._norm(f"{path}.norm1", x))
        return x + self._scale(f"{path}.ls1", y, f"{path}.gamma_1")

    def _block_mlp(self, path: str, x: Float64) -> Float64:
        y = self._mlp(f"{path}.mlp", self._norm(f"{path}.norm2", x))
        return x + self._scale(f"{path}.ls2", y, f"{path}.gamma_2")

    def _post_attn(self, path: str, index: int, x: Float64) -> Float64:
        return x + self._norm(
            f"{path}.norm1", self._attention(f"{path}.attn", index, x)
        )

    def _post_mlp(self, path: str, x: Float64) -> Float64:
        return x + self._norm(f"{path}.norm2", self._mlp(f"{path}.mlp", x))

    def _things_attn(self, path: str, index: int, x: Float64) -> Float64:
        out = x
        for branch in (f"{path}.attns.0", f"{path}.attns.1"):
            y = self._norm(f"{branch}.norm", x)
            y = self._attention(f"{branch}.attn", index, y)
            out = out + self._scale(f"{branch}.ls", y)
        return out

    def _things_mlp(self, path: str, x: Float64) -> Float64:
        out = x
        for branch in (f"{path}.ffns.0", f"{path}.ffns.1"):
            y = self._mlp(f"{branch}.mlp", self._norm(f"{branch}.norm", x))
            out = out + self._scale(f"{branch}.ls", y)
        return out

    def _scaling_block(self, path: str, index: int, x: Float64) -> Float64:
        hidden = self._options["mlp_hidden"]
        y = self._linear(f"{path}.in_proj", self._norm(f"{path}.in_norm", x))
        inner, qkv = y[..., :hidden], y[..., hidden:]
        if self._has(f"{path}.mlp_bias"):
            inner = inner + self._weight(f"{path}.mlp_bias")
        inner = self._act(inner)
        attn = self._heads(path, index, *np.split(qkv, 3, -1))
        if self._has(f"{path}.out_proj.weight"):
            joined = np.concatenate([attn, inner], -1)
            y = self._linear(f"{path}.out_proj", joined)
        else:
            y = self._linear(f"{path}.attn_out_proj", attn)
            y = y + self._linear(f"{path}.mlp_out_proj", inner)
        return x + self._scale(f"{path}.ls", y)

    # -- attention and MLP --

    def _attention(self, path: str, index: int, x: Float64) -> Float64:
        x = self._heads(path, index, *self._qkv(path, x))
        return self._linear(f"{path}.proj", self._norm(f"{path}.norm", x))

    def _qkv(self, path: str, x: Float64) -> tuple[Float64, ...]:
        """Queries, keys and values, (B, N, C) or fewer heads of keys and values."""
        if self._has(f"{path}.q_proj.weight"):
            return tuple(self._linear(f"{path}.{n}_proj", x) for n in "qkv")
        q, k, v = np.split(self._linear(f"{path}.qkv", x), 3, -1)
        if self._has(f"{path}.q_bias"):
            q = q + self._weight(f"{path}.q_bias")
            v = v + self._weight(f"{path}.v_bias")
        return q, k, v

    def _heads(
        self, path: str, index: int, q: Float64, k: Float64, v: Float64
    ) -> Float64:
        """All heads of (B, N, C) each, joined: (B, N, C)."""
        differential = self._has(f"{path}.lambda_q1")
        heads = self._options["num_heads"]
        width = self._options["embed_dim"] // heads
        width_of_keys = width // 2 if differential else width
        q = self._norm(f"{path}.q_norm", f64.heads_of(q, q.shape[-1] // width_of_keys))
        k = self._norm(f"{path}.k_norm", f64.heads_of(k, k.shape[-1] // width_of_keys))
        v = f64.heads_of(v, v.shape[-1] // width)
        q, k = self._turned(q, index), self._turned(k, index)
        out = f64.attention(q, k, v, self._bias(path))
        if not differential:
            return f64.rows_of(out)
        start = 0.8 - 0.6 * math.exp(-0.3 * index)
        out = out[:, 0::2] - self._lambda(path, start) * out[:, 1::2]
        out = self._norm(f"{path}.sub_norm", out, ("rmsnorm", f64.SUB_NORM_EPS))
        return f64.rows_of(out * (1 - start))

    def _turned(self, x: Float64, index: int) -> Float64:
        """Queries or keys of a block (B, H, N, D), rotated by their places."""
        if self._angles is None:
            return x
        of_block = self._angles[index] if self._angles.ndim == 4 else self._angles
        half = self._options["rope_rotate_half"]
        return turned(x, of_block, self.model.num_prefix_tokens, half)

    def _bias(self, path: str) -> Float64 | None:
        """What the places of queries and keys add to a block's scores."""
        o = self._options
        if o["rel_pos"] == "none":
            return None
        beit = o["block_fn"] == "BeitBlock"
        paths = ["rel_pos_bias" if beit else "shared_rel_pos"] * o["rel_pos_shared"]
        paths += [path if beit else f"{path}.rel_pos"] * o["rel_pos_block"]
        grid, prefix = grid_of(o), self.model.num_prefix_tokens
        return np.sum([biases(o, grid, prefix, p, self._weight) for p in paths], 0)

    def _lambda(self, path: str, start: float) -> float:
        q1, k1, q2, k2 = (
            self._weight(f"{path}.lambda_{name}") for name in ("q1", "k1", "q2", "k2")
        )
        return float(np.exp(q1 @ k1) - np.exp(q2 @ k2)) + start

    def _mlp(self, path: str, x: Float64) -> Float64:
        kind = self._options["mlp_layer"]
        if kind == "SwiGLU":
            gate = self._linear(f"{path}.fc1_g", x)
            y = self._act(gate) * self._linear(f"{path}.fc1_x", x)
        else:
            y = self._linear(f"{path}.fc1", x)
            if kind == "Mlp":
                y = self._act(y)
            else:
                first, second = np.split(y, 2, -1)
                gate_last = kind == "GluMlp"  # SwiGLUPacked has it first
                y = (
                    first * self._act(second)
                    if gate_last
                    else self._act(first) * second
                )
        return self._linear(f"{path}.fc2", self._norm(f"{path}.norm", y))

    # -- pool --

    def _pool(self, x: Float64) -> Float64:
        o = self._options
        pool = o["global_pool"]
        if pool == "":
            return x
        if pool == "prr":
            each = f64.heads_of(x, o["num_heads"])
            x = f64.rows_of(f64.attention(each, each, each))
            return x[:, 0] if o["class_token"] else x.mean(1)
        if pool == "token":
            return x[:, 0]
        # Eva's attention pool has all tokens.
        if not (o["pool_include_prefix"] or (o["family"], pool) == ("Eva", "map")):
            x = x[:, self.model.num_prefix_tokens :]
        if pool == "map":
            return self._map(x)
        if pool == "avg":
            return x.mean(1)
        return x.max(1) if pool == "max" else (x.max(1) + x.mean(1)) / 2

    def _map(self, x: Float64) -> Float64:
        o = self._options
        heads = o["attn_pool_heads"] or o["num_heads"]
        act = o["act_layer"] if o["attn_pool_act"] == "identity" else o["attn_pool_act"]
        q = self._linear("attn_pool.q", self._weight("attn_pool.latent"))
        q = np.repeat(f64.heads_of(q, heads), len(x), 0)
        k, v = np.split(self._linear("attn_pool.kv", x), 2, -1)
        x = f64.attention(q, f64.heads_of(k, heads), f64.heads_of(v, heads))
        x = self._linear("attn_pool.proj", f64.rows_of(x))
        hidden = self._linear("attn_pool.mlp.fc1", self._norm("attn_pool.norm", x))
        y = f64.ACTIVATIONS[act](hidden)
        return (x + self._linear("attn_pool.mlp.fc2", y))[:, 0]


def _stage(name: str, out: Float64) -> Generator[Any, Any, Float64]:
    """Yields the stage; what is to be used from there on."""
    instead = yield name, out
    return out if instead is None else np.asarray(instead, np.float64)
