# SPDX-License-Identifier: Apache-2.0
"""What timm's classes have in common: patches, the pool of latents, the head."""

from __future__ import annotations

from typing import Any

from .blocks import read_mlp
from .reader import Reader, refuse


def read_conv(reader: Reader, path: str, patch: tuple[int, int]) -> None:
    """Check that the convolution at `path` takes each patch once."""
    reader.take(path, "Conv2d")
    proj = reader.modules[path]
    plain = (patch, patch, (0, 0), (1, 1), 1)
    conv = (proj.kernel_size, proj.stride, proj.padding, proj.dilation, proj.groups)
    what = "kernel, stride, padding, dilation and groups"
    reader.equal(path, what, conv, plain)


def read_patch_embed(reader: Reader, pre_norm: bool) -> dict[str, Any]:
    """The options of PatchEmbed; its bias is missing where pre_norm makes up for it."""
    reader.take("patch_embed", "PatchEmbed")
    embed, proj = reader.root.patch_embed, reader.root.patch_embed.proj
    patch = tuple(embed.patch_size)
    read_conv(reader, "patch_embed.proj", patch)
    reader.equal("patch_embed.proj", "bias", proj.bias is not None, not pre_norm)
    dynamic = bool(getattr(reader.root, "dynamic_img_size", False))
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


def read_stem(reader: Reader) -> dict[str, Any]:
    """The options of HybridEmbed with the ConvStem of vit_base_mci_224."""
    path = "patch_embed.backbone"
    reader.take("patch_embed", "HybridEmbed")
    reader.take(path, "ConvStem")
    reader.take("patch_embed.proj", "Identity")
    embed, stem = reader.root.patch_embed, reader.root.patch_embed.backbone
    reader.equal(path, "convolutions", len(stem), 3)
    width = stem[2].conv.out_channels
    for i, (stride, channels) in enumerate(
        ((4, width // 4), (2, width // 4), (2, width))
    ):
        last = i == 2
        reader.take(f"{path}.{i}", "ConvNormAct")
        read_conv(reader, f"{path}.{i}.conv", (stride, stride))
        conv = stem[i].conv
        reader.equal(f"{path}.{i}.conv", "channels", conv.out_channels, channels)
        reader.equal(f"{path}.{i}.conv", "bias", conv.bias is not None, last)
        if last:
            reader.take(f"{path}.{i}.bn", "Identity", "Sequential")
            reader.equal(
                f"{path}.{i}.bn", "modules", len(list(stem[i].bn.children())), 0
            )
            continue
        norm = stem[i].bn
        reader.take(f"{path}.{i}.bn", "BatchNormAct2d")
        kept = (norm.eps, norm.affine, norm.track_running_stats)
        what = "(eps, affine, track_running_stats)"
        reader.equal(f"{path}.{i}.bn", what, kept, (1e-5, True, True))
        reader.skip(f"{path}.{i}.bn.drop", "Dropout")
        reader.equal(
            f"{path}.{i}.bn.act", "act", reader.act(f"{path}.{i}.bn.act"), "gelu"
        )
    reader.equal("patch_embed", "patch_size", tuple(embed.patch_size), (1, 1))
    dynamic = bool(reader.root.dynamic_img_size)
    reader.equal("patch_embed", "strict_img_size", embed.strict_img_size, not dynamic)
    return {
        "embed_layer": "ConvStem",
        "img_size": tuple(embed.img_size),
        "patch_size": (16, 16),
        "in_chans": stem[0].conv.in_channels,
        "embed_dim": width,
        "dynamic_img_size": dynamic,
        "dynamic_img_pad": bool(embed.dynamic_img_pad),
        "embed_norm_layer": None,
    }


def read_latent_pool(reader: Reader, path: str = "attn_pool") -> dict[str, Any]:
    """Heads, hidden width and activation of the AttentionPoolLatent at `path`."""
    reader.take(path, "AttentionPoolLatent")
    module = reader.modules[path]
    reader.equal(path, "pool", module.pool, "token")
    reader.equal(path, "latent_len", module.latent_len, 1)
    reader.equal(path, "latent_dim", module.latent_dim, reader.width)
    if module.pos_embed is not None:
        refuse(path, "a position embedding in the pool is not supported")
    for name, outputs in (("q", 1), ("kv", 2), ("proj", 1)):
        got = reader.linear(f"{path}.{name}")
        want = (reader.width, outputs * reader.width, True)
        reader.equal(f"{path}.{name}", "(in, out, bias)", got, want)
    for name in ("q_norm", "k_norm"):
        reader.take(f"{path}.{name}", "Identity")
    reader.skip(f"{path}.proj_drop", "Dropout")
    reader.required_norm(f"{path}.norm")
    mlp = read_mlp(reader, f"{path}.mlp", proj_bias=True)
    reader.equal(f"{path}.mlp", "kind", mlp.pop("mlp_layer"), "Mlp")
    reader.equal(f"{path}.mlp", "norm", mlp.pop("scale_mlp_norm"), False)
    return {"num_heads": module.num_heads, **mlp}


def read_head(reader: Reader, path: str = "head") -> int:
    """Classes of the head at `path`; 0 where there is none."""
    if reader.take(path, "Identity", "Linear") == "Identity":
        return 0
    _, num_classes, bias = reader.linear(path)
    reader.equal(path, "bias", bias, True)
    return num_classes


def read_norms(reader: Reader) -> dict[str, bool]:
    """The options of a class whose one last norm stands before or after the pool."""
    norm, fc_norm = reader.norm("norm"), reader.norm("fc_norm")
    if norm and fc_norm:
        refuse("fc_norm", "a norm here beside the one at norm is not supported")
    return {"final_norm": norm or fc_norm, "fc_norm": fc_norm}


def read_drops(reader: Reader, *patch_drop: str) -> None:
    """Dropout outside of the blocks; patch_drop: what may drop patches."""
    reader.skip("pos_drop", "Dropout")
    reader.skip("head_drop", "Dropout")
    if patch_drop:
        reader.take("patch_drop", *patch_drop)


def drop_rates(reader: Reader) -> dict[str, float]:
    """timm's rates of dropout, as its modules hold them, where they are not 0.

    Of the blocks the last one's, whose drop path is drop_path_rate.
    """
    last = f"blocks.{len(reader.root.blocks) - 1}"
    pos_drop = "embeds.pos_drop" if "embeds" in reader.modules else "pos_drop"
    held = {
        "drop_rate": ("head_drop", "p"),
        "pos_drop_rate": (pos_drop, "p"),
        "patch_drop_rate": ("patch_drop", "prob"),
        "proj_drop_rate": (f"{last}.attn.proj_drop", "p"),
        "attn_drop_rate": (f"{last}.attn.attn_drop", "p"),
        "drop_path_rate": (f"{last}.drop_path1", "drop_prob"),
    }
    rates = {
        name: getattr(reader.modules.get(path), attribute, 0)
        for name, (path, attribute) in held.items()
    }
    # drop path's comes out of torch.linspace: 0.35 is 0.3499999940395355 there.
    return {name: float(f"{rate:.6g}") for name, rate in rates.items() if rate}


def zero_k_bias(reader: Reader, path: str) -> None:
    """Refuse a bias of k other than 0: it is no parameter, so no file could hold it."""
    bias = reader.modules[path].k_bias
    if bias is not None and not bias.is_meta and bool(bias.any()):
        refuse(path, "k_bias is not 0; supported here: 0, as timm makes it")


def same_in_blocks(reader: Reader, read: Any, *kinds: str) -> dict[str, Any]:
    """What `read(reader, path, kind)` finds in each block, the same in all; and depth.

    Of init_values only whether there are any has to be the same.
    """
    depth = len(reader.root.blocks)
    if not depth:
        refuse("blocks", "there are none")
    common: dict[str, Any] = {}
    for index in range(depth):
        path = f"blocks.{index}"
        kind = reader.take(path, *kinds)
        own = read(reader, path, kind)
        common = common or own
        for key, value in own.items():
            if key != "init_values" or (value is None) != (common[key] is None):
                reader.equal(path, key, value, common[key])
    return {**common, "depth": depth}
