# SPDX-License-Identifier: Apache-2.0
"""ConvStem, vit_base_mci_224's embedding, against timm's."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import prepare  # noqa: F401
import pytest
import reference
import torch
from golden import recipe
from safetensors.torch import save_file
from timm.layers import HybridEmbed
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem

import vitpool
from vitpool.train import Trainer, gradients

SMALL: dict[str, Any] = {
    "img_size": 64,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 5,
    "no_embed_class": True,
}


def theirs(seed: int = 0, **options: Any) -> Any:
    """timm's model of these options, its numbers drawn, statistics among them."""
    options = SMALL | options
    width = options["embed_dim"]
    stem = ConvStem(
        channels=(width // 4, width // 4, width),
        stride=(4, 2, 2),
        kernel_size=(4, 2, 2),
        padding=0,
        in_chans=options.get("in_chans", 3),
        act_layer=torch.nn.GELU,
    )
    embed = partial(HybridEmbed, backbone=stem, proj=False)
    model = VisionTransformer(**options, patch_size=1, embed_layer=embed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                tensor.fill_(7)
                continue
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.25)
            elif name.endswith(("bn.weight", "norm1.weight", "norm2.weight")):
                tensor.add_(1)
    return model.eval()


def ours(model: Any, **options: Any) -> vitpool.VisionTransformer:
    built = vitpool.VisionTransformer(**SMALL | options, embed_layer="ConvStem")
    assert built.load_state_dict(model.state_dict()) == ([], [])
    return built


def same(mine: Any, model: Any, call: Any, x: np.ndarray, what: str) -> None:
    reference.check(mine, model, call, x, what=what)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"img_size": (48, 80)},
    {"img_size": 70},  # what fills no patch is left out
    {"in_chans": 1},
    {"no_embed_class": False, "reg_tokens": 2, "class_token": False}
    | {"global_pool": "avg"},
    {"pre_norm": True, "act_layer": "quick_gelu"},  # of the blocks alone
    {"global_pool": "map", "num_classes": 0},
    {"embed_dim": 64, "num_heads": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_agree_with_timm(options: dict[str, Any], batch: int) -> None:
    changed = dict(options)
    if options.get("act_layer"):
        from timm.layers import get_act_layer

        changed["act_layer"] = get_act_layer(options["act_layer"])
    model = theirs(**changed)
    mine = ours(model, **options)
    size = (mine.img_size[0], mine.img_size[1])
    x = recipe.picture((batch, options.get("in_chans", 3), *size))
    same(mine, model, lambda m, x: m(x), x, "forward")
    same(mine, model, lambda m, x: m.patch_embed(x), x, "patch_embed")
    same(mine, model, lambda m, x: m.forward_features(x), x, "features")


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (96, 48), (90, 55), (16, 16)])
def test_any_size_is_taken_as_timm_does(size: Any, padded: bool) -> None:
    sizes = {"dynamic_img_size": True, "dynamic_img_pad": padded}
    model = theirs(**sizes)
    mine = ours(model, **sizes)
    x = recipe.picture((2, 3, *size))
    same(mine, model, lambda m, x: m(x), x, f"{size}")
    want = model.patch_embed(torch.from_numpy(x)).detach().numpy()
    assert mine.patch_embed(x).shape == want.shape


def test_a_picture_smaller_than_a_patch_is_refused() -> None:
    mine = ours(theirs(dynamic_img_size=True), dynamic_img_size=True)
    with pytest.raises(ValueError, match="15 x 64"):
        mine(recipe.picture((1, 3, 15, 64)))


def test_another_size_is_set_as_in_timm() -> None:
    model = theirs()
    mine = ours(model)
    model.set_input_size((96, 64))
    mine.set_input_size((96, 64))
    x = recipe.picture((2, 3, 96, 64))
    same(mine, model, lambda m, x: m(x), x, "forward")
    assert mine.patch_embed.grid_size == tuple(model.patch_embed.grid_size)
    with pytest.raises(ValueError, match="patch_size must be"):
        mine.set_input_size(patch_size=8)
    assert mine.patch_embed.grid_size == (6, 4)


def test_state_dicts_load_into_each_other_strictly() -> None:
    model = theirs()
    mine = ours(model)
    counters = {k for k in model.state_dict() if k.endswith("num_batches_tracked")}
    assert len(counters) == 2
    assert [*mine.state_dict()] == [k for k in model.state_dict() if k not in counters]
    other = theirs(seed=1)
    state = {k: torch.from_numpy(v) for k, v in mine.state_dict().items()}
    result = other.load_state_dict(state, strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
    x = torch.from_numpy(recipe.picture((1, 3, 64, 64)))
    with torch.no_grad():
        assert torch.equal(other(x), model(x))
    # A counter of a BatchNorm that is not there is no counter.
    wrong = {**mine.state_dict(), "patch_embed.backbone.2.bn.num_batches_tracked": 1}
    with pytest.raises(ValueError, match="unexpected keys"):
        mine.load_state_dict(wrong)
    plain = vitpool.VisionTransformer(**SMALL)
    extra = {**plain.state_dict(), "patch_embed.backbone.0.bn.num_batches_tracked": 1}
    with pytest.raises(ValueError, match="unexpected keys"):
        plain.load_state_dict(extra)


def test_parameters_are_timms_and_statistics_are_none() -> None:
    model = theirs()
    mine = ours(model)
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in mine.named_parameters()] == names
    assert mine.summary().params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_files_load_and_take_another_number_of_channels(
    suffix: str, tmp_path: Path
) -> None:
    model = theirs()
    file = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(model.state_dict(), file)
    else:
        save_file(model.state_dict(), file)
    mine = vitpool.create_model("vit_base_mci_224", checkpoint_path=file, **SMALL)
    x = recipe.picture((2, 3, 64, 64))
    same(mine, model, lambda m, x: m(x), x, "forward")
    grey = vitpool.create_model(
        "vit_base_mci_224", checkpoint_path=file, **SMALL, in_chans=1
    )
    adapted = theirs(in_chans=1)
    state = model.state_dict()
    first = "patch_embed.backbone.0.conv.weight"
    state[first] = state[first].sum(1, keepdim=True)
    adapted.load_state_dict(state)
    same(grey, adapted, lambda m, x: m(x), x[:, :1], "one channel")


def test_a_file_of_another_kernel_is_refused(tmp_path: Path) -> None:
    state = theirs().state_dict()
    first = "patch_embed.backbone.0.conv.weight"
    state[first] = torch.zeros(12, 3, 3, 3)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"\(12, 3, 3, 3\), not \(12, 3, 4, 4\)"):
        vitpool.create_model(
            "vit_base_mci_224", checkpoint_path=tmp_path / "w.safetensors", **SMALL
        )


def apples(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """MobileCLIP's keys of timm's."""
    names = [
        (".norm1.", ".pre_norm_mha.0."),
        (".attn.qkv.", ".pre_norm_mha.1.qkv_proj."),
        (".attn.proj.", ".pre_norm_mha.1.out_proj."),
        (".norm2.", ".pre_norm_ffn.0."),
        (".mlp.fc1.", ".pre_norm_ffn.1."),
        (".mlp.fc2.", ".pre_norm_ffn.4."),
        ("blocks.", "transformer."),
        (".bn.", ".block.norm."),
        (".conv.", ".block.conv."),
        ("patch_embed.backbone.", "patch_emb."),
    ]
    out = {}
    for key, value in state.items():
        name = key.replace("norm.", "post_transformer_norm.", key.startswith("norm."))
        for ours, theirs_ in names:
            name = name.replace(ours, theirs_)
        if key == "pos_embed":
            name, value = "pos_embed.pos_embed.pos_embed", value[None]
        if key == "head.weight":
            name, value = "classifier.proj", value.T.contiguous()
        if key != "head.bias":
            out[f"image_encoder.model.{name}"] = value
    return out | {
        "text_encoder.embedding_layer.weight": torch.zeros(3, 4),
        "logit_scale": torch.zeros(1),
    }


def test_mobileclips_own_file_is_read_as_timm_does(tmp_path: Path) -> None:
    from timm.models.vision_transformer_hybrid import checkpoint_filter_fn

    model = theirs()
    with torch.no_grad():
        model.head.bias.zero_()
    state = apples(model.state_dict())
    want = checkpoint_filter_fn(dict(state), model)
    assert set(want) == set(model.state_dict())
    file = tmp_path / "mobileclip_b.pt"
    torch.save(state, file)
    mine = vitpool.create_model("vit_base_mci_224", checkpoint_path=file, **SMALL)
    x = recipe.picture((2, 3, 64, 64))
    same(mine, model, lambda m, x: m(x), x, "forward")
    torch.save(state | {"image_encoder.model.neural": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match="neural"):
        vitpool.create_model("vit_base_mci_224", checkpoint_path=file, **SMALL)


def test_an_open_clip_file_with_this_trunk_is_read(tmp_path: Path) -> None:
    model = theirs()
    state = {f"visual.trunk.{k}": v for k, v in model.state_dict().items()}
    file = tmp_path / "open_clip.safetensors"
    save_file(state | {"text.positions": torch.zeros(3), "logit_scale": torch.zeros(1)},
              file)  # fmt: skip
    mine = vitpool.create_model("vit_base_mci_224", checkpoint_path=file, **SMALL)
    x = recipe.picture((2, 3, 64, 64))
    same(mine, model, lambda m, x: m(x), x, "forward")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_low_precision_stays_near(dtype: Any) -> None:
    mine = ours(theirs())
    x = recipe.picture((2, 3, 64, 64))
    low = copy.copy(mine).to(dtype)
    want, got = mine(x), low(x)
    assert not np.array_equal(want, got)
    assert np.abs(got - want).max() <= 0.1 * np.abs(want).max()


def test_fresh_weights_are_drawn_as_timms() -> None:
    model = vitpool.VisionTransformer(
        **SMALL | {"embed_dim": 512, "num_heads": 4, "depth": 1},
        embed_layer="ConvStem",
        seed=0,
    )
    state = model.state_dict()
    torch.manual_seed(0)
    drawn = theirs_fresh(512)
    for name, tensor in drawn.items():
        mine, theirs_ = state[name], tensor.numpy()
        if name.startswith("patch_embed.backbone.") and ".conv." in name:
            assert abs(mine.std() / theirs_.std() - 1) < 0.1, name
            assert abs(np.abs(mine).max() / np.abs(theirs_).max() - 1) < 0.1, name
        elif name.startswith("patch_embed."):
            np.testing.assert_array_equal(mine, theirs_, err_msg=name)


def theirs_fresh(width: int) -> dict[str, torch.Tensor]:
    stem = ConvStem(
        channels=(width // 4, width // 4, width),
        stride=(4, 2, 2),
        kernel_size=(4, 2, 2),
        padding=0,
        act_layer=torch.nn.GELU,
    )
    embed = partial(HybridEmbed, backbone=stem, proj=False)
    model = VisionTransformer(
        img_size=64, embed_dim=width, depth=1, num_heads=4, patch_size=1,
        embed_layer=embed,
    )  # fmt: skip
    return {k: v for k, v in model.state_dict().items() if v.is_floating_point()}


def test_what_follows_the_stem_trains_and_the_stem_is_refused() -> None:
    mine = ours(theirs())
    x = recipe.picture((4, 3, 64, 64))
    y = np.array([0, 1, 2, 3])
    before = mine.state_dict()
    with pytest.raises(ValueError, match="ConvStem does not train"):
        Trainer(mine, train="all")
    trainer = Trainer(mine, train=2, optimizer="sgd", lr=0.01)
    losses = [float(trainer.step(x, y)) for _ in range(4)]
    assert losses[-1] < losses[0]
    after = mine.state_dict()
    for name in before:
        same_ = np.array_equal(before[name], after[name])
        assert same_ == (not name.startswith(("blocks.", "norm.", "head."))), name


def test_gradients_of_blocks_are_torchs() -> None:
    model = theirs()
    mine = ours(model)
    x = recipe.picture((2, 3, 64, 64))
    y = np.array([1, 3])
    names = [n for n, _ in mine.named_parameters() if not n.startswith("patch_embed.")]
    assert {"pos_embed", "cls_token", "head.bias"} < set(names)
    value, grads = gradients(mine, x, y, train=names)
    loss = torch.nn.functional.cross_entropy(
        model(torch.from_numpy(x)), torch.from_numpy(y)
    )
    loss.backward()
    assert abs(value - loss.item()) <= 1e-4 * loss.item()
    assert set(grads) == set(names)
    for name, parameter in model.named_parameters():
        if name in grads:
            want = parameter.grad.numpy()
            scale = np.abs(want).max()
            assert np.abs(grads[name] - want).max() <= 1e-3 * scale, name
