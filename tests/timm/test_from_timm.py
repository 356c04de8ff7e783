# SPDX-License-Identifier: Apache-2.0
"""`from_timm`: a live VisionTransformer of timm's, as it stands, or a named refusal."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import timm
import torch
from timm import layers
from timm.layers import attention_pool
from timm.models import vision_transformer as vit
from torch import nn

import vitpool
from vitpool import from_timm
from vitpool.checkpoint.live_timm import read_options

NAMES = timm.list_models(module="vision_transformer")
SMALL: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
}
# Two float32 computations of one thing; the strict measure is the other tests' task.
TOLERANCE = 4e-5


def randomise(model: vit.VisionTransformer) -> vit.VisionTransformer:
    """Fill every parameter, so that each matters; fast for the large models."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("weight") and p.dim() == 1:
                p.uniform_(0.75, 1.25, generator=generator)
            else:
                fan = math.prod(p.shape[1:]) if name.endswith("weight") else 4
                p.uniform_(-((3 / fan) ** 0.5), (3 / fan) ** 0.5, generator=generator)
    return model.eval()


def small(**options: Any) -> vit.VisionTransformer:
    return randomise(reference.build(SMALL | options))


def picture(model: vit.VisionTransformer, batch: int = 2) -> torch.Tensor:
    size = model.patch_embed.img_size
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, model.in_chans, *size, generator=generator)


def assert_same(model: vit.VisionTransformer, batch: int = 2) -> Any:
    """Our model from timm's: the same keys, shapes and outputs. Returns ours."""
    ours = from_timm(model)
    assert dict(ours.param_shapes()) == reference.shapes(model)
    x = picture(model, batch)
    with torch.inference_mode():
        want = model.float()(x).numpy()
    got = ours(x.numpy())
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()
    return ours


# -------------------------------------------------------------------- every one of timm


@pytest.mark.parametrize("name", NAMES)
def test_options_of_every_name_rebuild_it(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, depth=3)
        options = read_options(model)
        again = reference.build(options)
    assert reference.shapes(again) == reference.shapes(model)
    # nn.GELU and timm's are two classes of one function.
    text = str(model.eval()).replace("GELU(approximate='none')", "GELU()")
    assert str(again).replace("GELU(approximate='none')", "GELU()") == text
    assert read_options(again) == options
    kept = ("global_pool", "num_classes", "num_prefix_tokens", "no_embed_class")
    for key in (*kept, "pool_include_prefix", "dynamic_img_size"):
        assert getattr(again, key) == getattr(model, key), key


@pytest.mark.parametrize("name", NAMES)
def test_every_name_gives_timms_outputs(name: str) -> None:
    """On pictures of 4 x 4 patches; that of its own size test_all_163.py has."""
    with torch.device("meta"):
        model = timm.create_model(name, depth=1)
        rows, columns = model.patch_embed.patch_size
        options = {"depth": 1 + (model.embed_dim <= 768)}
        size = (4 * rows, 4 * columns)
        model = timm.create_model(name, img_size=size, **options)
    model = randomise(model.to_empty(device="cpu"))
    ours = assert_same(model, batch=1)
    assert ours.pretrained_cfg == model.pretrained_cfg


# -------------------------------------------------------------------------- the options


@pytest.mark.parametrize(
    "options",
    [
        {"global_pool": pool, "class_token": token}
        for pool in ("", "avg", "avgmax", "max", "token", "map", "prr")
        for token in (True, False)
        if token or pool != "token"
    ],
    ids=str,
)
def test_every_pool_is_read(options: dict[str, Any]) -> None:
    ours = assert_same(small(reg_tokens=2, **options))
    assert ours.global_pool == options["global_pool"]


@pytest.mark.parametrize(
    "options",
    [
        {"norm_layer": ("layernorm", 0.1)},
        {"norm_layer": ("rmsnorm", 0.1), "qk_norm": True},
        {"embed_norm_layer": ("rmsnorm", 0.1)},
        {"scale_attn_norm": True, "scale_mlp_norm": True},
        {"qkv_bias": False, "proj_bias": False, "init_values": 0.1},
        {"pre_norm": True, "final_norm": False},
        {"fc_norm": True, "global_pool": "map"},
        {"fc_norm": False, "global_pool": "avg", "pool_include_prefix": True},
        {"pos_embed": "none", "reg_tokens": 1},
        {"no_embed_class": True, "reg_tokens": 1},
        {"dynamic_img_size": True, "dynamic_img_pad": True},
        {"img_size": (24, 40), "patch_size": (8, 4), "in_chans": 1},
        {"mlp_ratio": 3.3, "num_classes": 0},
        *({"act_layer": a} for a in ("gelu_tanh", "quick_gelu", "silu", "relu")),
        *({"mlp_layer": m} for m in ("GluMlp", "SwiGLU", "SwiGLUPacked")),
        *({"block_fn": b} for b in ("ResPostBlock", "ParallelThingsBlock")),
        {"block_fn": "ParallelScalingBlock", "qkv_bias": False, "init_values": 0.1},
        {"block_fn": "ParallelScalingBlock", "proj_bias": False, "qk_norm": True},
        {"block_fn": "DiffParallelScalingBlock", "init_values": 0.1},
        {"block_fn": "ParallelThingsBlock", "init_values": 0.1, "attn_layer": "diff"},
        {"attn_layer": "diff", "qk_norm": True, "depth": 3},
    ],
    ids=str,
)
def test_every_option_is_read(options: dict[str, Any]) -> None:
    ours = assert_same(small(**options))
    again = vitpool.VisionTransformer(**ours.config)
    assert again.param_shapes() == ours.param_shapes()


def test_mlp_width_survives_a_ratio_that_rounds_down() -> None:
    for width, hidden in ((1152, 4304), (1408, 6144), (832, 2176), (320, 1792)):
        for hidden_near in (hidden, hidden + 1):
            with torch.device("meta"):
                model = reference.build(
                    SMALL
                    | {"embed_dim": width, "mlp_ratio": (hidden_near + 0.5) / width}
                )
            assert model.blocks[0].mlp.fc1.out_features == hidden_near
            ratio = read_options(model)["mlp_ratio"]
            assert int(width * ratio) == hidden_near


def test_plain_torch_layer_norm_is_taken() -> None:
    model = randomise(vit.VisionTransformer(**SMALL, norm_layer=nn.LayerNorm))
    assert read_options(model)["norm_layer"] == ("layernorm", 1e-5)
    assert_same(model)


def test_deit3_is_a_vision_transformer() -> None:
    model = timm.create_model("deit3_small_patch16_224", depth=2, img_size=64)
    assert_same(randomise(model))


# ----------------------------------------------------------- the model as it stands now


@pytest.mark.parametrize(
    ("built", "reset"),
    [
        ("map", (3, "avg")),
        ("map", (0, "map")),
        ("map", (3, "")),
        ("prr", (3, "avg")),
        ("avg", (3, "token")),
        ("token", (3, "avgmax")),
        ("max", (0, "")),
    ],
)
def test_model_is_read_after_reset_classifier(
    built: str, reset: tuple[int, str]
) -> None:
    model = small(global_pool=built, reg_tokens=1)
    model.reset_classifier(*reset)
    ours = assert_same(randomise(model))
    assert (ours.num_classes, ours.global_pool) == reset


def test_model_is_read_after_set_input_size() -> None:
    model = small()
    model.set_input_size((48, 24), 4)
    ours = assert_same(model)
    assert tuple(ours.patch_embed.grid_size) == (12, 6)


def test_model_is_read_after_pruning() -> None:
    model = small(depth=4, global_pool="avg")
    model.prune_intermediate_layers([1], prune_norm=True)
    ours = assert_same(model)
    assert len(ours.blocks) == 2


def test_own_head_counts_whatever_num_classes_says() -> None:
    model = small()
    model.head = nn.Linear(32, 7)
    assert assert_same(model).num_classes == 7


def test_float64_is_read_as_float32() -> None:
    assert assert_same(small().to(torch.float64)).dtype == "float32"


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().numpy()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_module_of_a_dtype_gives_a_model_of_it(dtype: torch.dtype) -> None:
    model = small(global_pool="map", class_token=False, init_values=0.1).to(dtype)
    ours = from_timm(model)
    name = str(dtype).removeprefix("torch.")
    assert ours.dtype == name
    kept = ours._dtypes()
    for key, tensor in model.state_dict().items():
        matrix = key.endswith("weight") and tensor.dim() > 1
        assert kept[key] == (name if matrix else "float32"), key
        # the module's own numbers, the norms' and biases' too
        np.testing.assert_array_equal(ours.get_parameter(key), numbers(tensor), key)
    x = picture(model)
    with torch.inference_mode():
        want = numbers(model(x.to(dtype)))
        exact = numbers(model.float()(x))
    scale = np.abs(exact).max()
    assert np.abs(ours(x.numpy()) - exact).max() < 0.02 * scale
    # no further from float32 than torch, which rounds whatever it computes
    assert np.abs(ours(x.numpy()) - exact).max() < np.abs(want - exact).max()


def test_a_module_of_mixed_dtypes_gives_each_matrix_its_own() -> None:
    model = small()
    model.blocks[0].mlp.to(torch.bfloat16)
    model.blocks[1].attn.to(torch.float16)
    model.blocks[1].norm1.to(torch.bfloat16)
    kept = from_timm(model)._dtypes()
    assert {n: d for n, d in kept.items() if d != "float32"} == {
        "blocks.0.mlp.fc1.weight": "bfloat16",
        "blocks.0.mlp.fc2.weight": "bfloat16",
        "blocks.1.attn.qkv.weight": "float16",
        "blocks.1.attn.proj.weight": "float16",
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_the_dtype_of_ours_can_be_asked_for(dtype: Any) -> None:
    model = small()
    ours = from_timm(model, dtype)
    assert ours.dtype == dtype
    assert ours._dtypes() == from_timm(model).to(dtype)._dtypes()
    rounded = from_timm(small().to(torch.bfloat16), "float32")
    assert set(rounded._dtypes().values()) == {"float32"}


def test_training_mode_and_dropout_are_ignored() -> None:
    rates = ("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate")
    model = small(**dict.fromkeys((*rates, "attn_drop_rate", "drop_path_rate"), 0.5))
    ours = from_timm(model.train())
    x = picture(model)
    with torch.inference_mode():
        want = model.eval()(x).numpy()
    assert np.abs(ours(x.numpy()) - want).max() <= TOLERANCE * np.abs(want).max()


def test_rates_of_dropout_are_kept_for_training() -> None:
    rates = {
        "drop_rate": 0.1,
        "pos_drop_rate": 0.2,
        "patch_drop_rate": 0.3,
        "proj_drop_rate": 0.15,
        "attn_drop_rate": 0.25,
        "drop_path_rate": 0.35,
    }
    assert from_timm(vit.VisionTransformer(**SMALL, **rates)).drop_rates == rates
    assert from_timm(vit.VisionTransformer(**SMALL)).drop_rates == {}
    things = {"block_fn": vit.ParallelThingsBlock, "drop_rate": 0.1}
    assert from_timm(vit.VisionTransformer(**SMALL, **things)).drop_rates == {
        "drop_rate": 0.1
    }


def test_weights_are_a_copy() -> None:
    model = small()
    ours = from_timm(model)
    before = ours(picture(model).numpy())
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert np.array_equal(ours(picture(model).numpy()), before)


def test_weights_are_read_in_the_wanted_dtype() -> None:
    assert from_timm(small(), dtype="float32").dtype == "float32"


# ------------------------------------------------------------------------- the refusals


class Subclass(vit.VisionTransformer):
    pass


TAKES = r"takes a timm VisionTransformer, .* or NaFlexVit, got "


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        None,
        nn.Linear(2, 2),
        nn.Sequential(),
        {"head.weight": 1},
        Subclass(**SMALL),
        nn.DataParallel(vit.VisionTransformer(**SMALL)),
    ],
    ids=lambda wrong: type(wrong).__name__,
)
def test_anything_else_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match=TAKES) as e:
        from_timm(wrong)
    alike = isinstance(wrong, vit.VisionTransformer)
    assert ("like_timm=True" in str(e.value)) == alike
    if not alike:
        with pytest.raises(TypeError, match=TAKES):
            from_timm(wrong, like_timm=True)


class MyNorm(nn.LayerNorm):
    pass


class Linear(nn.Linear):
    """Has the name of a known class, and may compute something else."""


def set_path(path: str, value: Callable[[], Any]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, value())

    return change


def hook(model: Any) -> None:
    model.blocks[1].attn.register_forward_hook(lambda *args: None)


def pre_hook(model: Any) -> None:
    model.blocks[1].attn.qkv.register_forward_pre_hook(lambda *args: None)


def new_forward(model: Any) -> None:
    attn = model.blocks[1].attn
    attn.forward = types.MethodType(lambda self, x: x, attn)


def parametrised(model: Any) -> None:
    nn.utils.parametrizations.weight_norm(model.blocks[0].mlp.fc1)


def meta(model: Any) -> None:
    model.head.to("meta")


MAP = {"global_pool": "map"}
DIFF = {"attn_layer": "diff"}
THINGS = {"block_fn": "ParallelThingsBlock"}
REFUSED: list[tuple[str, dict[str, Any], Callable[[Any], None]]] = [
    ("blocks.1.norm1: .*MyNorm", {}, set_path("blocks.1.norm1", lambda: MyNorm(32))),
    ("head: .*Linear", {}, set_path("head", lambda: Linear(32, 5))),
    ("head: Sequential", {}, set_path("head", nn.Sequential)),
    ("head: bias", {}, set_path("head", lambda: nn.Linear(32, 5, bias=False))),
    ("extra: Linear is not known", {}, set_path("extra", lambda: nn.Linear(2, 2))),
    (
        "blocks.1.norm2: .*differs from .*blocks.0.norm1",
        {},
        set_path("blocks.1.norm2", lambda: layers.LayerNorm(32, eps=1e-3)),
    ),
    (
        "norm: .*without its usual weight",
        {},
        set_path("norm", lambda: layers.LayerNorm(32, affine=False)),
    ),
    ("blocks.1.norm1: Identity", {}, set_path("blocks.1.norm1", nn.Identity)),
    (
        "fc_norm: a norm here beside",
        {},
        set_path("fc_norm", lambda: layers.LayerNorm(32)),
    ),
    (
        "blocks.0.attn.gate: Linear",
        {},
        set_path("blocks.0.attn", lambda: layers.Attention(32, 2, gated=True)),
    ),
    (
        "blocks.0.attn: attention width",
        {},
        set_path("blocks.0.attn", lambda: layers.Attention(32, 2, attn_head_dim=8)),
    ),
    (
        "blocks.1: num_heads 4; supported here: 2",
        {},
        set_path("blocks.1.attn", lambda: layers.Attention(32, 4, qkv_bias=True)),
    ),
    (
        "blocks.1: hidden 64; supported here: 128",
        {},
        set_path("blocks.1.mlp", lambda: layers.Mlp(32, 64)),
    ),
    (
        "blocks.0.mlp.act: Tanh",
        {},
        set_path("blocks.0.mlp.act", nn.Tanh),
    ),
    (
        "blocks.0.mlp: .*GatedMlp|blocks.0.mlp: GatedMlp",
        {},
        set_path("blocks.0.mlp", lambda: layers.GatedMlp(32, 128)),
    ),
    (
        "blocks.1: .*TransformerEncoderLayer",
        {},
        set_path("blocks.1", lambda: nn.TransformerEncoderLayer(32, 2)),
    ),
    ("blocks.0.ls2: |blocks.0: LayerScale", {}, set_path("blocks.0.ls2", nn.Identity)),
    (
        "blocks.0.attn: dual_lambda",
        DIFF,
        set_path(
            "blocks.0.attn", lambda: layers.DiffAttention(32, 2, dual_lambda=True)
        ),
    ),
    (
        "blocks.1.attn: lambda_init",
        DIFF,
        set_path("blocks.1.attn", lambda: layers.DiffAttention(32, 2, depth=7)),
    ),
    (
        "blocks.0: num_parallel 3",
        THINGS,
        set_path("blocks.0", lambda: vit.ParallelThingsBlock(32, 2, num_parallel=3)),
    ),
    (
        "blocks.0.out_proj: Linear",
        {"block_fn": "ParallelScalingBlock"},
        set_path(
            "blocks.0", lambda: vit.ParallelScalingBlock(32, 2, fuse_out_proj=True)
        ),
    ),
    (
        "attn_pool: latent_len 4",
        MAP,
        set_path(
            "attn_pool",
            lambda: attention_pool.AttentionPoolLatent(32, num_heads=2, latent_len=4),
        ),
    ),
    (
        "attn_pool: a position embedding",
        MAP,
        set_path(
            "attn_pool",
            lambda: attention_pool.AttentionPoolLatent(
                32, num_heads=2, pos_embed="abs", feat_size=16
            ),
        ),
    ),
    (
        "attn_pool.q_norm: LayerNorm",
        MAP,
        set_path(
            "attn_pool",
            lambda: attention_pool.AttentionPoolLatent(32, num_heads=2, qk_norm=True),
        ),
    ),
    (
        "attn_pool.q: Identity",
        MAP,
        set_path(
            "attn_pool",
            lambda: attention_pool.AttentionPoolLatent(32, num_heads=2, q_proj=False),
        ),
    ),
    (
        "attn_pool: num_heads 8; supported here: 2",
        MAP,
        set_path("attn_pool", lambda: attention_pool.AttentionPoolLatent(32)),
    ),
    (
        "attn_pool: AttentionPoolLatent; supported here: AttentionPoolPrr",
        MAP,
        lambda model: setattr(model, "global_pool", "prr"),
    ),
    (
        "attn_pool: AttentionPoolLatent; supported here: none",
        MAP,
        lambda model: setattr(model, "global_pool", "avg"),
    ),
    (
        "attn_pool.pre_norm: LayerNorm",
        {"global_pool": "prr"},
        set_path(
            "attn_pool",
            lambda: attention_pool.AttentionPoolPrr(32, 2, pre_norm=True),
        ),
    ),
    (
        "patch_embed.backbone: Conv2d; supported here: ConvStem",
        {},
        set_path(
            "patch_embed",
            lambda: layers.HybridEmbed(nn.Conv2d(3, 8, 4, 4), 32, embed_dim=32),
        ),
    ),
    (
        "patch_embed.proj: kernel, stride",
        {},
        set_path("patch_embed.proj", lambda: nn.Conv2d(3, 32, 8, 4)),
    ),
    (
        "patch_embed.proj: bias False",
        {},
        set_path("patch_embed.proj", lambda: nn.Conv2d(3, 32, 8, 8, bias=False)),
    ),
    (
        "patch_embed: strict_img_size",
        {},
        lambda m: setattr(m, "dynamic_img_size", True),
    ),
    ("num_prefix_tokens 3", {}, lambda model: setattr(model, "num_prefix_tokens", 3)),
    ("blocks: there are none", {}, set_path("blocks", nn.Sequential)),
    ("blocks.1.attn: has forward hooks", {}, hook),
    ("blocks.1.attn.qkv: has forward hooks", {}, pre_hook),
    (r"blocks.1.attn: its forward\(\) was replaced", {}, new_forward),
    ("blocks.0.mlp.fc1: .*Parametrized", {}, parametrised),
    ("head.weight: a meta tensor", {}, meta),
]


@pytest.mark.parametrize(
    ("message", "options", "change"), REFUSED, ids=[r[0] for r in REFUSED]
)
def test_what_is_not_known_is_refused_by_path(
    message: str, options: dict[str, Any], change: Callable[[Any], None]
) -> None:
    if "ls2" in message:
        options = options | {"init_values": 0.1}
    model = small(**options)
    change(model)
    with pytest.raises(ValueError, match=f"^from_timm: .*({message})"):
        from_timm(model)
