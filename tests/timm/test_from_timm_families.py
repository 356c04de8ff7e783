# SPDX-License-Identifier: Apache-2.0
"""`from_timm` of timm's other classes: as they stand, or a named refusal."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import families
import numpy as np
import pytest
import reference
import timm
import torch
from family_configurations import CLASSES, timms
from timm import layers
from timm.models import beit, deit, eva, naflexvit
from timm.models import vision_transformer_relpos as relpos
from torch import nn

import vitpool
from vitpool import from_timm
from vitpool.checkpoint.live_timm import read_options

# Two float32 computations of one thing; the strict measure is the other tests' task.
TOLERANCE = 4e-5

SMALL: dict[str, dict[str, Any]] = {
    "Eva": {},
    "Beit": {"use_rel_pos_bias": True},
    "VisionTransformerDistilled": {},
    "VisionTransformerRelPos": {},
    "NaFlexVit": {"global_pool": "avg", "pos_embed_grid_size": (4, 4)},
}
HOMES = {
    "Eva": eva,
    "Beit": beit,
    "VisionTransformerDistilled": deit,
    "VisionTransformerRelPos": relpos,
    "NaFlexVit": naflexvit,
}
ROPE = {"use_rot_pos_emb": True}


def small(kind: str, **options: Any) -> Any:
    """A small model of timm's class of that name, drawn."""
    given = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    given |= {"patch_size": 8} | ({} if kind == "NaFlexVit" else {"img_size": 32})
    model = timms(kind, given | SMALL[kind] | options)
    families.draw(model)
    return model


def picture(model: Any, batch: int = 2) -> torch.Tensor:
    size = (32, 32) if hasattr(model, "embeds") else model.patch_embed.img_size
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, model.in_chans, *size, generator=generator)


def assert_same(model: Any, batch: int = 2) -> Any:
    """Our model from timm's: the class, keys, shapes and outputs. Returns ours."""
    ours = from_timm(model)
    assert type(ours) is getattr(vitpool, type(model).__name__)
    assert dict(ours.param_shapes()) == reference.shapes(model)
    x = picture(model, batch)
    with torch.inference_mode():
        want = model.float()(x).numpy()
    got = ours(x.numpy())
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()
    return ours


# -------------------------------------------------------------------- every one of timm


@pytest.mark.parametrize("name", families.NAMES)
def test_options_of_every_name_rebuild_it(name: str) -> None:
    model = families.on_meta(name, **families.small_enough(name))
    options = read_options(model)
    kind = type(model).__name__
    if kind == "VisionTransformer":  # whose options test_from_timm.py rebuilds
        assert options["embed_dim"] == model.embed_dim
        return
    with torch.device("meta"):
        again = timms(kind, options)
    assert reference.shapes(again) == reference.shapes(model)
    # nn.GELU and timm's are two classes of one function.
    text = str(model).replace("GELU(approximate='none')", "GELU()")
    assert str(again).replace("GELU(approximate='none')", "GELU()") == text
    assert read_options(again) == options
    for key in ("global_pool", "num_classes", "num_prefix_tokens"):
        assert getattr(again, key) == getattr(model, key), key


@pytest.mark.parametrize("kind", CLASSES)
def test_a_model_of_each_class_gives_timms_outputs(kind: str) -> None:
    ours = assert_same(small(kind))
    again = type(ours)(**ours.config)
    assert again.param_shapes() == ours.param_shapes()
    assert again.config == ours.config


def test_mobileclips_stem_is_read() -> None:
    name = "vit_base_mci_224"
    model = timm.create_model(name, depth=1, num_classes=3).eval()
    families.draw(model)
    ours = from_timm(model)
    assert ours.config["embed_layer"] == "ConvStem"
    x = picture(model, batch=1)
    with torch.inference_mode():
        want = model(x).numpy()
    got = ours(x.numpy())
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


# -------------------------------------------------------------------------- the options

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *(
        ("Eva", {"global_pool": p})
        for p in ("", "avg", "avgmax", "max", "token", "map")
    ),
    ("Eva", {"use_fc_norm": True, "use_post_transformer_norm": True}),
    ("Eva", {"use_fc_norm": False, "use_post_transformer_norm": False}),
    ("Eva", {"use_pre_transformer_norm": True, "norm_layer": ("layernorm", 0.1)}),
    ("Eva", {"attn_type": "rope", "qk_norm": True, "norm_layer": ("rmsnorm", 0.1)}),
    ("Eva", {"attn_type": "rope", "qkv_fused": False, "qkv_bias": False}),
    ("Eva", {"attn_type": "rope", "qkv_fused": False, "num_kv_heads": 1}),
    (
        "Eva",
        {
            "attn_type": "rope",
            "qkv_fused": False,
            "depth": 4,
            "num_kv_heads": (None, 1, 1, None),
        },
    ),
    ("Eva", {"qkv_fused": False, "scale_attn_inner": True}),
    ("Eva", {"qkv_bias": False, "init_values": 0.0}),
    ("Eva", {"init_values": 1e-5, "attn_only_layer_scale": True}),
    ("Eva", {"use_post_norm": True, "scale_mlp": True, "init_values": 1e-5}),
    ("Eva", {"swiglu_mlp": True, "mlp_ratio": 2.7}),
    ("Eva", {"swiglu_mlp": True, "swiglu_align_to": 8, "mlp_ratio": 2.7}),
    ("Eva", {"swiglu_mlp": True, "scale_mlp": True, "mlp_ratio": 2.7}),
    ("Eva", {"scale_mlp": True, "class_token": False, "num_reg_tokens": 3}),
    ("Eva", {"no_embed_class": True, "num_reg_tokens": 1}),
    ("Eva", {"use_abs_pos_emb": False, "dynamic_img_size": True, **ROPE}),
    ("Eva", {"dynamic_img_size": True, "dynamic_img_pad": True}),
    ("Eva", {"img_size": (24, 40), "patch_size": (8, 4), "in_chans": 1, **ROPE}),
    ("Eva", {"ref_feat_shape": (3, 5), "rope_grid_offset": 1.0, **ROPE}),
    ("Eva", {"rope_grid_indexing": "xy", "rope_temperature": 100.0, **ROPE}),
    ("Eva", {"rope_rotate_half": True, "img_size": (24, 40), **ROPE}),
    ("Eva", {"rope_type": "dinov3", "rope_rotate_half": True, **ROPE}),
    ("Eva", {"rope_type": "dinov3", "rope_grid_offset": 0.25, **ROPE}),
    ("Eva", {"rope_type": "mixed", "rope_grid_indexing": "xy", **ROPE}),
    (
        "Eva",
        {
            "global_pool": "map",
            "attn_pool_num_heads": 4,
            "attn_pool_mlp_ratio": 2.5,
            "num_reg_tokens": 1,
        },
    ),
    *(("Beit", {"global_pool": p}) for p in ("", "avg", "token")),
    ("Beit", {"use_rel_pos_bias": False}),
    ("Beit", {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": False}),
    ("Beit", {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}),
    ("Beit", {"init_values": 0.1, "qkv_bias": False, "img_size": (24, 40)}),
    ("Beit", {"swiglu_mlp": True, "scale_mlp": True, "use_fc_norm": False}),
    ("Beit", {"norm_layer": ("layernorm", 0.1), "num_classes": 0}),
    ("VisionTransformerDistilled", {"num_classes": 0, "init_values": 0.1}),
    ("VisionTransformerDistilled", {"dynamic_img_size": True, "qk_norm": True}),
    *(("VisionTransformerRelPos", {"rel_pos_type": t}) for t in ("mlpswin", "bias")),
    *(
        ("VisionTransformerRelPos", {"rel_pos_type": t, "class_token": True})
        for t in ("mlp", "mlpswin", "bias")
    ),
    ("VisionTransformerRelPos", {"shared_rel_pos": True, "rel_pos_dim": 24}),
    ("VisionTransformerRelPos", {"class_token": True, "global_pool": "token"}),
    ("VisionTransformerRelPos", {"block_fn": "ResPostRelPosBlock", "fc_norm": True}),
    ("VisionTransformerRelPos", {"qk_norm": True, "act_layer": "silu"}),
    ("VisionTransformerRelPos", {"init_values": None, "img_size": (24, 40)}),
    *(("NaFlexVit", {"global_pool": p}) for p in ("", "avgmax", "max", "map")),
    ("NaFlexVit", {"global_pool": "token", "class_token": True, "reg_tokens": 2}),
    ("NaFlexVit", {"pos_embed": "factorized", "pos_embed_ar_preserving": True}),
    ("NaFlexVit", {"pos_embed": "none", "embed_proj_type": "conv", "pre_norm": True}),
    ("NaFlexVit", {"pos_embed_interp_mode": "bilinear", "final_norm": False}),
    ("NaFlexVit", {"act_layer": "gelu_tanh", "global_pool": "map", "mlp_ratio": 2.7}),
    ("NaFlexVit", {"rope_type": "axial", "rope_grid_indexing": "xy"}),
    ("NaFlexVit", {"rope_type": "dinov3", "rope_rotate_half": True, "reg_tokens": 1}),
    ("NaFlexVit", {"rope_type": "mixed", "init_values": 0.1}),
    ("NaFlexVit", {"attn_type": "eva", "swiglu_mlp": True, "mlp_ratio": 2.7}),
    ("NaFlexVit", {"init_values": 0.1, "scale_mlp_norm": True, "qk_norm": True}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=str)
def test_every_option_is_read(kind: str, options: dict[str, Any]) -> None:
    ours = assert_same(small(kind, **options))
    again = type(ours)(**ours.config)
    assert again.param_shapes() == ours.param_shapes()
    assert again.config == ours.config


# ----------------------------------------------------------- the model as it stands now


@pytest.mark.parametrize(
    ("kind", "built", "reset"),
    [
        ("Eva", "map", (3, "avg")),
        ("Eva", "token", (3, "avg")),
        ("Eva", "avg", (0, "")),
        ("Beit", "avg", (3, "token")),
        ("Beit", "token", (0, "avg")),
        ("VisionTransformerDistilled", "token", (3, None)),
        ("VisionTransformerDistilled", "token", (0, None)),
        ("VisionTransformerRelPos", "avg", (3, "")),
        ("NaFlexVit", "map", (3, "avg")),
    ],
)
def test_a_model_is_read_after_reset_classifier(
    kind: str, built: str, reset: tuple[int, str | None]
) -> None:
    model = small(kind, global_pool=built)
    model.reset_classifier(*reset)
    families.draw(model, 1)
    ours = assert_same(model)
    assert (ours.num_classes, ours.global_pool) == (reset[0], model.global_pool)


@pytest.mark.parametrize("kind", [k for k in CLASSES if k != "NaFlexVit"])
def test_a_model_is_read_after_set_input_size(kind: str) -> None:
    rope = {"rope_type": "dinov3", **ROPE} if kind == "Eva" else {}
    model = small(kind, **rope)
    model.set_input_size(img_size=(48, 24))
    ours = assert_same(model)
    assert tuple(ours.patch_embed.grid_size) == (6, 3)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_model_is_read_after_pruning(kind: str) -> None:
    model = small(kind, depth=4)
    model.prune_intermediate_layers([1], prune_norm=True)
    ours = assert_same(model)
    assert len(ours.blocks) == 2


@pytest.mark.parametrize("kind", CLASSES)
def test_rates_of_dropout_are_kept_for_training(kind: str) -> None:
    rates = {
        "drop_rate": 0.1,
        "proj_drop_rate": 0.15,
        "attn_drop_rate": 0.25,
        "drop_path_rate": 0.35,
    }
    if kind not in ("VisionTransformerRelPos",):
        rates["pos_drop_rate"] = 0.2
    assert from_timm(small(kind, **rates)).drop_rates == rates
    assert from_timm(small(kind)).drop_rates == {}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_module_of_a_dtype_gives_a_model_of_it(kind: str, dtype: torch.dtype) -> None:
    model = small(kind, **(ROPE if kind == "Eva" else {})).to(dtype)
    ours = from_timm(model)
    assert ours.dtype == str(dtype).removeprefix("torch.")
    for key, tensor in model.state_dict().items():
        want = tensor.detach().float().numpy()
        np.testing.assert_array_equal(ours.get_parameter(key), want, key)
    x = picture(model)
    with torch.inference_mode():
        exact = from_timm(model, "float32")(x.numpy())
        rough = model(x.to(dtype)).float().numpy()
    scale = np.abs(exact).max()
    assert np.abs(ours(x.numpy()) - exact).max() < 0.03 * scale
    assert np.abs(rough - exact).max() < 0.1 * scale


# ------------------------------------------------------------------------- the refusals


def test_anything_else_is_a_type_error_that_names_the_classes() -> None:
    class Subclass(eva.Eva):
        pass

    with pytest.raises(TypeError, match=r"Eva, Beit,.* or NaFlexVit, got .*like_timm"):
        from_timm(Subclass(img_size=32, embed_dim=32, depth=1, num_heads=2))


def set_path(path: str, value: Callable[[], Any]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, value())

    return change


def k_bias(model: Any) -> None:
    model.blocks[1].attn.k_bias[3] = 0.5


def bands(model: Any) -> None:
    """Meta's periods are bfloat16."""
    rope = model.rope
    rope.periods = rope.periods.bfloat16().float()
    rope.pos_embed_cached = rope._create_embed(rope.feat_shape)


def cached(model: Any) -> None:
    model.rope.pos_embed += 1e-4


def attribute(path: str, name: str, value: Any) -> Callable[[Any], None]:
    return lambda model: setattr(model.get_submodule(path), name, value)


def index(model: Any) -> None:
    model.blocks[1].attn.relative_position_index.zero_()


def coordinates(model: Any) -> None:
    model.blocks[0].attn.rel_pos.rel_coords_log += 0.1


def new_forward(model: Any) -> None:
    attn = model.blocks[1].attn
    attn.forward = types.MethodType(lambda self, x: x, attn)


def get_embed(model: Any) -> None:
    own = model.rope.get_embed
    model.rope.get_embed = lambda shape=None: own(shape)


DINOV3 = {"rope_type": "dinov3", **ROPE}
T100 = {"rope_temperature": 100.0}
Change = Callable[[Any], None]
REFUSED: list[tuple[str, str, dict[str, Any], Change]] = [
    ("blocks.1.attn: k_bias is not 0", "Eva", {}, k_bias),
    ("blocks.1.attn: k_bias is not 0", "Beit", {}, k_bias),
    (
        "blocks.0.attn.gate: Linear; supported here: none",
        "Eva",
        {},
        set_path(
            "blocks.0.attn",
            lambda: eva.EvaAttention(32, 2, scale_norm=False, gated=True),
        ),
    ),
    (
        "rope: RotaryEmbeddingMRope",
        "Eva",
        {
            "rope_type": "mrope",
            "rope_mrope_section": (2, 3, 3),
            "rope_rotate_half": True,
            **ROPE,
        },
        lambda model: None,
    ),
    (
        "blocks.0.attn: attention width",
        "Eva",
        {},
        set_path(
            "blocks.0.attn",
            lambda: eva.EvaAttention(32, 2, attn_head_dim=8, scale_norm=False),
        ),
    ),
    ("rope: a sine or cosine is .* away", "Eva", DINOV3 | T100, bands),
    ("rope: a sine or cosine is .* away", "Eva", ROPE, cached),
    (r"rope: its get_embed\(\) was replaced", "Eva", ROPE, get_embed),
    ("rope: rotate_half True", "Eva", ROPE, attribute("rope", "rotate_half", True)),
    (
        r"rope: .*min_period",
        "Eva",
        DINOV3,
        attribute("rope", "min_period", 1.0),
    ),
    ("rope: feat_shape", "Eva", ROPE, attribute("rope", "feat_shape", (2, 8))),
    (
        "rope: normalize_coords",
        "Eva",
        DINOV3,
        attribute("rope", "normalize_coords", "max"),
    ),
    (
        "num_prefix_tokens 2",
        "Eva",
        {},
        attribute("blocks.1.attn", "num_prefix_tokens", 2),
    ),
    (
        "blocks.1: gamma_2",
        "Eva",
        {"init_values": 1.0},
        attribute("blocks.1", "gamma_1", None),
    ),
    (
        "blocks.1: attn_only_layer_scale True",
        "Eva",
        {"init_values": 1.0},
        attribute("blocks.1", "gamma_2", None),
    ),
    (r"blocks.1.attn: its forward\(\) was replaced", "Beit", {}, new_forward),
    ("blocks.1.attn: relative_position_index", "Beit", {}, index),
    (
        "blocks.0.attn.rel_pos: rel_coords_log",
        "VisionTransformerRelPos",
        {},
        coordinates,
    ),
    (
        "blocks.0: Block; supported here: BeitBlock",
        "Beit",
        {},
        set_path("blocks.0", lambda: timm.models.vision_transformer.Block(32, 2)),
    ),
    (
        "blocks.0.attn: Attention; supported here: BeitAttention",
        "Beit",
        {},
        set_path("blocks.0.attn", lambda: layers.Attention(32, 2)),
    ),
    (
        "blocks.0.attn.rel_pos: window_size",
        "VisionTransformerRelPos",
        {},
        attribute("blocks.0.attn.rel_pos", "window_size", (2, 8)),
    ),
    (
        "head_dist: classes 7; supported here: 5",
        "VisionTransformerDistilled",
        {},
        set_path("head_dist", lambda: nn.Linear(32, 7)),
    ),
    ("attn_pool: ", "Eva", {"global_pool": "map"}, attribute("", "global_pool", "avg")),
    (
        "fc_norm: a norm here beside",
        "Beit",
        {},
        set_path("norm", lambda: layers.LayerNorm(32)),
    ),
    (
        "embeds.norm_input: ",
        "NaFlexVit",
        {},
        set_path("embeds.norm_input", nn.Identity),
    ),
]


@pytest.mark.parametrize(
    ("message", "kind", "options", "change"), REFUSED, ids=[r[0] for r in REFUSED]
)
def test_what_is_not_known_is_refused_by_path(
    message: str, kind: str, options: dict[str, Any], change: Change
) -> None:
    model = small(kind, **options)
    change(model)
    with pytest.raises(ValueError, match=f"^from_timm: .*({message})"):
        from_timm(model)


# -------------------------------------------------------------------- copies of timm's


@pytest.mark.parametrize("kind", CLASSES)
def test_a_subclass_is_taken_after_both_have_run(kind: str) -> None:
    model = small(kind)
    model.__class__ = type("Mine", (type(model),), {})
    with pytest.raises(TypeError, match="like_timm=True"):
        from_timm(model)
    ours = from_timm(model, like_timm=True)
    assert type(ours).__name__ == kind
    other = type(model)
    other.forward = lambda self, x: 2 * super(other, self).forward(x)
    with pytest.raises(ValueError, match="not timm's function"):
        from_timm(model, like_timm=True)
