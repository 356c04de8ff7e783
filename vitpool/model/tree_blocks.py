# SPDX-License-Identifier: Apache-2.0
"""Nodes of the tree of modules: the blocks of every class, and attention in them."""

from __future__ import annotations

from collections.abc import Callable

from .tree_layers import IDENTITY, Node, Options, activation, drops, linear, mlp, norm


def blocks(o: Options) -> dict[str, Node]:
    """Every block by its index, as text."""
    block = _BLOCKS[o.given["block_fn"]]
    return {str(i): block(o, i) for i in range(o.given["depth"])}


# -- attention --


def _heads(o: Options, diff: bool = False) -> dict[str, Node]:
    """The norms of queries and keys, of which differential attention has twice as
    many, half as wide."""
    width = o.head_dim // 2 if diff else o.head_dim
    of_a_head = norm(o.norm, width, o.given["qk_norm"])
    return {"q_norm": of_a_head, "k_norm": of_a_head, **drops("attn_drop")}


def _sub_norm(o: Options) -> dict[str, Node]:
    return {"sub_norm": norm(("rmsnorm", 1e-5), o.head_dim // 2 * 2)}


def _qkv(o: Options, index: int) -> dict[str, Node]:
    """What gives queries, keys and values: one layer, or three."""
    bias, of_all = o.given["qkv_bias"], not o.given["q_v_bias"]
    if not o.given["qkv_split"]:
        # of q and v alone it is no layer's own, but q_bias and v_bias
        return {"qkv": linear(o.width, 3 * o.width, bias and of_all)}
    kv = o.kv_heads(index) * o.head_dim
    return {
        "q_proj": linear(o.width, o.width, bias),
        "k_proj": linear(o.width, kv, bias and of_all),
        "v_proj": linear(o.width, kv, bias),
    }


def _out(o: Options) -> dict[str, Node]:
    return {
        "proj": linear(o.width, o.width, o.given["proj_bias"]),
        **drops("proj_drop"),
    }


def _attention(o: Options, index: int) -> Node:
    diff = o.given["attn_layer"] == "diff"
    children = {
        **_qkv(o, index),
        **_heads(o, diff),
        "norm": norm(o.norm, o.width, o.given["scale_attn_norm"]),
        **_out(o),
    }
    if diff:
        return Node("DiffAttention", "", children | _sub_norm(o))
    return Node("Attention", "", children)


def _eva_attention(o: Options, index: int) -> Node:
    kind = "EvaAttention" if o.given["q_v_bias"] else "AttentionRope"
    return _attention(o, index)._replace(kind=kind)


def _beit_attention(o: Options, index: int) -> Node:
    return Node("Attention", "", {**_qkv(o, index), **drops("attn_drop"), **_out(o)})


def _rel_pos_attention(o: Options, index: int) -> Node:
    children = {**_qkv(o, index), **_heads(o)}
    if o.given["rel_pos_block"]:
        drop = children.pop("attn_drop")
        children |= {"rel_pos": rel_pos(o), "attn_drop": drop}
    return Node("RelPosAttention", "", children | _out(o))


def rel_pos(o: Options) -> Node:
    """timm.layers.RelPosMlp or RelPosBias; of Beit its RelativePositionBias."""
    kind = o.given["rel_pos"]
    if kind == "bias":
        beit = o.given["family"] == "Beit"
        return Node("RelativePositionBias" if beit else "RelPosBias")
    hidden, heads, swin = o.given["rel_pos_dim"], o.given["num_heads"], kind != "mlp"
    layers = {
        "fc1": linear(2, hidden),
        "act": activation("relu"),
        "drop1": Node("Dropout", "p=0.125, inplace=False"),
        "norm": IDENTITY,
        "fc2": linear(hidden, heads, bias=not swin),
        **drops("drop2"),
    }
    act = Node("Sigmoid") if swin else IDENTITY
    return Node("RelPosMlp", "", {"bias_act": act, "mlp": Node("Mlp", "", layers)})


# -- blocks --

_Make = Callable[[Options, int], Node]


def _plain(kind: str, attention: _Make, scaled: bool = True) -> _Make:
    """A block whose norms come first; scaled: its LayerScales are modules."""

    def block(o: Options, index: int) -> Node:
        def branch(number: int, name: str, module: Node) -> dict[str, Node]:
            return {
                f"norm{number}": norm(o.norm, o.width),
                name: module,
                **({f"ls{number}": o.scale} if scaled else {}),
                f"drop_path{number}": IDENTITY,
            }

        attn = branch(1, "attn", attention(o, index))
        return Node(kind, "", attn | branch(2, "mlp", mlp(o)))

    return block


def _res_post(kind: str, attention: _Make) -> _Make:
    """A block whose norms come last."""

    def block(o: Options, index: int) -> Node:
        children = {
            "attn": attention(o, index),
            "norm1": norm(o.norm, o.width),
            "drop_path1": IDENTITY,
            "mlp": mlp(o),
            "norm2": norm(o.norm, o.width),
            "drop_path2": IDENTITY,
        }
        return Node(kind, "", children)

    return block


def _things_block(o: Options, index: int) -> Node:
    def pair(name: str, module: Node) -> Node:
        children = {
            "norm": norm(o.norm, o.width),
            name: module,
            "ls": o.scale,
            "drop_path": IDENTITY,
        }
        branch = Node("Sequential", "", children)
        return Node("ModuleList", "", {"0": branch, "1": branch})

    children = {
        "attns": pair("attn", _attention(o, index)),
        "ffns": pair("mlp", mlp(o)),
    }
    return Node("ParallelThingsBlock", "", children)


def _scaling_block(o: Options, index: int) -> Node:
    kind = o.given["block_fn"]
    bias, diff = o.given["proj_bias"], kind.startswith("Diff")
    children = {
        "in_norm": norm(o.norm, o.width),
        "in_proj": linear(o.width, o.hidden + 3 * o.width, o.given["qkv_bias"]),
        **_heads(o, diff),
        **(_sub_norm(o) if diff else {}),
        **drops("mlp_drop"),
        "mlp_act": o.act,
    }
    if diff:
        children["out_proj"] = linear(o.width + o.hidden, o.width, bias)
    else:
        children["attn_out_proj"] = linear(o.width, o.width, bias)
        children["mlp_out_proj"] = linear(o.hidden, o.width, bias)
    children |= {"ls": o.scale, "drop_path": IDENTITY}
    return Node(kind, "", children)


_BLOCKS: dict[str, _Make] = {
    "Block": _plain("Block", _attention),
    "ResPostBlock": _res_post("ResPostBlock", _attention),
    "ParallelThingsBlock": _things_block,
    "ParallelScalingBlock": _scaling_block,
    "DiffParallelScalingBlock": _scaling_block,
    "EvaBlock": _plain("EvaBlock", _eva_attention, scaled=False),
    "EvaBlockPostNorm": _res_post("EvaBlockPostNorm", _eva_attention),
    "BeitBlock": _plain("Block", _beit_attention, scaled=False),
    "RelPosBlock": _plain("RelPosBlock", _rel_pos_attention),
    "ResPostRelPosBlock": _res_post("ResPostRelPosBlock", _rel_pos_attention),
}
