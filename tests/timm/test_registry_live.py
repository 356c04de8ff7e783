# SPDX-License-Identifier: Apache-2.0
"""The registry against timm's own: names, tags, configurations, constructor options."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import reference
import timm
import torch
from golden import recipe
from safetensors.torch import save_file
from timm.layers import get_act_layer, get_norm_layer
from timm.models import _builder, _registry
from timm.models.naflexvit import NaFlexVitCfg
from timm.models.vision_transformer_hybrid import ConvStem

import vitpool
from vitpool import registry
from vitpool.checkpoint import Spec
from vitpool.checkpoint.spec import resize_rule
from vitpool.registry.create import plan_model
from vitpool.registry.table import class_of, module_of, table, tags

SCRIPT = Path(__file__).parents[2] / "tools" / "make_registry.py"
OURS = ["vit_digits"]
WHOLE = (
    *("vision_transformer", "eva", "deit", "beit", "vision_transformer_relpos"),
    "naflexvit",
)
HYBRID = "vision_transformer_hybrid"
MODULES = (*WHOLE, HYBRID)
MCI = "vit_base_mci_224"
NAMES = [*timm.list_models(module=WHOLE), MCI]
DEPRECATED = {
    old: new
    for module in WHOLE
    for old, new in timm.models.get_deprecated_models(module).items()
}


def with_tags(name: str) -> list[str]:
    return list(_registry.get_arch_pretrained_cfgs(name))


def same_kind(value: Any) -> Any:
    """A class, or what a partial is made of, so that two of them compare."""
    if isinstance(value, functools.partial):
        return value.func, sorted(value.keywords.items(), key=lambda item: item[0])
    return value


def tuples(options: dict[str, Any]) -> dict[str, Any]:
    """Lists as tuples: what a caller gave as a list, timm leaves one."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def comparable(options: dict[str, Any]) -> dict[str, Any]:
    out = {key: same_kind(value) for key, value in tuples(options).items()}
    for key in ("norm_layer", "embed_norm_layer"):
        if key in options:
            out[key] = same_kind(get_norm_layer(options[key]))
    if "act_layer" in options:
        out["act_layer"] = get_act_layer(options["act_layer"])
    return out


def flat(options: dict[str, Any]) -> dict[str, Any]:
    """timm's keyword arguments as ours are: NaFlexVitCfg's own fields that are not its
    defaults, and ConvStem by its name."""
    cfg = options.pop("cfg", None)
    if cfg is not None:
        plain = NaFlexVitCfg()
        for field in dataclasses.fields(cfg):
            if getattr(cfg, field.name) != getattr(plain, field.name):
                options[field.name] = getattr(cfg, field.name)
    if "embed_layer" in options:
        assert type(options["embed_layer"].keywords["backbone"]) is ConvStem
        options["embed_layer"] = "ConvStem"
        assert options.pop("patch_size") == 1
    return options


def reaches_constructor(
    name: str, **kwargs: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(keyword arguments, pretrained_cfg) with which timm calls the name's class."""
    arch = DEPRECATED.get(name, name).split(".")[0]
    home: Any = importlib.import_module(f"timm.models.{module_of(arch)}")

    class Stop(Exception):
        pass

    def constructor(**options: Any) -> None:
        raise Stop(options)

    cfgs: list[Any] = []
    resolve = _builder.resolve_pretrained_cfg

    def remember(*args: Any, **options: Any) -> Any:
        cfgs.append(resolve(*args, **options))
        return cfgs[-1]

    with (
        mock.patch.object(home, class_of(arch), constructor),
        mock.patch.object(_builder, "resolve_pretrained_cfg", remember),
        pytest.raises(Stop) as caught,
    ):
        timm.create_model(name, **kwargs)
    return flat(caught.value.args[0]), cfgs[0].to_dict()


def filter_options(name: str) -> dict[str, Any]:
    """What timm's entry point binds to its checkpoint filter."""
    home: Any = importlib.import_module(f"timm.models.{module_of(name)}")
    with mock.patch.object(home, "build_model_with_cfg") as build:
        build.return_value = mock.Mock(_model_args={})
        timm.create_model(name)
    return dict(getattr(build.call_args.kwargs["pretrained_filter_fn"], "keywords", {}))


def test_checkpoints_are_resized_by_timms_rule_for_the_name() -> None:
    for name in NAMES:
        rule = filter_options(name)
        # gamma_1 to ls1.gamma, which here follows from the file.
        assert rule.pop("adapt_layer_scale", False) == (module_of(name) == "deit")
        if module_of(name) == "naflexvit":
            assert not rule  # timm resizes none of them as it loads
            continue
        assert resize_rule(name) == rule, name


def test_there_are_280_names_and_ours() -> None:
    assert len(NAMES) == 280
    assert set(registry.list_models()) == {*NAMES, *OURS}


def test_modules_have_timms_names() -> None:
    assert registry.list_modules() == sorted(MODULES)
    assert set(MODULES) <= set(timm.models.list_modules())
    for module in WHOLE:
        ours = [n for n in registry.list_models(module=module) if n not in OURS]
        assert ours == timm.list_models(module=module), module
    assert registry.list_models(module=HYBRID) == [MCI]
    for name in NAMES:
        for module in (*MODULES, "resnet"):
            asked = registry.is_model_in_modules(name, module)
            assert asked == timm.models.is_model_in_modules(name, module)


def test_classes_are_timms() -> None:
    for name in NAMES:
        home: Any = importlib.import_module(f"timm.models.{module_of(name)}")
        with mock.patch.object(home, "build_model_with_cfg") as build:
            build.return_value = mock.Mock(_model_args={})
            timm.create_model(name)
        assert build.call_args.args[0].__name__ == class_of(name), name


def test_script_writes_the_table_that_is_kept(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SCRIPT, tmp_path / "new.json"], check=True)
    kept = Path(registry.__file__).with_name("registry.json")
    assert (tmp_path / "new.json").read_text() == kept.read_text()


def test_table_was_made_with_this_timm() -> None:
    assert table()["timm"] == timm.__version__
    # timm maps two names to a tag that it has renamed since, and raises.
    sam = {
        old: f"{new}_in1k" for old, new in DEPRECATED.items() if new.endswith(".sam")
    }
    assert len(sam) == 2
    assert table()["deprecated"] == DEPRECATED | sam


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_equals_timms(name: str) -> None:
    tagged = with_tags(name)
    assert [name + "." + tag for tag in tags(name)] == tagged
    for full in [name, *tagged]:
        want = _builder.resolve_pretrained_cfg(full).to_dict()
        assert registry.get_pretrained_cfg(full) == want


KWARGS: list[dict[str, Any]] = [
    {},
    {"num_classes": 7, "global_pool": "avg", "in_chans": 1},
    {"img_size": 192, "num_classes": None, "global_pool": None, "depth": 2},
    {"dynamic_img_size": True, "class_token": None, "reg_tokens": 3},
    {"pretrained_cfg_overlay": {"input_size": (4, 96, 64), "num_classes": -1}},
    {"pretrained_cfg_overlay": {"file": "x.npz", "fixed_input_size": False}},
    {"pretrained_cfg": {"input_size": [1, 32, 48], "num_classes": 5}},
]


@pytest.mark.parametrize("kwargs", KWARGS, ids=str)
def test_every_name_builds_with_timms_arguments(kwargs: dict[str, Any]) -> None:
    for name in NAMES:
        want, cfg = reaches_constructor(name, **kwargs)
        plan = plan_model(name, **kwargs)
        ours = reference.timm_options(plan.options)
        assert comparable(ours) == comparable(want), name
        assert plan.cfg == tuples(cfg), name


def test_every_tag_builds_with_timms_arguments() -> None:
    for name in NAMES:
        for full in with_tags(name):
            want, cfg = reaches_constructor(full)
            plan = plan_model(full)
            ours = reference.timm_options(plan.options)
            assert (comparable(ours), plan.cfg) == (comparable(want), cfg), full
            tag = full.split(".", 1)[1]
            assert plan_model(name, pretrained_cfg=tag) == plan


@pytest.mark.parametrize("old", DEPRECATED)
def test_deprecated_name_maps_with_timms_warning(old: str) -> None:
    with pytest.warns(UserWarning, match=f"deprecated model name {old} to") as ours:
        plan = plan_model(old)
    if DEPRECATED[old].endswith(".sam"):
        with pytest.warns(UserWarning, match=old), pytest.raises(RuntimeError):
            reaches_constructor(old)
        assert plan.cfg["tag"] == "sam_in1k"
        return
    with warnings.catch_warnings(record=True) as theirs:
        warnings.simplefilter("always")
        want, cfg = reaches_constructor(old)
    assert [str(w.message) for w in ours] == [str(w.message) for w in theirs]
    assert comparable(reference.timm_options(plan.options)) == comparable(want)
    assert plan.cfg == cfg
    assert registry.is_model(old)
    assert old not in registry.list_models()


@pytest.mark.parametrize(
    "module", [*WHOLE, ["eva", "beit"], [*MODULES, "resnet"]], ids=str
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pretrained": True},
        {"include_tags": True},
        {"pretrained": True, "include_tags": False},
        {"filter": "vit_base*"},
        {"filter": "vit_base*", "pretrained": True},
        {"filter": "*in21k*", "pretrained": True},
        {"filter": "vit_*.augreg*", "include_tags": True},
        {"filter": ["*siglip*", "*clip_224"], "exclude_filters": "*large*"},
        {"filter": "*dino*", "exclude_filters": ["*reg4*", "*.lvd142m"]},
        {"filter": "*dino*", "exclude_filters": ["*reg4*"], "pretrained": True},
        {"filter": "no such"},
        {"filter": "vit_base*", "name_matches_cfg": True},
        {"filter": "vit_base*", "name_matches_cfg": True, "include_tags": True},
        {"filter": "vit_base_patch16_224", "pretrained": True},
        {"filter": "vit_base*", "exclude_filters": "vit_base_patch16_224"},
        {"filter": "vit_tiny_patch16_[0-9]*"},
        {"filter": ["*_in1k", "*dinov3*"], "include_tags": True},
        {"filter": ["deit*", "eva02*", "*relpos*"], "exclude_filters": "*_224.*"},
        {"filter": "*distilled*", "pretrained": True},
        {"filter": "naflexvit_*", "exclude_filters": ["*radio*", "*map"]},
    ],
    ids=str,
)
def test_list_models_equals_timms(options: dict[str, Any], module: Any) -> None:
    ours = registry.list_models(module=module, **options)
    theirs = timm.list_models(module=module, **options)
    here = {*NAMES, *(tagged for name in NAMES for tagged in with_tags(name))}
    assert [n for n in ours if n.split(".")[0] not in OURS] == [
        name for name in theirs if name in here
    ]


def test_is_model_pretrained_equals_timms() -> None:
    odd = ["vit_base_patch16_224.foo", "resnet50_", *DEPRECATED]
    for name in [*NAMES, *(t for n in NAMES for t in with_tags(n)), *odd]:
        assert registry.is_model_pretrained(name) == timm.models.is_model_pretrained(
            name
        )
        assert registry.is_model(name) == timm.models.is_model(name)


def test_list_pretrained_equals_timms() -> None:
    ours = [name for name in registry.list_pretrained() if name not in OURS]
    here = {tagged for name in NAMES for tagged in with_tags(name)}
    assert ours == [name for name in timm.list_pretrained() if name in here]


# --------------------------------------------------------------------- with real models

SMALL = [
    "test_vit",
    "test_vit2",
    "test_vit3",
    "test_vit4",
    "vit_dpwee_patch16_reg1_gap_256",
]
# Of the other classes; what makes them small.
TWO: dict[str, Any] = {"depth": 2}
OTHERS: dict[str, dict[str, Any]] = {
    "deit3_small_patch16_224": TWO,
    "deit_tiny_distilled_patch16_224": TWO,
    "eva02_tiny_patch14_224": TWO,
    "vit_tiny_patch16_dinov3_qkvb": TWO,
    "vit_pe_core_tiny_patch16_384": TWO | {"img_size": 64},
    "vit_small_patch16_rope_mixed_224": TWO,
    "beitv2_base_patch16_224": {"depth": 1},
    "test_vit_relpos": TWO,
    MCI: {"depth": 1},
}


def fill(model: Any) -> None:
    """The recipe's weights; a BatchNorm's statistics are none."""
    keep = {k: v.clone() for k, v in model.state_dict().items() if "running_" in k}
    counters = {k: v for k, v in model.state_dict().items() if v.ndim == 0}
    weights = recipe.weights(shapes(model), 0)
    new = {k: torch.from_numpy(v) for k, v in weights.items()} | keep | counters
    model.load_state_dict(new)


def assert_same_outputs(ours: Any, model: Any) -> None:
    size = model.patch_embed.img_size
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        want = model.eval()(x).numpy()
    assert np.abs(ours(x.numpy()) - want).max() <= 4e-5 * np.abs(want).max()


def shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """timm's, in its order, but for the counters that are not kept here."""
    found = reference.shapes(model)
    return {k: s for k, s in found.items() if not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_timms_parameters(name: str) -> None:
    # ConvStem's output is looked at as it is made.
    with torch.device("cpu" if name == MCI else "meta"):
        model = timm.create_model(name)
    plan = plan_model(name)
    spec = Spec.from_options(plan.options, family=plan.family)
    assert [*spec.shapes.items()] == [*shapes(model).items()]


@pytest.mark.parametrize("name", [*SMALL, *OTHERS])
def test_created_model_has_timms_parameters_and_configuration(name: str) -> None:
    small = OTHERS.get(name, {})
    model = timm.create_model(name, num_classes=3, **small)
    ours = vitpool.create_model(name, num_classes=3, seed=0, **small)
    assert type(ours).__name__ == type(model).__name__
    assert dict(ours.param_shapes()) == shapes(model)
    assert ours.default_cfg == model.default_cfg
    assert ours.num_classes == 3


@pytest.mark.parametrize("name", [*SMALL, *OTHERS])
def test_checkpoint_path_loads_as_timms(name: str, tmp_path: Path) -> None:
    small = OTHERS.get(name, {})
    model = timm.create_model(name, num_classes=3, **small)
    fill(model)
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    kwargs = {"num_classes": 3, "checkpoint_path": str(file), **small}
    assert_same_outputs(vitpool.create_model(name, **kwargs), model)
    with pytest.raises(ValueError, match="head"):
        vitpool.create_model(name, checkpoint_path=file, **small | {"num_classes": 4})


@pytest.mark.parametrize("name", [*SMALL, *OTHERS])
def test_features_only_gives_timms_maps(name: str) -> None:
    small = OTHERS.get(name, {}) | {"features_only": True}
    # The last block too: none is pruned.
    small["out_indices"] = (0,) if small.get("depth") == 1 else (0, -1)
    model = timm.create_model(name, **small).eval()
    fill(model.model)
    ours = vitpool.create_model(name, **small)
    ours.model.load_state_dict(model.model.state_dict())
    size = model.model.patch_embed.img_size
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        want = [maps.numpy() for maps in model(x)]
    for got, maps in zip(ours(x.numpy()), want, strict=True):
        assert got.shape == maps.shape
        assert np.abs(got - maps).max() <= 4e-5 * np.abs(maps).max()
    assert ours.feature_info.channels() == model.feature_info.channels()
    assert ours.feature_info.reduction() == model.feature_info.reduction()


@pytest.mark.parametrize(
    "change", [{}, {"img_size": 96}, {"global_pool": "avg"}], ids=str
)
@pytest.mark.parametrize("name", SMALL)
def test_folder_that_timm_wrote_loads(
    name: str, change: dict[str, Any], tmp_path: Path
) -> None:
    model = timm.create_model(name, num_classes=3, **change)
    reference.fill(model)
    timm.models.save_for_hf(model, tmp_path, model_args={"num_classes": 3, **change})
    where = f"local-dir:{tmp_path}"
    ours = vitpool.create_model(where, pretrained=True)
    theirs = timm.create_model(where, pretrained=True)
    assert dict(ours.param_shapes()) == reference.shapes(theirs)
    assert_same_outputs(ours, theirs)
    want = tuples(theirs.default_cfg)
    if not want["fixed_input_size"]:
        # timm keeps the source's here, and reads the size off the model.
        want["input_size"] = (3, *ours.patch_embed.img_size)
    assert ours.default_cfg == want


def test_folder_adapts_to_another_size_and_number_of_classes(tmp_path: Path) -> None:
    model = timm.create_model("test_vit3", num_classes=3, img_size=96)
    reference.fill(model)
    args = {"num_classes": 3, "img_size": 96}
    timm.models.save_for_hf(model, tmp_path, model_args=args)
    where = f"local-dir:{tmp_path}"
    new = {"pretrained": True, "img_size": 128, "num_classes": 0}
    ours = vitpool.create_model(where, **new)
    assert_same_outputs(ours, timm.create_model(where, **new))


@pytest.mark.parametrize("name", OTHERS)
def test_folder_of_another_class_that_timm_wrote_loads(
    name: str, tmp_path: Path
) -> None:
    args = OTHERS[name] | {"num_classes": 3}
    model = timm.create_model(name, **args)
    fill(model)
    timm.models.save_for_hf(model, tmp_path, model_args=args)
    where = f"local-dir:{tmp_path}"
    ours = vitpool.create_model(where, pretrained=True)
    theirs = timm.create_model(where, pretrained=True)
    assert type(ours).__name__ == type(theirs).__name__
    assert_same_outputs(ours, theirs)


def test_folder_of_the_tagger_is_eva02(tmp_path: Path) -> None:
    """SmilingWolf's wd-eva02-large-tagger-v3 by its config.json, with two blocks."""
    args = {"img_size": 56, "depth": 2, "embed_dim": 64, "num_heads": 2}
    name = "eva02_large_patch14_448"
    model = timm.create_model(name, num_classes=12, **args)
    fill(model)
    timm.models.save_for_hf(model, tmp_path, model_args=args)
    config = {
        "architecture": name,
        "num_classes": 12,
        "num_features": 1024,
        "global_pool": "avg",
        "model_args": args,
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, 56, 56],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 12,
            "pool_size": None,
            "first_conv": None,
            "classifier": None,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    where = f"local-dir:{tmp_path}"
    ours = vitpool.create_model(where, pretrained=True)
    assert (type(ours), ours.num_classes) == (vitpool.Eva, 12)
    assert_same_outputs(ours, timm.create_model(where, pretrained=True))
    assert ours.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
