# SPDX-License-Identifier: Apache-2.0
"""Writes a timm state dict as others publish it: the inverse of each conversion."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

State = dict[str, np.ndarray]


def blocks(state: Mapping[str, np.ndarray]) -> int:
    return len({key.split(".")[1] for key in state if key.startswith("blocks.")})


def renamed(state: Mapping[str, np.ndarray], *rules: tuple[str, str]) -> State:
    out = {}
    for key, value in state.items():
        for pattern, new in rules:
            key = re.sub(pattern, new, key)
        out[key] = value
    return out


def without(state: Mapping[str, np.ndarray], *prefixes: str) -> State:
    return {k: v for k, v in state.items() if not k.startswith(prefixes)}


def split_qkv(state: Mapping[str, np.ndarray], names: str) -> State:
    """`x.attn.qkv.weight` as `names.format(x, which, 'weight')` for q, k and v."""
    out = {}
    for key, value in state.items():
        if match := re.fullmatch(r"(.*)\.attn\.qkv\.(weight|bias)", key):
            path, kind = match.groups()
            for which, part in zip("qkv", np.split(value, 3), strict=True):
                out[names.format(path, which, kind)] = part
        else:
            out[key] = value
    return out


# JAX


def flax_heads(weight: np.ndarray, bias: np.ndarray, heads: int) -> State:
    """A projection into heads, kernel (C, H, D) and bias (H, D)."""
    return {
        "kernel": weight.T.reshape(weight.shape[1], heads, -1),
        "bias": bias.reshape(heads, -1),
    }


def flax_attention(parts: Mapping[str, State], weight: np.ndarray, bias: Any) -> State:
    heads = parts["query"]["kernel"].shape[1]
    out = {f"{n}/{kind}": v for n, part in parts.items() for kind, v in part.items()}
    out["out/kernel"] = weight.T.reshape(heads, -1, weight.shape[0])
    out["out/bias"] = bias
    return out


def flax_mlp(state: Mapping[str, np.ndarray], at: str) -> State:
    return {
        name: value
        for i in (0, 1)
        for name, value in (
            (f"Dense_{i}/kernel", state[f"{at}fc{i + 1}.weight"].T),
            (f"Dense_{i}/bias", state[f"{at}fc{i + 1}.bias"]),
        )
    }


def jax(
    state: Mapping[str, np.ndarray],
    heads: int,
    prefix: str = "",
    big_vision: bool = False,
    stacked: bool = False,
) -> State:
    """The original ViT's archive, or big_vision's (SigLIP, FlexiViT)."""
    attention, mlp, norm2 = (0, 0, 1) if big_vision else (1, 3, 2)
    out: State = {}
    rows: list[State] = []
    for index in range(blocks(state)):
        at = f"blocks.{index}."
        weights = np.split(state[f"{at}attn.qkv.weight"], 3)
        biases = np.split(state[f"{at}attn.qkv.bias"], 3)
        parts = {
            name: flax_heads(weight, bias, heads)
            for name, weight, bias in zip(
                ("query", "key", "value"), weights, biases, strict=True
            )
        }
        row = {}
        for ours, theirs in (("norm1", "LayerNorm_0"), ("norm2", f"LayerNorm_{norm2}")):
            row[f"{theirs}/scale"] = state[f"{at}{ours}.weight"]
            row[f"{theirs}/bias"] = state[f"{at}{ours}.bias"]
        joint = flax_attention(
            parts, state[f"{at}attn.proj.weight"], state[f"{at}attn.proj.bias"]
        )
        for name, value in joint.items():
            row[f"MultiHeadDotProductAttention_{attention}/{name}"] = value
        for name, value in flax_mlp(state, f"{at}mlp.").items():
            row[f"MlpBlock_{mlp}/{name}"] = value
        rows.append(row)
    for index, row in enumerate(rows):
        if not stacked:
            for name, value in row.items():
                out[f"Transformer/encoderblock_{index}/{name}"] = value
    if stacked:
        for name in rows[0]:
            out[f"Transformer/encoderblock/{name}"] = np.stack([r[name] for r in rows])

    positions = (
        "pos_embedding" if big_vision else "Transformer/posembed_input/pos_embedding"
    )
    out[positions] = state["pos_embed"]
    out["embedding/kernel"] = state["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    out["embedding/bias"] = state["patch_embed.proj.bias"]
    if "cls_token" in state:
        out["cls"] = state["cls_token"]
    norm = "norm" if "norm.weight" in state else "fc_norm"
    out["Transformer/encoder_norm/scale"] = state[f"{norm}.weight"]
    out["Transformer/encoder_norm/bias"] = state[f"{norm}.bias"]
    if "head.weight" in state:
        out["head/kernel"] = state["head.weight"].T
        out["head/bias"] = state["head.bias"]
    if "attn_pool.latent" in state:
        kv = (np.split(state[f"attn_pool.kv.{kind}"], 2) for kind in ("weight", "bias"))
        (key, value), (key_bias, value_bias) = kv
        parts = {
            "query": flax_heads(
                state["attn_pool.q.weight"], state["attn_pool.q.bias"], heads
            ),
            "key": flax_heads(key, key_bias, heads),
            "value": flax_heads(value, value_bias, heads),
        }
        out["MAPHead_0/probe"] = state["attn_pool.latent"]
        pool = flax_attention(
            parts, state["attn_pool.proj.weight"], state["attn_pool.proj.bias"]
        )
        for name, array in pool.items():
            out[f"MAPHead_0/MultiHeadDotProductAttention_0/{name}"] = array
        out["MAPHead_0/LayerNorm_0/scale"] = state["attn_pool.norm.weight"]
        out["MAPHead_0/LayerNorm_0/bias"] = state["attn_pool.norm.bias"]
        for name, array in flax_mlp(state, "attn_pool.mlp.").items():
            out[f"MAPHead_0/MlpBlock_0/{name}"] = array
    return {f"{prefix}{name}": value for name, value in out.items()}


# PyTorch


def openai_clip(state: Mapping[str, np.ndarray]) -> State:
    out = renamed(
        without(state, "head."),
        (r"^patch_embed\.proj", "conv1"),
        ("^pos_embed$", "positional_embedding"),
        ("^cls_token$", "class_embedding"),
        ("^norm_pre", "ln_pre"),
        (r"^norm\.", "ln_post."),
        (r"norm([12])\.", r"ln_\1."),
        (r"attn\.qkv\.", "attn.in_proj_"),
        (r"attn\.proj\.", "attn.out_proj."),
        (r"mlp\.fc1", "mlp.c_fc"),
        (r"mlp\.fc2", "mlp.c_proj"),
        (r"^blocks\.", "transformer.resblocks."),
    )
    out["class_embedding"] = out["class_embedding"].reshape(-1)
    out["positional_embedding"] = out["positional_embedding"][0]
    if "head.weight" in state:
        out["proj"] = state["head.weight"].T
    visual = {f"visual.{key}": value for key, value in out.items()}
    text = {
        "positional_embedding": np.ones((77, 8), np.float32),
        "transformer.resblocks.0.ln_1.weight": np.ones(8, np.float32),
        "logit_scale": np.full((), 4.6, np.float32),
    }
    return visual | text


def openclip_trunk(state: Mapping[str, np.ndarray]) -> State:
    out = {f"visual.trunk.{k}": v for k, v in without(state, "head.").items()}
    out["text.transformer.resblocks.0.ln_1.weight"] = np.ones(8, np.float32)
    if "head.weight" in state:
        out["visual.head.proj.weight"] = state["head.weight"]
    return out


def dinov2(state: Mapping[str, np.ndarray]) -> State:
    """With registers where the model has them: their position is added by hand."""
    width = state["cls_token"].shape[-1]
    out = dict(state)
    out["mask_token"] = np.ones((1, width), np.float32)
    if "reg_token" in out:
        out["register_tokens"] = out.pop("reg_token")
        position = np.full((1, 1, width), 0.25, np.float32)
        out["pos_embed"] = np.concatenate([position, out["pos_embed"]], axis=1)
        out["cls_token"] = out["cls_token"] - position
    return out


def dinov2_swiglu(state: Mapping[str, np.ndarray]) -> State:
    return renamed(
        dinov2(state), (r"mlp\.fc1\.", "mlp.w12."), (r"mlp\.fc2\.", "mlp.w3.")
    )


def tips(state: Mapping[str, np.ndarray]) -> State:
    out = {f"vision_encoder.{k}": v for k, v in dinov2(state).items()}
    out["text_encoder.ln_final.weight"] = np.ones(8, np.float32)
    return out


def ijepa(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        "encoder": {f"module.{key}": value for key, value in state.items()},
        "predictor": {"module.mask_token": np.zeros((1, 1, 8), np.float32)},
        "epoch": 300,
    }


def aimv2(state: Mapping[str, np.ndarray]) -> State:
    return renamed(
        state,
        (r"^patch_embed\.", "preprocessor.patchifier."),
        ("^pos_embed$", "preprocessor.pos_embed"),
        (r"^norm\.", "post_trunk_norm."),
        (r"norm([12])\.", r"norm_\1."),
        (r"mlp\.fc1_g", "mlp.fc1"),
        (r"mlp\.fc1_x", "mlp.fc3"),
        (r"^blocks\.", "trunk.blocks."),
    )


def beit3(state: Mapping[str, np.ndarray]) -> State:
    out = split_qkv(without(state, "head."), "{}.attn.{}_proj.{}")
    out["pos_embed.weight"] = np.concatenate(
        [np.ones((2, out["pos_embed"].shape[2]), np.float32), out.pop("pos_embed")[0]]
    )
    out = renamed(
        out,
        (r"^(blocks\.\d+)\.attn\.([qkv])_proj\.", r"\1.self_attn.\2_proj.A."),
        (r"^(blocks\.\d+)\.attn\.proj\.", r"\1.self_attn.out_proj.A."),
        (r"^(blocks\.\d+)\.attn\.norm\.", r"\1.self_attn.inner_attn_ln.A."),
        (r"^(blocks\.\d+)\.mlp\.norm\.", r"\1.ffn.A.ffn_layernorm."),
        (r"^(blocks\.\d+)\.mlp\.", r"\1.ffn.A."),
        (r"^(blocks\.\d+)\.norm1\.", r"\1.self_attn_layer_norm.A."),
        (r"^(blocks\.\d+)\.norm2\.", r"\1.final_layer_norm.A."),
        (r"^blocks\.", "encoder.layers."),
        (r"^pos_embed\.", "encoder.embed_positions.A."),
        (r"^cls_token$", "vision_embed.cls_token"),
        (r"^patch_embed\.", "vision_embed."),
    )
    out = {f"beit3.{key}": value for key, value in out.items()}
    out["beit3.text_embed.weight"] = np.ones((9, 8), np.float32)
    out["beit3.vision_embed.mask_token"] = np.ones((1, 1, 8), np.float32)
    for key in [key for key in out if ".A." in key]:
        out[key.replace(".A.", ".B.")] = out[key] + 1
    for kind in ("weight", "bias"):
        if f"head.{kind}" in state:
            out[f"head.{kind}"] = state[f"head.{kind}"]
    return out


def mobileclip(state: Mapping[str, np.ndarray]) -> State:
    out = renamed(
        without(state, "head."),
        (r"^patch_embed\.backbone\.(\d+)\.conv", r"patch_emb.\1.block.conv"),
        (r"^patch_embed\.backbone\.(\d+)\.bn", r"patch_emb.\1.block.norm"),
        ("^pos_embed$", "pos_embed.pos_embed.pos_embed"),
        (r"^norm\.", "post_transformer_norm."),
        (r"\.norm1\.", ".pre_norm_mha.0."),
        (r"\.attn\.qkv\.", ".pre_norm_mha.1.qkv_proj."),
        (r"\.attn\.proj\.", ".pre_norm_mha.1.out_proj."),
        (r"\.norm2\.", ".pre_norm_ffn.0."),
        (r"\.mlp\.fc1\.", ".pre_norm_ffn.1."),
        (r"\.mlp\.fc2\.", ".pre_norm_ffn.4."),
        (r"^blocks\.", "transformer."),
    )
    key = "pos_embed.pos_embed.pos_embed"
    out[key] = out[key][None]
    if "head.weight" in state:
        out["classifier.proj"] = state["head.weight"].T
    out = {f"image_encoder.model.{key}": value for key, value in out.items()}
    out["text_encoder.projection_layer"] = np.ones((8, 8), np.float32)
    out["logit_scale"] = np.full((), 4.6, np.float32)
    return out


def radio(state: Mapping[str, np.ndarray]) -> State:
    patch = state["patch_embed.proj.weight"]
    out = renamed(
        {k: v for k, v in state.items() if k.startswith("blocks.")},
        (r"ls([12])\.gamma", r"ls\1.grandma"),
    )
    out["patch_generator.embedder.weight"] = patch.reshape(patch.shape[0], -1)
    out["patch_generator.pos_embed"] = state["pos_embed"]
    out["patch_generator.cls_token.token"] = np.concatenate(
        [state["cls_token"][0], state["reg_token"][0]]
    )
    out = {f"radio_model.model.{key}": value for key, value in out.items()}
    out["radio_model.input_conditioner.norm_mean"] = np.ones((3, 1, 1), np.float32)
    out["radio_model.summary_idxs"] = np.arange(3)
    return out


# What transformers calls the parts of a block of ViT, DeiT and BEiT, but q, k and v.
TRANSFORMERS_BLOCKS = (
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^blocks\.", "encoder.layer."),
)


def with_classifier(
    out: State, state: Mapping[str, np.ndarray], prefix: str, classifier: bool
) -> State:
    """The backbone's keys behind the prefix, and the head beside them or left out."""
    out = {f"{prefix}{key}": value for key, value in out.items()}
    for kind in ("weight", "bias") if classifier else ():
        out[f"classifier.{kind}"] = state[f"head.{kind}"]
    return out


def transformers_vit(
    state: Mapping[str, np.ndarray], prefix: str = "vit.", classifier: bool = True
) -> State:
    """transformers' ViTForImageClassification, or without the classifier ViTModel."""
    out = renamed(
        split_qkv(without(state, "head."), "{}.attn.{}_proj.{}"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^cls_token$", "embeddings.cls_token"),
        (r"^(fc_)?norm\.", "layernorm."),
        (r"\.attn\.q_proj\.", ".attention.attention.query."),
        (r"\.attn\.k_proj\.", ".attention.attention.key."),
        (r"\.attn\.v_proj\.", ".attention.attention.value."),
        *TRANSFORMERS_BLOCKS,
    )
    return with_classifier(out, state, prefix, classifier)


def siglip(state: Mapping[str, np.ndarray]) -> State:
    """transformers' SiglipModel: both towers, the text's in part."""
    out = renamed(
        split_qkv(without(state, "head."), "{}.attn.{}_proj.{}"),
        (r"^patch_embed\.proj", "embeddings.patch_embedding"),
        (r"^pos_embed$", "embeddings.position_embedding.weight"),
        (r"^norm\.", "post_layernorm."),
        (r"\.norm([12])\.", r".layer_norm\1."),
        (r"\.attn\.([qkv])_proj\.", r".self_attn.\1_proj."),
        (r"\.attn\.proj\.", ".self_attn.out_proj."),
        (r"^attn_pool\.latent", "head.probe"),
        (r"^attn_pool\.proj\.", "head.attention.out_proj."),
        (r"^attn_pool\.norm\.", "head.layernorm."),
        (r"^attn_pool\.mlp\.", "head.mlp."),
        (r"^blocks\.", "encoder.layers."),
    )
    positions = "embeddings.position_embedding.weight"
    out[positions] = out[positions][0]
    for kind in ("weight", "bias"):
        q, kv = out.pop(f"attn_pool.q.{kind}"), out.pop(f"attn_pool.kv.{kind}")
        out[f"head.attention.in_proj_{kind}"] = np.concatenate([q, kv])
    text = {
        "text_model.embeddings.token_embedding.weight": np.ones((9, 8), np.float32),
        "logit_scale": np.ones(1, np.float32),
        "logit_bias": np.ones(1, np.float32),
    }
    return {f"vision_model.{key}": value for key, value in out.items()} | text


def naflex(state: Mapping[str, np.ndarray]) -> State:
    """transformers' Siglip2Model, whose patches are rows of (row, column, channel)."""
    out = siglip(state)
    key = "vision_model.embeddings.patch_embedding.weight"
    out[key] = out[key].transpose(0, 2, 3, 1).reshape(out[key].shape[0], -1)
    return out


def deit3(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {"model": renamed(state, (r"ls([12])\.gamma", r"gamma_\1"))}


def with_pre_logits(state: Mapping[str, np.ndarray]) -> State:
    width = state["cls_token"].shape[-1]
    return dict(state) | {
        "pre_logits.fc.weight": np.ones((width, width), np.float32),
        "pre_logits.fc.bias": np.ones(width, np.float32),
    }


def flat_patches(state: Mapping[str, np.ndarray]) -> State:
    """The patch embedding as a linear layer, as in timm's first weights."""
    out = dict(state)
    patch = out["patch_embed.proj.weight"]
    out["patch_embed.proj.weight"] = patch.reshape(patch.shape[0], -1)
    return out


def wrapped(*path: str, prefix: str = "") -> Callable[[State], dict[str, Any]]:
    """A training checkpoint: the state dict inside dicts, its keys with a prefix."""

    def wrap(state: State) -> dict[str, Any]:
        out: dict[str, Any] = {f"{prefix}{key}": value for key, value in state.items()}
        for key in reversed(path):
            out = {key: out, "epoch": 7}
        return out

    return wrap
