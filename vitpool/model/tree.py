# SPDX-License-Identifier: Apache-2.0
"""Every module of timm's torch model, by path: what a part is, and how it prints.

Sources: the constructors in timm.models.vision_transformer and timm.layers, whose
assignments give the order, and torch's extra_repr of each layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from textwrap import indent
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


class _Node(NamedTuple):
    kind: str
    extra: str = ""
    children: dict[str, _Node] = {}


_IDENTITY = _Node("Identity")
_DROPOUT = _Node("Dropout", "p=0.0, inplace=False")


def tree(options: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """(class name, extra_repr) of every module by its path, in the order of torch's
    named_modules; the model itself is at ''.

    options: the core's, as `model._options()` gives them. Drop rates are not among
    them: each Dropout is of rate 0, and each drop path an Identity.
    """
    return dict(_flat_tree(tuple(options.items())))


def children_of(options: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """The names of the modules directly below the one at `path`."""
    return _children(tuple(options.items())).get(path, ())


@lru_cache(maxsize=16)
def _children(options: tuple[tuple[str, Any], ...]) -> dict[str, tuple[str, ...]]:
    return {
        path: tuple(node.children) for path, node in _walk(_model(dict(options)), "")
    }


@lru_cache(maxsize=16)
def _flat_tree(options: tuple[tuple[str, Any], ...]) -> dict[str, tuple[str, str]]:
    return {
        path: (node.kind, node.extra) for path, node in _walk(_model(dict(options)), "")
    }


def _walk(node: _Node, path: str) -> Iterator[tuple[str, _Node]]:
    yield path, node
    for name, child in node.children.items():
        yield from _walk(child, f"{path}.{name}" if path else name)


def folded(modules: Mapping[str, tuple[str, str]]) -> str:
    """torch's text of the module at '', with those below it; equal items that follow
    each other are one line, as in a ModuleList: ``(0-11): 12 x Block(...)``."""
    below: dict[str, list[str]] = {}
    for path in modules:
        if path:
            below.setdefault(path.rpartition(".")[0], []).append(path)

    def text(path: str) -> str:
        rows: list[tuple[str, str, str]] = []  # first name, last name, text
        for child in below.get(path, ()):
            name, shown = child.rpartition(".")[2], text(child)
            if rows and name.isdigit() and rows[-1][2] == shown:
                rows[-1] = (rows[-1][0], name, shown)
            else:
                rows.append((name, name, shown))
        kind, extra = modules[path]
        if not rows:
            return f"{kind}({extra})"
        lines = [extra] if extra else []
        for first, last, shown in rows:
            count = int(last) - int(first) + 1 if first != last else 1
            label = f"({first}): " if count == 1 else f"({first}-{last}): {count} x "
            lines.append(label + shown)
        return f"{kind}(\n" + indent("\n".join(lines), "  ") + "\n)"

    return text("")


def within(
    modules: Mapping[str, tuple[str, str]], path: str
) -> dict[str, tuple[str, str]]:
    """The module at `path` and those below it, by their paths from there."""
    if not path:
        return dict(modules)
    start = f"{path}."
    below = {p[len(start) :]: m for p, m in modules.items() if p.startswith(start)}
    return {"": modules[path], **below}


# -- layers --


def _linear(inputs: int, outputs: int, bias: bool = True) -> _Node:
    return _Node("Linear", f"in_features={inputs}, out_features={outputs}, bias={bias}")


def _norm(spec: tuple[str, float] | None, width: int, wanted: bool = True) -> _Node:
    if spec is None or not wanted:
        return _IDENTITY
    name, eps = spec
    extra = f"({width},), eps={eps}, elementwise_affine=True"
    if name == "layernorm":
        return _Node("LayerNorm", f"{extra}, bias=True")
    return _Node("RmsNorm")


def _drops(*names: str) -> dict[str, _Node]:
    return dict.fromkeys(names, _DROPOUT)


# -- the model --


class _Options:
    """The options, and what several modules are made of."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        o = self.given = options
        arguments = all_arguments_of(options)  # eps as it was given, not as a float32
        self.width: int = o["embed_dim"]
        self.hidden: int = o["mlp_hidden"]
        self.norm: tuple[str, float] = arguments["norm_layer"]
        self.embed_norm: tuple[str, float] | None = arguments["embed_norm_layer"]
        self.act = _Node(*_ACTS[o["act_layer"]])
        self.head_dim = self.width // o["num_heads"]
        # timm: `if init_values`, but `is not None` in the parallel scaling blocks
        scaling = o["block_fn"].endswith("ParallelScalingBlock")
        scales = o["has_init_values"] and (scaling or o["init_values"] != 0)
        self.scale = _Node("LayerScale") if scales else _IDENTITY


def _model(options: Mapping[str, Any]) -> _Node:
    o = _Options(options)
    block = _BLOCKS[options["block_fn"]](o)
    blocks = {str(i): block for i in range(options["depth"])}
    children = {
        "patch_embed": _patch_embed(o),
        **_drops("pos_drop"),
        "patch_drop": _IDENTITY,
        "norm_pre": _norm(o.norm, o.width, options["pre_norm"]),
        "blocks": _Node("Sequential", "", blocks),
        "norm": _norm(o.norm, o.width, options["norm"]),
    }
    if options["global_pool"] in _POOLS:
        children["attn_pool"] = _POOLS[options["global_pool"]](o)
    children["fc_norm"] = _norm(o.norm, o.width, options["fc_norm"])
    children.update(_drops("head_drop"))
    classes = options["num_classes"]
    children["head"] = _linear(o.width, classes) if classes else _IDENTITY
    return _Node("VisionTransformer", "", children)


def _patch_embed(o: _Options) -> _Node:
    size = o.given["patch_size"]
    extra = f"{o.given['in_chans']}, {o.width}, kernel_size={size}, stride={size}"
    if o.given["pre_norm"]:
        extra += ", bias=False"
    children = {"proj": _Node("Conv2d", extra), "norm": _norm(o.embed_norm, o.width)}
    return _Node("PatchEmbed", "", children)


def _map_pool(o: _Options) -> _Node:
    children = {
        "q": _linear(o.width, o.width),
        "kv": _linear(o.width, 2 * o.width),
        "q_norm": _IDENTITY,
        "k_norm": _IDENTITY,
        "proj": _linear(o.width, o.width),
        **_drops("proj_drop"),
        "norm": _norm(o.norm, o.width),
        "mlp": _Node("Mlp", "", _mlp_layers(o, o.hidden, True, False)),
    }
    return _Node("AttentionPoolLatent", "", children)


def _prr_pool(o: _Options) -> _Node:
    children = {"pre_norm": _IDENTITY, "post_norm": _IDENTITY}
    return _Node("AttentionPoolPrr", "", children)


_POOLS = {"map": _map_pool, "prr": _prr_pool}


# -- attention and MLP --


def _mlp(o: _Options) -> _Node:
    kind = o.given["mlp_layer"]
    bias, normed = o.given["proj_bias"], o.given["scale_mlp_norm"]
    if kind == "SwiGLU":
        gates = {name: _linear(o.width, o.hidden, bias) for name in ("fc1_g", "fc1_x")}
        rest = _mlp_layers(o, o.hidden, bias, normed)
        del rest["fc1"]
        return _Node("SwiGLU", "", gates | rest)
    if kind == "Mlp":
        return _Node("Mlp", "", _mlp_layers(o, o.hidden, bias, normed))
    return _Node("GluMlp", "", _mlp_layers(o, o.hidden // 2, bias, normed))


def _mlp_layers(o: _Options, hidden: int, bias: bool, normed: bool) -> dict[str, _Node]:
    return {
        "fc1": _linear(o.width, o.hidden, bias),
        "act": o.act,
        **_drops("drop1"),
        "norm": _norm(o.norm, hidden, normed),
        "fc2": _linear(hidden, o.width, bias),
        **_drops("drop2"),
    }


def _heads(o: _Options, diff: bool) -> dict[str, _Node]:
    """The norms of queries and keys, of which differential attention has twice as
    many, half as wide."""
    width = o.head_dim // 2 if diff else o.head_dim
    norm = _norm(o.norm, width, o.given["qk_norm"])
    return {"q_norm": norm, "k_norm": norm, **_drops("attn_drop")}


def _sub_norm(o: _Options) -> dict[str, _Node]:
    return {"sub_norm": _norm(("rmsnorm", 1e-5), o.head_dim // 2 * 2)}


def _attention(o: _Options) -> _Node:
    diff = o.given["attn_layer"] == "diff"
    children = {
        "qkv": _linear(o.width, 3 * o.width, o.given["qkv_bias"]),
        **_heads(o, diff),
        "norm": _norm(o.norm, o.width, o.given["scale_attn_norm"]),
        "proj": _linear(o.width, o.width, o.given["proj_bias"]),
        **_drops("proj_drop"),
    }
    if diff:
        return _Node("DiffAttention", "", children | _sub_norm(o))
    return _Node("Attention", "", children)


# -- blocks --


def _block(o: _Options) -> _Node:
    norm = _norm(o.norm, o.width)
    children = {
        "norm1": norm,
        "attn": _attention(o),
        "ls1": o.scale,
        "drop_path1": _IDENTITY,
        "norm2": norm,
        "mlp": _mlp(o),
        "ls2": o.scale,
        "drop_path2": _IDENTITY,
    }
    return _Node("Block", "", children)


def _res_post_block(o: _Options) -> _Node:
    norm = _norm(o.norm, o.width)
    children = {
        "attn": _attention(o),
        "norm1": norm,
        "drop_path1": _IDENTITY,
        "mlp": _mlp(o),
        "norm2": norm,
        "drop_path2": _IDENTITY,
    }
    return _Node("ResPostBlock", "", children)


def _things_block(o: _Options) -> _Node:
    def pair(name: str, module: _Node) -> _Node:
        children = {
            "norm": _norm(o.norm, o.width),
            name: module,
            "ls": o.scale,
            "drop_path": _IDENTITY,
        }
        branch = _Node("Sequential", "", children)
        return _Node("ModuleList", "", {"0": branch, "1": branch})

    children = {"attns": pair("attn", _attention(o)), "ffns": pair("mlp", _mlp(o))}
    return _Node("ParallelThingsBlock", "", children)


def _scaling_block(o: _Options) -> _Node:
    kind = o.given["block_fn"]
    bias, diff = o.given["proj_bias"], kind.startswith("Diff")
    children = {
        "in_norm": _norm(o.norm, o.width),
        "in_proj": _linear(o.width, o.hidden + 3 * o.width, o.given["qkv_bias"]),
        **_heads(o, diff),
        **(_sub_norm(o) if diff else {}),
        **_drops("mlp_drop"),
        "mlp_act": o.act,
    }
    if diff:
        children["out_proj"] = _linear(o.width + o.hidden, o.width, bias)
    else:
        children["attn_out_proj"] = _linear(o.width, o.width, bias)
        children["mlp_out_proj"] = _linear(o.hidden, o.width, bias)
    children |= {"ls": o.scale, "drop_path": _IDENTITY}
    return _Node(kind, "", children)


_BLOCKS = {
    "Block": _block,
    "ResPostBlock": _res_post_block,
    "ParallelThingsBlock": _things_block,
    "ParallelScalingBlock": _scaling_block,
    "DiffParallelScalingBlock": _scaling_block,
}
