# SPDX-License-Identifier: Apache-2.0
"""A live timm VisionTransformer as ours, with its weights and its configuration.

The module is read as it stands, not as it was built: after `reset_classifier`,
`prune_intermediate_layers` or a new head by hand. Modules are known by class and by
attributes; neither torch nor timm is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .model import VisionTransformer

__all__ = ["from_timm"]

# Where classes come from whose forward we reproduce: one of the same name elsewhere
# (a subclass, a quantised or a parametrised layer) computes something else.
_HOMES = ("timm.layers.", "timm.models.vision_transformer.", "torch.nn.modules.")

_NORMS = {
    "LayerNorm": "layernorm",
    "LayerNormFp32": "layernorm",
    "RmsNorm": "rmsnorm",
    "RmsNormFp32": "rmsnorm",
}
_ACTS = {
    "GELU": "gelu",
    "GELUTanh": "gelu_tanh",
    "QuickGELU": "quick_gelu",
    "SiLU": "silu",
    "ReLU": "relu",
}
_BLOCKS = (
    "Block",
    "ResPostBlock",
    "ParallelScalingBlock",
    "ParallelThingsBlock",
    "DiffParallelScalingBlock",
)


def _class_name(module: Any) -> str:
    """The bare name of a class from timm or torch.nn, the full name of another."""
    cls = type(module)
    known = (cls.__module__ + ".").startswith(_HOMES)
    return cls.__name__ if known else f"{cls.__module__}.{cls.__qualname__}"


def _refuse(path: str, why: str) -> NoReturn:
    raise ValueError(f"from_timm: {path or 'the model'}: {why}")


class _Reader:
    """Walks a model by path, remembers what it saw, refuses what it does not know."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.modules: dict[str, Any] = dict(root.named_modules(remove_duplicate=False))
        self.seen: set[str] = set()
        self.width = 0
        self.norm_spec: tuple[str, float] | None = None
        self.norm_path = ""

    def take(self, path: str, *allowed: str) -> str:
        """The class of the module at `path`, one of `allowed`; '' is none there."""
        self.seen.add(path)
        module = self.modules.get(path)
        name = "" if module is None else _class_name(module)
        if name not in allowed:
            known = ", ".join(filter(None, allowed)) or "none"
            _refuse(path, f"{name or 'no module'}; supported here: {known}")
        if module is not None:
            self.check_untouched(path, module)
        return name

    def check_untouched(self, path: str, module: Any) -> None:
        """Refuse hooks and methods put onto the instance: they would not run here."""
        if module._forward_hooks or module._forward_pre_hooks:
            _refuse(path, "has forward hooks, which would not run here; remove them")
        for name, value in vars(module).items():
            if callable(value) and callable(getattr(type(module), name, None)):
                _refuse(path, f"its {name}() was replaced on the instance")

    def skip(self, path: str, *allowed: str) -> None:
        """What does nothing at inference: dropout of any rate."""
        self.take(path, "Identity", *allowed)

    def linear(self, path: str) -> tuple[int, int, bool]:
        """(in, out, has a bias) of the Linear at `path`."""
        self.take(path, "Linear")
        module = self.modules[path]
        return module.in_features, module.out_features, module.bias is not None

    def any_norm(self, path: str) -> tuple[str, float] | None:
        """(kind, eps) of the norm at `path`; None for Identity."""
        name = self.take(path, "Identity", *_NORMS)
        if name == "Identity":
            return None
        module = self.modules[path]
        biased = getattr(module, "bias", None) is not None
        if module.weight is None or biased != (_NORMS[name] == "layernorm"):
            _refuse(path, f"{name} without its usual weight and bias")
        return _NORMS[name], float(module.eps)

    def norm(self, path: str) -> bool:
        """Whether there is a norm at `path`; one norm_layer serves the whole model."""
        spec = self.any_norm(path)
        if spec is None:
            return False
        if self.norm_spec is None:
            self.norm_spec, self.norm_path = spec, path
        elif spec != self.norm_spec:
            _refuse(path, f"{spec} differs from {self.norm_spec} at {self.norm_path}")
        return True

    def required_norm(self, path: str) -> None:
        if not self.norm(path):
            _refuse(path, "Identity; a norm is expected")

    def act(self, path: str) -> str:
        name = self.take(path, *_ACTS)
        if getattr(self.modules[path], "approximate", "none") == "tanh":
            return "gelu_tanh"
        return _ACTS[name]

    def layer_scale(self, path: str) -> float | None:
        """LayerScale's initial value; None where there is no LayerScale."""
        if self.take(path, "Identity", "LayerScale") == "Identity":
            return None
        return float(getattr(self.modules[path], "init_values", 1e-5))

    def equal(self, path: str, what: str, got: Any, want: Any) -> None:
        if got != want:
            _refuse(path, f"{what} {got}; supported here: {want}")

    def finish(self) -> None:
        """Refuse any module that no slot asked for."""
        for path in self.modules:
            if path not in self.seen:
                _refuse(path, f"{_class_name(self.modules[path])} is not known here")


def _qk_norm(reader: _Reader, path: str) -> bool:
    both = reader.norm(f"{path}.q_norm"), reader.norm(f"{path}.k_norm")
    reader.equal(path, "(q_norm, k_norm)", both, (both[0], both[0]))
    return both[0]


def _check_differential(reader: _Reader, path: str, index: int) -> None:
    """The lambdas of differential attention: timm's for this depth, in four vectors."""
    module = reader.modules[path]
    if module.lambda_a is not None:
        _refuse(path, "dual_lambda is not supported")
    usual = 0.8 - 0.6 * math.exp(-0.3 * index)
    if not math.isclose(module.lambda_init, usual, rel_tol=1e-9):
        _refuse(path, f"lambda_init {module.lambda_init}; block {index} has {usual}")
    spec = reader.any_norm(f"{path}.sub_norm")
    reader.equal(f"{path}.sub_norm", "norm", spec, ("rmsnorm", 1e-5))


def _attention(reader: _Reader, path: str, index: int) -> dict[str, Any]:
    kind = reader.take(path, "Attention", "DiffAttention")
    module = reader.modules[path]
    heads = module.num_heads * (1 if kind == "Attention" else 2)
    reader.equal(path, "attention width", heads * module.head_dim, reader.width)
    reader.take(f"{path}.gate", "")
    _, _, qkv_bias = reader.linear(f"{path}.qkv")
    _, _, proj_bias = reader.linear(f"{path}.proj")
    reader.skip(f"{path}.attn_drop", "Dropout")
    reader.skip(f"{path}.proj_drop", "Dropout")
    if kind == "DiffAttention":
        _check_differential(reader, path, index)
    return {
        "attn_layer": "attn" if kind == "Attention" else "diff",
        "num_heads": module.num_heads,
        "qkv_bias": qkv_bias,
        "qk_norm": _qk_norm(reader, path),
        "scale_attn_norm": reader.norm(f"{path}.norm"),
        "proj_bias": proj_bias,
    }


def _mlp(reader: _Reader, path: str, proj_bias: bool) -> dict[str, Any]:
    kind = reader.take(path, "Mlp", "GluMlp", "SwiGLU")
    first = ("fc1_g", "fc1_x") if kind == "SwiGLU" else ("fc1",)
    for name in (*first, "fc2"):
        hidden = reader.modules[f"{path}.{first[0]}"].out_features
        _, _, bias = reader.linear(f"{path}.{name}")
        reader.equal(f"{path}.{name}", "bias", bias, proj_bias)
    reader.skip(f"{path}.drop1", "Dropout")
    reader.skip(f"{path}.drop2", "Dropout")
    if kind == "GluMlp" and not reader.modules[path].gate_last:
        kind = "SwiGLUPacked"
    return {
        "mlp_layer": kind,
        "hidden": hidden,
        "act_layer": reader.act(f"{path}.act"),
        "scale_mlp_norm": reader.norm(f"{path}.norm"),
    }


def _sequential_block(reader: _Reader, path: str, index: int) -> dict[str, Any]:
    """Block and ResPostBlock."""
    reader.required_norm(f"{path}.norm1")
    reader.required_norm(f"{path}.norm2")
    out = _attention(reader, f"{path}.attn", index)
    out |= _mlp(reader, f"{path}.mlp", out["proj_bias"])
    scales = []
    for i in (1, 2):
        reader.skip(f"{path}.drop_path{i}", "DropPath")
        if f"{path}.ls{i}" in reader.modules:
            scales.append(reader.layer_scale(f"{path}.ls{i}"))
    out["init_values"] = scales[0] if scales else None
    reader.equal(path, "LayerScale", scales, scales[:1] * len(scales))
    return out


def _parallel_things_block(reader: _Reader, path: str, index: int) -> dict[str, Any]:
    """Two attentions side by side, then two MLPs."""
    reader.equal(path, "num_parallel", reader.modules[path].num_parallel, 2)
    reader.take(f"{path}.attns", "ModuleList")
    reader.take(f"{path}.ffns", "ModuleList")
    found = []
    for i in (0, 1):
        attn, ffn = f"{path}.attns.{i}", f"{path}.ffns.{i}"
        for part in (attn, ffn):
            reader.take(part, "Sequential")
            reader.required_norm(f"{part}.norm")
            reader.skip(f"{part}.drop_path", "DropPath")
        one = _attention(reader, f"{attn}.attn", index)
        one |= _mlp(reader, f"{ffn}.mlp", one["proj_bias"])
        one["init_values"] = reader.layer_scale(f"{attn}.ls")
        other = reader.layer_scale(f"{ffn}.ls")
        reader.equal(f"{ffn}.ls", "LayerScale", other, one["init_values"])
        found.append(one)
    reader.equal(f"{path}.attns.1", "options", found[1], found[0])
    return found[0]


def _parallel_scaling_block(reader: _Reader, path: str, index: int) -> dict[str, Any]:
    """One projection in and one out (two, without differential attention)."""
    module = reader.modules[path]
    differential = _class_name(module) == "DiffParallelScalingBlock"
    heads = module.num_heads * (2 if differential else 1)
    reader.equal(path, "attention width", heads * module.head_dim, reader.width)
    reader.required_norm(f"{path}.in_norm")
    _, _, qkv_bias = reader.linear(f"{path}.in_proj")
    if differential:
        _check_differential(reader, path, index)
        hidden, _, proj_bias = reader.linear(f"{path}.out_proj")
        hidden -= reader.width
    else:
        reader.take(f"{path}.out_proj", "")
        hidden, _, proj_bias = reader.linear(f"{path}.mlp_out_proj")
        _, _, bias = reader.linear(f"{path}.attn_out_proj")
        reader.equal(f"{path}.attn_out_proj", "bias", bias, proj_bias)
    for name, kind in (("attn_drop", "Dropout"), ("mlp_drop", "Dropout")):
        reader.skip(f"{path}.{name}", kind)
    reader.skip(f"{path}.drop_path", "DropPath")
    return {
        "num_heads": module.num_heads,
        "qkv_bias": qkv_bias,
        "qk_norm": _qk_norm(reader, path),
        "proj_bias": proj_bias,
        "hidden": hidden,
        "act_layer": reader.act(f"{path}.mlp_act"),
        "init_values": reader.layer_scale(f"{path}.ls"),
    }


def _blocks(reader: _Reader) -> dict[str, Any]:
    """The options that every block shares, `depth`, and `hidden`: the MLP's width."""
    reader.take("blocks", "Sequential")
    depth = len(reader.root.blocks)
    if not depth:
        _refuse("blocks", "there are none")
    common: dict[str, Any] = {}
    for index in range(depth):
        path = f"blocks.{index}"
        kind = reader.take(path, *_BLOCKS)
        if kind == "ParallelThingsBlock":
            own = _parallel_things_block(reader, path, index)
        elif kind.endswith("ParallelScalingBlock"):
            own = _parallel_scaling_block(reader, path, index)
        else:
            own = _sequential_block(reader, path, index)
        own["block_fn"] = kind
        common = common or own
        for key, value in own.items():
            if key != "init_values" or (value is None) != (common[key] is None):
                reader.equal(path, key, value, common[key])
    return {**common, "depth": depth}


def _ratio(hidden: int, width: int) -> float:
    """The mlp_ratio for which int(width * mlp_ratio) is `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _patch_embed(reader: _Reader) -> dict[str, Any]:
    reader.take("patch_embed", "PatchEmbed")
    reader.take("patch_embed.proj", "Conv2d")
    embed, proj = reader.root.patch_embed, reader.root.patch_embed.proj
    patch = tuple(embed.patch_size)
    plain = (patch, patch, (0, 0), (1, 1), 1)
    conv = (proj.kernel_size, proj.stride, proj.padding, proj.dilation, proj.groups)
    what = "kernel, stride, padding, dilation and groups"
    reader.equal("patch_embed.proj", what, conv, plain)
    dynamic = bool(reader.root.dynamic_img_size)
    reader.equal("patch_embed", "strict_img_size", embed.strict_img_size, not dynamic)
    return {
        "img_size": tuple(embed.img_size),
        "patch_size": patch,
        "in_chans": proj.in_channels,
        "embed_dim": proj.out_channels,
        "dynamic_img_size": dynamic,
        "dynamic_img_pad": bool(embed.dynamic_img_pad),
        "embed_norm_layer": reader.any_norm("patch_embed.norm"),
    }


def _attn_pool(reader: _Reader, pool: str, blocks: Mapping[str, Any]) -> None:
    """Check that the attention pool is the one that timm's constructor makes."""
    path = "attn_pool"
    kinds = {"map": "AttentionPoolLatent", "prr": "AttentionPoolPrr"}
    reader.take(path, kinds.get(pool, ""))
    if pool not in kinds:
        return
    module = reader.modules[path]
    reader.equal(path, "num_heads", module.num_heads, blocks["num_heads"])
    if pool == "prr":
        class_token = reader.root.cls_token is not None
        reader.equal(path, "pool", module.pool, "token" if class_token else "avg")
        include = bool(reader.root.pool_include_prefix)
        reader.equal("", "prr with pool_include_prefix", include, True)
        reader.take(f"{path}.pre_norm", "Identity")
        reader.take(f"{path}.post_norm", "Identity")
        return
    reader.equal(path, "pool", module.pool, "token")
    reader.equal(path, "latent_len", module.latent_len, 1)
    reader.equal(path, "latent_dim", module.latent_dim, reader.width)
    if module.pos_embed is not None:
        _refuse(path, "a position embedding in the pool is not supported")
    for name, outputs in (("q", 1), ("kv", 2), ("proj", 1)):
        got = reader.linear(f"{path}.{name}")
        want = (reader.width, outputs * reader.width, True)
        reader.equal(f"{path}.{name}", "(in, out, bias)", got, want)
    for name in ("q_norm", "k_norm"):
        reader.take(f"{path}.{name}", "Identity")
    reader.skip(f"{path}.proj_drop", "Dropout")
    reader.required_norm(f"{path}.norm")
    mlp = _mlp(reader, f"{path}.mlp", proj_bias=True)
    same = {key: blocks[key] for key in ("hidden", "act_layer")}
    usual = {"mlp_layer": "Mlp", "scale_mlp_norm": False, **same}
    reader.equal(f"{path}.mlp", "options", mlp, usual)


def _norms_and_head(reader: _Reader) -> dict[str, Any]:
    reader.skip("pos_drop", "Dropout")
    reader.skip("patch_drop", "PatchDropout")
    reader.skip("head_drop", "Dropout")
    pre_norm = reader.norm("norm_pre")
    conv_bias = reader.root.patch_embed.proj.bias is not None
    reader.equal("patch_embed.proj", "bias", conv_bias, not pre_norm)
    norm, fc_norm = reader.norm("norm"), reader.norm("fc_norm")
    if norm and fc_norm:
        _refuse("fc_norm", "a norm here beside the one at norm is not supported")
    num_classes = 0
    if reader.take("head", "Identity", "Linear") == "Linear":
        _, num_classes, bias = reader.linear("head")
        reader.equal("head", "bias", bias, True)
    return {
        "pre_norm": pre_norm,
        "final_norm": norm or fc_norm,
        "fc_norm": fc_norm,
        "num_classes": num_classes,
    }


def read_options(module: Any) -> dict[str, Any]:
    """The constructor's options that describe a live timm VisionTransformer.

    TypeError for anything else; ValueError, naming the path, for what is not supported.
    """
    name = _class_name(module)
    if name != "VisionTransformer" or not hasattr(module, "named_modules"):
        raise TypeError(
            f"from_timm takes a timm VisionTransformer, got {name}; a wrapper's own "
            "module (of torch.compile, DataParallel) has to be taken out first"
        )
    reader = _Reader(module)
    reader.take("", "VisionTransformer")
    out = _patch_embed(reader)
    reader.width = out["embed_dim"]
    blocks = _blocks(reader)
    out |= _norms_and_head(reader)
    pool = module.global_pool
    _attn_pool(reader, pool, blocks)
    reader.finish()

    class_token = module.cls_token is not None
    reg_tokens = 0 if module.reg_token is None else module.reg_token.shape[1]
    prefix = int(class_token) + reg_tokens
    reader.equal("", "num_prefix_tokens", module.num_prefix_tokens, prefix)
    hidden = blocks.pop("hidden")
    return {
        **out,
        **blocks,
        "mlp_ratio": _ratio(hidden, reader.width),
        "norm_layer": reader.norm_spec,
        "global_pool": pool,
        "class_token": class_token,
        "reg_tokens": reg_tokens,
        "pos_embed": "none" if module.pos_embed is None else "learn",
        "no_embed_class": bool(module.no_embed_class),
        # prr sets it whatever the constructor was told: what it was, is not to be seen.
        "pool_include_prefix": bool(module.pool_include_prefix) and pool != "prr",
    }


class _Weights(Mapping[str, NDArray[np.float32]]):
    """A module's state dict as float32 arrays, converted one at a time."""

    def __init__(self, module: Any) -> None:
        self._tensors: Mapping[str, Any] = module.state_dict()

    def __getitem__(self, key: str) -> NDArray[np.float32]:
        tensor = self._tensors[key]
        if tensor.is_meta or not tensor.is_floating_point():
            kind = "a meta tensor" if tensor.is_meta else tensor.dtype
            _refuse(key, f"{kind}; floating-point data is needed")
        array: NDArray[np.float32] = tensor.detach().cpu().float().contiguous().numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def from_timm(module: Any, dtype: str = "float32") -> VisionTransformer:
    """Our model with the weights and configuration of a live timm VisionTransformer.

    module: on any device, of any floating dtype (read as float32), in any mode: dropout
        is ignored. dtype: of our weights in memory.

    TypeError for anything but timm's own VisionTransformer; ValueError for a module in
    it that is not supported or was altered (hooks, replaced methods), naming its path.
    """
    from .model import VisionTransformer

    options = read_options(module)
    model = VisionTransformer(**options, dtype=dtype, weights=_Weights(module))
    cfg = getattr(module, "pretrained_cfg", None)
    if isinstance(cfg, Mapping):
        model.pretrained_cfg = model.default_cfg = dict(cfg)
    return model
