# SPDX-License-Identifier: Apache-2.0
"""The layouts of Eva, Beit and DeiT: whole, with one tensor more, less, or wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
from golden import recipe
from published_families import (
    BEIT,
    BEIT_SHARED,
    DINOV3,
    DINOV3_PLUS,
    EVA02,
    EVA02_SPLIT,
    LAYOUTS,
    PE_CORE,
    TINY,
    Layout,
    beit,
    dinov3,
    eva_mim,
    extra,
    perception_encoder,
    transformers_beit,
    transformers_deit,
    transformers_dinov3,
)

from vitpool.checkpoint import Spec, build_with_checkpoint, convert_state_dict
from vitpool.checkpoint.fit import Fit
from vitpool.checkpoint.forms import CLASSES, form_of, known_forms
from vitpool.config import FAMILIES, defaults_of
from vitpool.resample import resample_abs_pos_embed

DISTILLED = "VisionTransformerDistilled"


def spec_of(family: str, options: Mapping[str, Any], **cfg: Any) -> Spec:
    return Spec.from_options(options, cfg, family=family)


def weights_of(family: str, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return recipe.weights(spec_of(family, options).shapes, seed=1)


def file_of(layout: Layout) -> dict[str, Any]:
    return layout.publish(weights_of(layout.family, layout.options))


def fitted(
    state: Mapping[str, Any], spec: Spec, *, strict: bool = True
) -> dict[str, np.ndarray]:
    """The state dict for a model, as load_checkpoint checks it."""
    weights = convert_state_dict(state, spec)
    Fit.of(weights, spec).check(weights, spec, strict=strict)
    return {key: weights[key] for key in weights}


def refused(state: Mapping[str, Any], spec: Spec, strict: bool = True) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        fitted(state, spec, strict=strict)
    return str(caught.value)


def every_layout() -> Any:
    return pytest.mark.parametrize("name", LAYOUTS)


@every_layout()
def test_layout_is_read_back_bit_for_bit(name: str) -> None:
    layout = LAYOUTS[name]
    state = weights_of(layout.family, layout.options)
    got = fitted(layout.publish(state), spec_of(layout.family, layout.options))
    assert set(got) == set(state)
    for key, value in state.items():
        if key == "head.bias" and ("open_clip" in name or name.startswith("pe ")):
            value = np.zeros_like(value)
        assert got[key].dtype == np.float32
        np.testing.assert_array_equal(got[key], value, err_msg=key)


@every_layout()
def test_a_key_that_a_layout_does_not_know_is_named(name: str) -> None:
    """Beside each part of the model, in it, and next to it."""
    layout = LAYOUTS[name]
    spec = spec_of(layout.family, layout.options)
    state = file_of(layout)
    text = ("text", "transformer", "lm_head", "cls_pt_layers", "projectors")
    gone = re.compile("(.*local_cls_norm|.*rope)")
    parts = {
        key.rpartition(".")[0]
        for key in state
        if not key.startswith(text) and not gone.match(key)
    }
    for part in [*sorted(parts)[::5], "", "neck"]:
        more = f"{part}.extra" if part else "extra"
        assert "extra" in refused(state | {more: extra(2, 3)}, spec), part


@every_layout()
def test_what_a_layout_leaves_out_has_a_name(name: str) -> None:
    layout = LAYOUTS[name]
    spec = spec_of(layout.family, layout.options)
    state = file_of(layout) | {key: extra(2) for key in layout.unused}
    assert set(fitted(state, spec)) == set(spec.shapes)


@every_layout()
def test_a_tensor_that_is_missing_is_named(name: str) -> None:
    layout = LAYOUTS[name]
    spec = spec_of(layout.family, layout.options)
    state = file_of(layout)
    own = weights_of(layout.family, layout.options)
    for key in [k for k in state if "norm2.w" in k or "ln_2.w" in k or "ln2.w" in k]:
        message = refused(published.without(state, key), spec)
        assert "missing are 1: " in message
        assert re.search(r"blocks\.\d\.norm2\.weight", message)
    assert any(key.endswith("norm2.weight") for key in own)


@every_layout()
def test_a_tensor_of_another_shape_is_named(name: str) -> None:
    layout = LAYOUTS[name]
    spec = spec_of(layout.family, layout.options)
    state = file_of(layout)
    wide = re.compile(r".*(fc2|down_proj|c_proj|output\.dense|w3)\.weight$")
    key = next(k for k in state if wide.match(k) and "attention.output" not in k)
    state[key] = np.concatenate([state[key]] * 2, axis=1)
    message = refused(state, spec)
    assert "of a wrong shape are 1: blocks.0.mlp.fc2.weight is " in message


@every_layout()
def test_other_size_resizes_the_patches_positions(name: str) -> None:
    """Of the stored positions the prefix's stay as they are."""
    layout = LAYOUTS[name]
    state = weights_of(layout.family, layout.options)
    spec = spec_of(layout.family, dict(layout.options) | {"img_size": (96, 48)})
    got = fitted(layout.publish(state), spec)
    assert {k: v.shape for k, v in got.items()} == dict(spec.shapes)
    if "pos_embed" in state:
        rows = spec.pos_prefix_tokens
        smooth = not name.startswith("transformers")
        want = resample_abs_pos_embed(
            state["pos_embed"], (6, 3), (4, 4), rows, antialias=smooth
        )
        np.testing.assert_array_equal(got["pos_embed"], want)
        np.testing.assert_array_equal(
            got["pos_embed"][:, :rows], state["pos_embed"][:, :rows]
        )


@every_layout()
def test_other_number_of_classes_leaves_the_heads_to_the_model(name: str) -> None:
    layout = LAYOUTS[name]
    classes = layout.options["num_classes"]
    options = dict(layout.options) | {"num_classes": 3}
    spec = spec_of(layout.family, options, num_classes=classes)
    weights = convert_state_dict(file_of(layout), spec)
    heads = {key for key in spec.shapes if key.startswith("head")}
    assert set(spec.shapes) - set(weights) == heads
    assert not set(weights) - set(spec.shapes)
    assert len(heads) == (4 if layout.family == DISTILLED else 2)


@every_layout()
@pytest.mark.parametrize("strict", [True, False])
def test_file_of_another_class_is_refused_whole(name: str, strict: bool) -> None:
    """And its class is told: what the classes share is not loaded without the rest."""
    layout = LAYOUTS[name]
    state = file_of(layout)
    small = {k: layout.options[k] for k in ("embed_dim", "depth", "num_heads")}
    for family in ("VisionTransformer", "Eva", "Beit", DISTILLED):
        if family == layout.family:
            continue
        if name == "eva" and family == "Beit":
            continue  # the first EVA is a Beit without tables, by its keys and outputs
        message = refused(state, spec_of(family, small | {"img_size": 64}), strict)
        assert "looks like a checkpoint of " in message, family
        assert layout.family in message.split("model is")[0], family


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("openai_clip", published.openai_clip),
        ("dinov2", published.dinov2),
        ("transformers", published.transformers_vit),
        ("deit3", lambda state: published.deit3(state)["model"]),
    ],
)
def test_file_of_vision_transformer_is_refused_by_the_others(
    name: str, state: Any
) -> None:
    options = TINY | {"pre_norm": name == "openai_clip"}
    options |= {"init_values": 1.0} if name == "deit3" else {}
    content = state(weights_of("VisionTransformer", options))
    for family in ("Eva", "Beit", DISTILLED):
        message = refused(content, spec_of(family, TINY), strict=False)
        assert f"looks like a checkpoint of {name}, which is for" in message
        assert f"VisionTransformer; the model is {family}" in message


# What single layouts have of their own


def test_biases_that_the_model_has_not_are_zero_or_an_error() -> None:
    """Meta's distilled models hold biases of zeros, where timm's have none."""
    spec = spec_of("Eva", DINOV3_PLUS)
    state = weights_of("Eva", DINOV3_PLUS)
    for publish, name in (
        (dinov3, "qkv.bias"),
        (transformers_dinov3, "q_proj.bias"),
    ):
        content = publish(state)
        key = next(k for k in content if k.endswith(name))
        assert not content[key].any()
        content[key] = content[key] + np.float32(0.25)
        message = refused(content, spec)
        assert "is not zero, and the model has no biases of q and v" in message


def test_ks_bias_is_left_out_where_a_mask_turns_it_off() -> None:
    state = weights_of("Eva", DINOV3)
    content = dinov3(state)
    unmasked = {k: v for k, v in content.items() if not k.endswith("bias_mask")}
    spec = spec_of("Eva", DINOV3)
    assert "k's bias in blocks.0.attn.qkv.bias is not zero" in refused(unmasked, spec)
    for key in unmasked:
        if key.endswith("qkv.bias"):
            unmasked[key] = unmasked[key].copy()
            unmasked[key][32:64] = 0
    assert set(fitted(unmasked, spec)) == set(spec.shapes)


def test_transformers_5_names_of_dinov3_are_read() -> None:
    spec = spec_of("Eva", DINOV3)
    state = weights_of("Eva", DINOV3)
    for layer in ("layer.", "model.layer."):
        got = fitted(transformers_dinov3(state, layer), spec)
        for key, value in state.items():
            np.testing.assert_array_equal(got[key], value)


@pytest.mark.parametrize("pool", ["avg", "token", ""])
def test_masked_image_models_norm_goes_where_the_pool_has_it(pool: str) -> None:
    """timm moves it to fc_norm whatever the pool is, and then misses it."""
    options = EVA02_SPLIT | {"global_pool": pool, "num_classes": 0}
    state = weights_of("Eva", options)
    got = fitted(eva_mim(state), spec_of("Eva", options))
    assert set(got) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(got[key], value)


def test_perception_encoders_pool_is_left_out_with_a_warning() -> None:
    state = perception_encoder(weights_of("Eva", PE_CORE))
    spec = spec_of("Eva", PE_CORE | {"global_pool": "avg", "use_fc_norm": False})
    with pytest.warns(UserWarning, match="its head is loaded under") as caught:
        got = fitted(state, spec)
    assert "the attention pool (13 tensors)" in str(caught[0].message)
    assert set(got) == set(spec.shapes)


def test_table_of_all_blocks_goes_into_each() -> None:
    state = weights_of("Beit", BEIT_SHARED)
    table = state["rel_pos_bias.relative_position_bias_table"]
    for publish in (beit, transformers_beit):
        got = fitted(publish(state), spec_of("Beit", BEIT))
        for index in range(2):
            key = f"blocks.{index}.attn.relative_position_bias_table"
            np.testing.assert_array_equal(got[key], table)


def test_both_tables_are_not_added_up_unasked() -> None:
    both = weights_of("Beit", BEIT | {"use_shared_rel_pos_bias": True})
    assert "which are added up" in refused(beit(both), spec_of("Beit", BEIT))


def test_one_classifier_of_deit_is_refused_with_its_token() -> None:
    state = weights_of(DISTILLED, TINY)
    content = published.without(transformers_deit(state), "distillation_", "cls_cl")
    content |= {f"classifier.{k}": state[f"head.{k}"] for k in ("weight", "bias")}
    message = refused(content, spec_of(DISTILLED, TINY))
    assert "its classifier is of the class token alone" in message
    none = spec_of(DISTILLED, TINY | {"num_classes": 0})
    assert set(fitted(content, none)) == set(none.shapes)


def test_distilled_model_without_its_second_head_is_refused() -> None:
    state = weights_of(DISTILLED, TINY)
    message = refused(published.without(state, "head_dist."), spec_of(DISTILLED, TINY))
    assert "missing are 2: head_dist.weight, head_dist.bias" in message


@pytest.mark.parametrize(
    ("family", "options", "scale"),
    [(DISTILLED, TINY, 0.02), ("Eva", TINY, 2e-5), ("Beit", BEIT, 2e-5)],
)
def test_new_heads_are_drawn_as_the_constructor_draws_them(
    family: str, options: Mapping[str, Any], scale: float, tmp_path: Path
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **weights_of(family, options))
    more = dict(options) | {"num_classes": 500}
    models = [
        build_with_checkpoint(more, {"num_classes": 10}, path, family=family, seed=seed)
        for seed in (1, 1, 2)
    ]
    heads = [[m.get_parameter(f"{head}.weight") for head in m._heads] for m in models]
    for first, again, other in zip(*heads, strict=True):
        assert 0.97 * scale < np.std(first) < 1.03 * scale
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
    if family == DISTILLED:
        assert not np.array_equal(*heads[0])


def test_background_class_is_cut_off_both_heads() -> None:
    state = weights_of(DISTILLED, TINY | {"num_classes": 11})
    got = fitted(state, spec_of(DISTILLED, TINY, label_offset=1, num_classes=10))
    for key in ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias"):
        np.testing.assert_array_equal(got[key], state[key][1:])


@pytest.mark.parametrize("around", ["model.", "backbone.", "teacher.backbone."])
@pytest.mark.parametrize(
    "name", ["eva02 split", "dinov3", "sapiens2", "pe core", "beit", "deit distilled"]
)
def test_a_prefix_that_all_keys_share_is_taken_off(name: str, around: str) -> None:
    layout = LAYOUTS[name]
    spec = spec_of(layout.family, layout.options)
    plain = fitted(file_of(layout), spec)
    content = {f"{around}{key}": value for key, value in file_of(layout).items()}
    got = fitted(content, spec)
    assert set(got) == set(plain)
    for key, value in plain.items():
        np.testing.assert_array_equal(got[key], value)


def test_layer_scale_of_eva_and_beit_keeps_its_name() -> None:
    for family, options in (("Eva", DINOV3), ("Beit", BEIT)):
        state = weights_of(family, options)
        got = fitted(state, spec_of(family, options))
        assert "blocks.1.gamma_2" in got


def test_models_of_eva_with_the_keys_of_deit3_need_no_layout() -> None:
    """naver's rotary models: gamma_1 beside qkv.bias, and no key of a rotation."""
    options = TINY | {"attn_type": "rope", "use_rot_pos_emb": True, "init_values": 1.0}
    state = weights_of("Eva", options)
    assert {"blocks.0.gamma_1", "blocks.0.attn.qkv.bias"} <= set(state)
    for prefix in ("", "model."):
        content = {f"{prefix}{key}": value for key, value in state.items()}
        assert set(fitted(content, spec_of("Eva", options))) == set(state)


# Which class a file is of, and which options

ROPED = TINY | {"attn_type": "rope", "use_rot_pos_emb": True}
REL = "VisionTransformerRelPos"
MISFITS: list[tuple[str, Mapping[str, Any], Mapping[str, Any], str]] = [
    ("Eva", TINY, {"num_reg_tokens": 2, "no_embed_class": True}, "num_reg_tokens=2"),
    ("Eva", TINY, {"qkv_fused": False}, "qkv_fused=False"),
    ("Eva", TINY, {"attn_type": "rope"}, "attn_type='rope'"),
    ("Eva", TINY, {"qkv_bias": False}, "qkv_bias=False"),
    ("Eva", TINY, {"swiglu_mlp": True}, "swiglu_mlp=True"),
    ("Eva", EVA02_SPLIT, {"scale_attn_inner": True}, "scale_attn_inner=True"),
    ("Eva", EVA02_SPLIT, {"scale_mlp": False, "swiglu_align_to": 8}, "scale_mlp=False"),
    ("Eva", EVA02, {"mlp_ratio": 3}, "mlp_ratio=3.0"),
    ("Eva", TINY, {"init_values": 0.0}, "init_values='set'"),
    ("Eva", TINY, {"use_abs_pos_emb": False}, "use_abs_pos_emb=False"),
    ("Eva", PE_CORE, {"use_pre_transformer_norm": False}, "pre_transformer_norm=False"),
    ("Eva", ROPED, {"rope_type": "mixed"}, "rope_type='mixed'"),
    ("Beit", BEIT, {"use_rel_pos_bias": False}, "use_rel_pos_bias=False"),
    ("Beit", BEIT_SHARED, {"use_rel_pos_bias": True}, "use_rel_pos_bias=True"),
    ("Beit", BEIT, {"swiglu_mlp": True, "scale_mlp": True}, "scale_mlp=True"),
    (REL, TINY, {"rel_pos_type": "bias"}, "rel_pos_type='bias'"),
    (REL, TINY, {"shared_rel_pos": True}, "shared_rel_pos=True"),
    (REL, TINY, {"class_token": True}, "class_token=True"),
    (DISTILLED, TINY, {"depth": 3}, "depth=3"),
    (DISTILLED, TINY, {"qkv_bias": False}, "qkv_bias=False"),
]


@pytest.mark.parametrize(("family", "options", "changes", "hint"), MISFITS)
def test_misfit_says_what_would_fit(
    family: str, options: Mapping[str, Any], changes: Mapping[str, Any], hint: str
) -> None:
    """Under the class's own names, and nothing that it has no option for."""
    state = weights_of(family, dict(options) | changes)
    message = refused(state, spec_of(family, options))
    said = message.partition("The weights are those of a model with ")[2]
    assert hint in said
    names = {part.partition("=")[0] for part in said.split(", ")}
    assert names <= {*defaults_of(family), "final_norm"}
    # and nothing that is the same
    assert len(names) <= len(changes) + 1


def test_every_class_has_its_forms() -> None:
    assert set(FAMILIES) == set(CLASSES)
    for name, layout in LAYOUTS.items():
        forms = set(map(form_of, spec_of(layout.family, layout.options).shapes))
        assert forms <= known_forms(layout.family), name
