# SPDX-License-Identifier: Apache-2.0
"""Nodes of the tree of modules: layers, MLPs, pools, and what several of them need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..config import all_arguments_of

# What act_layer makes. timm prints GELU() where it was asked for by name, and this
# where it is the default; a model does not know which of the two it was.
_ACTS = {
    "gelu": ("GELU", "approximate='none'"),
    "gelu_tanh": ("GELUTanh", ""),
    "quick_gelu": ("QuickGELU", ""),
    "silu": ("SiLU", ""),
    "relu": ("ReLU", ""),
}


class Node(NamedTuple):
    """A module: its class, its extra_repr, and what is in it."""

    kind: str
    extra: str = ""
    children: dict[str, Node] = {}


IDENTITY = Node("Identity")
_DROPOUT = Node("Dropout", "p=0.0, inplace=False")


class Options:
    """The options, and what several modules are made of."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        o = self.given = options
        arguments = all_arguments_of(options)  # eps as it was given, not as a float32
        self.width: int = o["embed_dim"]
        self.hidden: int = o["mlp_hidden"]
        self.norm: tuple[str, float] = arguments["norm_layer"]
        # of the classes that have no such argument the embedding has no norm
        self.embed_norm: tuple[str, float] | None = arguments.get("embed_norm_layer")
        self.act = activation(o["act_layer"])
        self.head_dim = self.width // o["num_heads"]
        # timm: `if init_values`, but `is not None` in the parallel scaling blocks
        scaling = o["block_fn"].endswith("ParallelScalingBlock")
        scales = o["has_init_values"] and (scaling or o["init_values"] != 0)
        self.scale = Node("LayerScale") if scales else IDENTITY

    def kv_heads(self, index: int) -> int:
        """Heads of the keys and values of a block: fewer in the middle ones alone."""
        o = self.given
        first, last = o["num_full_attn_blocks"], o["depth"] - o["num_full_attn_last"]
        middle = o["num_kv_heads"] and first <= index < last
        return int(o["num_kv_heads"] if middle else o["num_heads"])


def activation(name: str) -> Node:
    """What act_layer makes."""
    return Node(*_ACTS[name])


def linear(inputs: int, outputs: int, bias: bool = True) -> Node:
    """torch.nn.Linear."""
    return Node("Linear", f"in_features={inputs}, out_features={outputs}, bias={bias}")


def norm(spec: tuple[str, float] | None, width: int, wanted: bool = True) -> Node:
    """A norm of rows of this width, or Identity."""
    if spec is None or not wanted:
        return IDENTITY
    name, eps = spec
    extra = f"({width},), eps={eps}, elementwise_affine=True"
    if name == "layernorm":
        return Node("LayerNorm", f"{extra}, bias=True")
    return Node("RmsNorm")


def drops(*names: str) -> dict[str, Node]:
    """Dropouts of these names."""
    return dict.fromkeys(names, _DROPOUT)


# -- before and behind the blocks --


def patch_embed(o: Options) -> Node:
    """timm.layers.PatchEmbed, or HybridEmbed of a ConvStem."""
    if o.given["embed_layer"] == "ConvStem":
        backbone = Node("ConvStem", "", _conv_stem(o))
        return Node("HybridEmbed", "", {"backbone": backbone, "proj": IDENTITY})
    children = {"proj": _convolution(o), "norm": norm(o.embed_norm, o.width)}
    return Node("PatchEmbed", "", children)


def _convolution(o: Options) -> Node:
    size = o.given["patch_size"]
    extra = f"{o.given['in_chans']}, {o.width}, kernel_size={size}, stride={size}"
    if o.given["pre_norm"]:
        extra += ", bias=False"
    return Node("Conv2d", extra)


def _conv_stem(o: Options) -> dict[str, Node]:
    channels = [o.given["in_chans"], o.width // 4, o.width // 4, o.width]
    stages: dict[str, Node] = {}
    for i, side in enumerate((4, 2, 2)):
        size, last = (side, side), i == 2
        extra = f"{channels[i]}, {channels[i + 1]}, kernel_size={size}, stride={size}"
        conv = Node("Conv2d", extra if last else f"{extra}, bias=False")
        bn = Node(
            "BatchNormAct2d",
            f"{channels[i + 1]}, eps=1e-05, momentum=0.1, affine=True, bias=True, "
            "track_running_stats=True",
            {"drop": IDENTITY, "act": activation("gelu")},
        )
        bn = Node("Sequential") if last else bn
        stages[str(i)] = Node("ConvNormAct", "", {"conv": conv, "bn": bn})
    return stages


def naflex_embeds(o: Options) -> Node:
    """timm.models.naflexvit.NaFlexEmbeds."""
    given = o.given
    proj = _convolution(o)
    if given["embed_linear"]:
        (rows, columns), bias = given["patch_size"], not given["pre_norm"]
        proj = linear(rows * columns * given["in_chans"], o.width, bias)
    resampler = {"resampler": Node("PatchEmbedResamplerFixedOrigSize")}
    children = {
        "proj": proj,
        **(
            {"patch_interpolator": Node("PatchEmbedInterpolator", "", resampler)}
            if given["patch_interpolator"]
            else {}
        ),
        "norm": norm(o.embed_norm, o.width),
        **drops("pos_drop"),
    }
    return Node("NaFlexEmbeds", "", children)


def _map_pool(o: Options) -> Node:
    hidden, act = o.given["attn_pool_hidden"] or o.hidden, o.given["attn_pool_act"]
    layers = mlp_layers(o, hidden, hidden, True, False)
    if act != "identity":  # else the model's own
        layers["act"] = activation(act)
    children = {
        "q": linear(o.width, o.width),
        "kv": linear(o.width, 2 * o.width),
        "q_norm": IDENTITY,
        "k_norm": IDENTITY,
        "proj": linear(o.width, o.width),
        **drops("proj_drop"),
        "norm": norm(o.norm, o.width),
        "mlp": Node("Mlp", "", layers),
    }
    return Node("AttentionPoolLatent", "", children)


def _prr_pool(o: Options) -> Node:
    children = {"pre_norm": IDENTITY, "post_norm": IDENTITY}
    return Node("AttentionPoolPrr", "", children)


_POOLS = {"map": _map_pool, "prr": _prr_pool}


def end(o: Options) -> dict[str, Node]:
    """What follows the blocks, in every class."""
    given = o.given
    classes, pool = given["num_classes"], _POOLS.get(given["global_pool"])
    head = linear(o.width, classes) if classes else IDENTITY
    return {
        "norm": norm(o.norm, o.width, given["norm"]),
        **({"attn_pool": pool(o)} if pool is not None else {}),
        "fc_norm": norm(o.norm, o.width, given["fc_norm"]),
        **drops("head_drop"),
        "head": head,
        **({"head_dist": head} if given["dist_token"] else {}),
    }


# -- MLP --


def mlp(o: Options) -> Node:
    """timm.layers.Mlp, GluMlp or SwiGLU."""
    kind = o.given["mlp_layer"]
    bias, normed = o.given["proj_bias"], o.given["scale_mlp_norm"]
    if kind == "SwiGLU":
        gates = {name: linear(o.width, o.hidden, bias) for name in ("fc1_g", "fc1_x")}
        rest = mlp_layers(o, o.hidden, o.hidden, bias, normed)
        del rest["fc1"]
        return Node("SwiGLU", "", gates | rest)
    if kind == "Mlp":
        return Node("Mlp", "", mlp_layers(o, o.hidden, o.hidden, bias, normed))
    return Node("GluMlp", "", mlp_layers(o, o.hidden, o.hidden // 2, bias, normed))


def mlp_layers(
    o: Options, outputs: int, hidden: int, bias: bool, normed: bool
) -> dict[str, Node]:
    """fc1, of so many outputs, to fc2, of so many inputs."""
    return {
        "fc1": linear(o.width, outputs, bias),
        "act": o.act,
        **drops("drop1"),
        "norm": norm(o.norm, hidden, normed),
        "fc2": linear(hidden, o.width, bias),
        **drops("drop2"),
    }
