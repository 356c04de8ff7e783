# SPDX-License-Identifier: Apache-2.0
"""Names, tags and configurations; what `create_model` hands on, and what it refuses.

The model itself is a stand-in here: the live comparison with timm builds real ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from vitpool import checkpoint, registry
from vitpool.config import FAMILIES, resolve
from vitpool.registry import folder as folders
from vitpool.registry.create import plan_model
from vitpool.registry.table import table
from vitpool.text import natural_key


class Model:
    """Remembers with what it was built."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.pretrained_cfg: dict[str, Any] = {}
        self.default_cfg: dict[str, Any] = {}


def kind_of(name: str) -> type[Model]:
    """A stand-in for the class of this name."""
    return type(name, (Model,), {})


class Loads:
    """Stands for `vitpool.checkpoint`: remembers what it was asked for."""

    def __init__(self) -> None:
        self.built: list[Any] = []
        self.loaded: list[Any] = []

    def build_with_checkpoint(
        self, options: dict[str, Any], cfg: dict[str, Any], path: Any, **rest: Any
    ) -> Model:
        self.built.append((options, cfg, str(path), rest))
        return Model(**options)

    def load_checkpoint(self, model: Model, path: Any) -> None:
        self.loaded.append((model, str(path)))


@pytest.fixture(autouse=True)
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    loads = Loads()
    stand_in: Any = types.ModuleType("vitpool.model")
    stand_in.CLASSES = {name: kind_of(name) for name in FAMILIES}
    monkeypatch.setitem(sys.modules, "vitpool.model", stand_in)
    for name in ("build_with_checkpoint", "load_checkpoint"):
        monkeypatch.setattr(checkpoint, name, getattr(loads, name), raising=False)
    return loads


def built(name: str, **kwargs: Any) -> dict[str, Any]:
    model: Any = registry.create_model(name, **kwargs)
    options: dict[str, Any] = model.options
    return options


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in timm's hub layout, with no weights in it yet."""
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "label_names": ["a", "b", "c"],
        "model_args": {"img_size": 64, "depth": 2, "reg_tokens": 1},
        "pretrained_cfg": {"input_size": [3, 64, 64], "fixed_input_size": True},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


# ------------------------------------------------------------------------- the names


def test_every_name_is_listed_once_in_natural_order() -> None:
    names = registry.list_models()
    assert len(names) == len(set(names)) == 281
    assert names == sorted(names, key=natural_key)
    order = registry.list_models("vit_base_patch*_224")
    assert order.index("vit_base_patch8_224") < order.index("vit_base_patch16_224")


def test_listed_names_resolve() -> None:
    for name in [*registry.list_models(), *registry.list_pretrained()]:
        if name in registry.PACKAGED:
            continue
        assert registry.is_model(name)
        cfg = registry.get_pretrained_cfg(name)
        assert cfg["architecture"] == name.split(".")[0]
        assert plan_model(name).options["in_chans"] == 3


def test_default_tag_is_the_first() -> None:
    cfg = registry.get_pretrained_cfg("vit_base_patch16_224")
    assert cfg["tag"] == "augreg2_in21k_ft_in1k"
    assert cfg["hf_hub_id"] == "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"
    assert (cfg["input_size"], cfg["num_classes"]) == ((3, 224, 224), 1000)
    assert cfg["mean"] == (0.5, 0.5, 0.5)


def test_tag_selects_its_configuration() -> None:
    cfg = registry.get_pretrained_cfg("vit_base_patch16_224.augreg_in21k")
    assert (cfg["num_classes"], cfg["custom_load"]) == (21843, True)
    assert built("vit_base_patch16_224.augreg_in21k")["num_classes"] == 21843
    by_argument = built("vit_base_patch16_224", pretrained_cfg="augreg_in21k")
    assert by_argument["num_classes"] == 21843


def test_configuration_is_a_copy() -> None:
    registry.get_pretrained_cfg("vit_tiny_patch16_224")["num_classes"] = 5
    assert registry.get_pretrained_cfg("vit_tiny_patch16_224")["num_classes"] == 1000


def test_filter_with_a_tag_matches_tags_only() -> None:
    assert registry.list_models("vit_tiny*.augreg_in21k", include_tags=True) == [
        "vit_tiny_patch16_224.augreg_in21k"
    ]
    assert registry.list_models("vit_tiny*.augreg_in21k") == []


def test_filters_are_joined_and_excludes_win() -> None:
    both = registry.list_models(["vit_tiny*4", "test_vit"], exclude_filters="*384")
    assert both == ["test_vit", "vit_tiny_patch16_224"]


def test_no_model_matches_is_an_empty_list() -> None:
    assert registry.list_models("resnet*") == []


@pytest.mark.parametrize("wrong", [3, None, b"vit"])
def test_name_that_is_no_string_is_a_type_error(wrong: Any) -> None:
    for call in (
        registry.create_model,
        registry.is_model,
        registry.is_model_pretrained,
        registry.get_pretrained_cfg,
        registry.model_entrypoint,
    ):
        with pytest.raises(TypeError, match="must be a str, got"):
            call(wrong)


def test_wrong_filter_types_are_type_errors() -> None:
    with pytest.raises(TypeError, match="filter must be a str, got int"):
        registry.list_models(["vit*", 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="pretrained must be a bool, got str"):
        registry.list_models("vit*", pretrained="no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="write pretrained=True"):
        registry.list_models("vit*", True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="module must be a str, got int"):
        registry.list_models(module=[1])  # type: ignore[list-item]


def test_a_filter_that_no_name_is_finds_what_has_it_within() -> None:
    found = registry.list_models("siglip")
    assert found == registry.list_models("*siglip*")
    assert len(found) > 10
    assert registry.list_models("SigLIP") == found
    tags = registry.list_pretrained("laion2b")
    assert tags == registry.list_pretrained("*laion2b*")
    assert tags
    # What is a name, or has a wildcard, means what it does in timm.
    assert registry.list_models("vit_base_patch16_224") == ["vit_base_patch16_224"]
    assert len(registry.list_models("vit_base_patch16_224", include_tags=True)) == len(
        registry.list_models("vit_base_patch16_224.*", include_tags=True)
    )
    assert registry.list_models("siglip*") == []
    without = registry.list_models("vit_base*", exclude_filters="clip")
    assert without == registry.list_models("vit_base*", exclude_filters="*clip*")


# Names of each of timm's modules; vit_digits is one of the first.
MODULES = {
    "vision_transformer": 163 + 1,
    "eva": 65,
    "deit": 16,
    "beit": 7,
    "vision_transformer_relpos": 14,
    "naflexvit": 14,
    "vision_transformer_hybrid": 1,
}


def test_modules_are_timms() -> None:
    assert registry.list_modules() == sorted(MODULES)
    for module, count in MODULES.items():
        names = registry.list_models(module=module)
        assert len(names) == count
        assert all(registry.is_model_in_modules(name, module) for name in names)
    assert registry.list_models(module="vision_transformer_hybrid") == [
        "vit_base_mci_224"
    ]
    both = registry.list_models("*patch16_224", ["beit", "resnet", "deit"])
    assert both == registry.list_models(
        ["beit*h16_224", "deit*h16_224"], ["beit", "deit"]
    )
    assert "deit_tiny_distilled_patch16_224" in both
    assert "vit_base_patch16_224" not in both
    assert registry.list_models(module="resnet") == []
    assert registry.list_models(module="vision_*") == []


def test_a_name_is_in_its_module_alone() -> None:
    assert registry.is_model_in_modules("test_vit.r160_in1k", {"vision_transformer"})
    assert registry.is_model_in_modules("vit_base_patch16_dinov3", ["beit", "eva"])
    assert not registry.is_model_in_modules("vit_base_patch16_dinov3", "deit")
    assert not registry.is_model_in_modules("test_vit", "resnet")
    assert not registry.is_model_in_modules("resnet50", "vision_transformer")
    assert registry.is_model_in_modules("deit3_small_patch16_224_in21ft1k", "deit")


def test_hub_ids_are_those_of_the_weights() -> None:
    ids = {
        name: registry.get_pretrained_cfg(name)["hf_hub_id"]
        for name in ("vit_small_patch16_lingbot", "vit_base_mci_224.apple_mclip",
                     "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k",
                     "deit_tiny_patch16_224")
    }  # fmt: skip
    assert ids == {
        "vit_small_patch16_lingbot": "belfner/vit_small_patch16_lingbot.robbyant",
        "vit_base_mci_224.apple_mclip": "apple/mobileclip_b_timm",
        "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k": (
            "timm/eva02_large_patch14_448.mim_m38m_ft_in22k_in1k"
        ),
        "deit_tiny_patch16_224": "timm/deit_tiny_patch16_224.fb_in1k",
    }


def test_unknown_name_comes_with_near_matches() -> None:
    with pytest.raises(
        ValueError, match=r"'vit_bas_patch16_224'.*vit_base_patch16_224"
    ):
        registry.create_model("vit_bas_patch16_224")
    with pytest.raises(ValueError, match=r"unknown model 'zzz'; see list_models\(\)"):
        registry.model_entrypoint("zzz")
    with pytest.raises(ValueError, match="unknown model ''"):
        registry.create_model("")
    assert not registry.is_model("vit_bas_patch16_224")


def test_empty_tag_is_no_tag() -> None:
    for name in ("vit_digits", "vit_tiny_patch16_224"):
        cfg = registry.get_pretrained_cfg(name)
        assert registry.get_pretrained_cfg(f"{name}.") == cfg


def test_unknown_tag_comes_with_the_known_ones() -> None:
    for name in ("vit_tiny_patch16_224.foo", "vit_digits.foo"):
        with pytest.raises(
            ValueError, match=r"has no pretrained tag 'foo'; its tags: "
        ):
            registry.create_model(name)


@pytest.mark.parametrize("name", ["timm/vit_x", "./folder", "C:\\models\\vit", "a:b"])
def test_path_without_a_source_is_refused_with_the_right_spelling(name: str) -> None:
    with pytest.raises(ValueError, match=r"'local-dir:.*'hf-hub:"):
        registry.create_model(name)


def test_unknown_or_empty_source_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown model source 's3'"):
        registry.create_model("s3:bucket/vit")
    with pytest.raises(ValueError, match="has nothing after 'hf-hub:'"):
        registry.create_model("hf-hub:")


def test_deprecated_name_is_mapped_with_a_warning() -> None:
    text = (
        "Mapping deprecated model name vit_base_patch16_224_in21k to current "
        "vit_base_patch16_224.augreg_in21k."
    )
    with pytest.warns(UserWarning, match=text) as caught:
        options = built("vit_base_patch16_224_in21k")
    assert options["num_classes"] == 21843
    assert [w.filename for w in caught] == [__file__]
    assert not registry.list_models("*_in21k")


def test_deprecated_names_lead_to_known_tags() -> None:
    for old, current in table()["deprecated"].items():
        assert registry.is_model(old)
        assert registry.get_pretrained_cfg(old) == registry.get_pretrained_cfg(current)


def test_entrypoint_creates_its_model() -> None:
    entrypoint = registry.model_entrypoint("vit_tiny_patch16_224.augreg_in21k")
    model: Any = entrypoint(num_classes=4)
    assert entrypoint.__name__ == "vit_tiny_patch16_224"
    assert (model.options["embed_dim"], model.options["num_classes"]) == (192, 4)


# ------------------------------------------------------------------ what is handed on


def test_configuration_gives_size_channels_and_classes() -> None:
    options = built("vit_tiny_patch16_384")
    assert options["img_size"] == (384, 384)
    assert (options["in_chans"], options["num_classes"]) == (3, 1000)


def test_arguments_win_over_the_configuration() -> None:
    options = built(
        "vit_tiny_patch16_384", num_classes=0, img_size=96, in_chans=1, depth=3
    )
    assert (options["num_classes"], options["img_size"]) == (0, 96)
    assert (options["in_chans"], options["depth"]) == (1, 3)


def test_none_leaves_the_models_own_value() -> None:
    options = built("vit_base_patch16_siglip_224", global_pool=None, num_classes=None)
    assert options["global_pool"] == "map"
    assert options["num_classes"] == 0
    assert "mlp_ratio" not in built("vit_tiny_patch16_224", mlp_ratio=None)


def test_norm_with_eps_is_a_tuple() -> None:
    assert built("vit_base_patch32_clip_224")["norm_layer"] == ("layernorm", 1e-5)


def test_dtype_and_seed_reach_the_model(loads: Loads) -> None:
    options = built("test_vit", dtype="bfloat16", seed=3)
    assert (options["dtype"], options["seed"]) == ("bfloat16", 3)
    built("test_vit", checkpoint_path="w.safetensors", dtype="bfloat16", seed=3)
    how = {"variant": "test_vit", "dtype": "bfloat16", "seed": 3}
    rest = {"dtypes": None, "stored_pool": "", "family": "VisionTransformer"}
    assert loads.built[0][3] == how | rest


def test_registered_weights_come_with_the_pool_they_were_trained_with(
    loads: Loads,
) -> None:
    """And not with the one that the caller asks for."""
    for name in ("vit_base_patch16_siglip_224", "vit_tiny_patch16_224"):
        overlay = {"file": "w.safetensors"}
        built(name, pretrained=True, global_pool="avg", pretrained_cfg_overlay=overlay)
    pools = [how["stored_pool"] for *_, how in loads.built]
    assert pools == ["map", "token"]


@pytest.mark.parametrize(
    ("name", "family", "pool"),
    [
        ("vit_base_patch16_dinov3", "Eva", "avg"),
        ("eva02_base_patch16_clip_224", "Eva", "token"),
        ("beit_base_patch16_224", "Beit", "avg"),
        ("vit_relpos_base_patch16_cls_224", "VisionTransformerRelPos", "token"),
        ("deit_tiny_distilled_patch16_224", "VisionTransformerDistilled", "token"),
        ("deit3_small_patch16_224", "VisionTransformer", "token"),
        ("naflexvit_base_patch16_siglip", "NaFlexVit", "map"),
    ],
)
def test_a_model_is_of_its_names_class(
    name: str, family: str, pool: str, loads: Loads
) -> None:
    assert type(registry.create_model(name)).__name__ == family
    overlay = {"file": "w.safetensors"}
    built(name, pretrained=True, pretrained_cfg_overlay=overlay)
    rest = loads.built[0][3]
    # The pool is timm's default of that class where the name says nothing.
    assert (rest["family"], rest["stored_pool"]) == (family, pool)
    assert plan_model(name).family == family
    assert type(registry.model_entrypoint(name)()).__name__ == family


def test_every_name_has_options_that_its_class_takes() -> None:
    for name in registry.list_models():
        plan = plan_model(name)
        options = resolve(plan.options, plan.family)
        assert options["family"] == plan.family
        assert (options["num_classes"], options["in_chans"]) == (
            plan.options["num_classes"],
            plan.options["in_chans"],
        )


def test_model_carries_its_configuration() -> None:
    model: Any = registry.create_model("test_vit")
    assert model.pretrained_cfg == registry.get_pretrained_cfg("test_vit")
    assert model.default_cfg is model.pretrained_cfg


def test_overlay_replaces_keys_and_resets_custom_load() -> None:
    name = "vit_base_patch16_224.augreg_in21k"
    model: Any = registry.create_model(name, pretrained_cfg_overlay={"num_classes": 6})
    assert (model.options["num_classes"], model.default_cfg["custom_load"]) == (6, True)
    model = registry.create_model(name, pretrained_cfg_overlay={"file": "x.npz"})
    assert model.default_cfg["custom_load"] is False


def test_whole_configuration_replaces_the_registered_one() -> None:
    cfg = {"input_size": [1, 32, 48], "num_classes": 5, "fixed_input_size": True}
    model: Any = registry.create_model("test_vit", pretrained_cfg=cfg)
    assert model.options["img_size"] == (32, 48)
    assert (model.options["in_chans"], model.options["num_classes"]) == (1, 5)
    assert model.default_cfg["architecture"] == "test_vit"


def test_unknown_configuration_keys_are_named() -> None:
    for key in ("pretrained_cfg", "pretrained_cfg_overlay"):
        with pytest.raises(ValueError, match=f"{key} has unknown keys colour"):
            registry.create_model("test_vit", **{key: {"colour": 1}})
        with pytest.raises(TypeError, match=f"{key} must be a dict, got int"):
            registry.create_model("test_vit", **{key: 3})


@pytest.mark.parametrize("option", ["pruned", "pretrained_tag"])
def test_options_that_only_timm_has_are_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=f"does not take {option}: "):
        registry.create_model("test_vit", **{option: True})
    assert option not in built("test_vit", **{option: None})


def test_options_without_meaning_here_are_dropped() -> None:
    inert = {"scriptable": True, "exportable": True, "no_jit": True, "out_indices": 3}
    options = built("test_vit", device="cpu", features_only=False, **inert)
    assert options == built("test_vit")


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="device must be 'cpu', got 'cuda'"):
        registry.create_model("test_vit", device="cuda")


def test_pretrained_must_be_a_bool() -> None:
    with pytest.raises(TypeError, match="pretrained must be a bool, got str"):
        registry.create_model("test_vit", "r160_in1k")  # type: ignore[arg-type]


# ------------------------------------------------------------------------- the weights


def test_pretrained_builds_from_the_hubs_file(
    loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def weights_path(source: str, **options: Any) -> str:
        asked.append((source, options))
        return "the file"

    monkeypatch.setattr(folders, "weights_path", weights_path)
    model = registry.create_model("test_vit", pretrained=True, num_classes=2)
    options, cfg, path, rest = loads.built[0]
    assert asked[0][0] == "hf-hub:timm/test_vit.r160_in1k"
    assert (options["num_classes"], path, rest["variant"]) == (
        2,
        "the file",
        "test_vit",
    )
    assert cfg == model.pretrained_cfg
    assert not loads.loaded


def test_checkpoint_path_builds_from_that_file(loads: Loads) -> None:
    model = registry.create_model("test_vit", checkpoint_path="w.safetensors")
    assert loads.built[0][2] == "w.safetensors"
    assert loads.built[0][1] == model.pretrained_cfg


def test_checkpoint_path_keeps_the_files_head(loads: Loads) -> None:
    model = registry.create_model("test_vit", num_classes=7, checkpoint_path="w.bin")
    assert loads.built[0][1]["num_classes"] == 7
    assert model.pretrained_cfg["num_classes"] == 1000


def test_checkpoint_path_is_loaded_over_the_pretrained(
    loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "weights_path", lambda *args, **options: "the file")
    model = registry.create_model("test_vit", True, checkpoint_path="w.safetensors")
    assert loads.built[0][2] == "the file"
    assert loads.loaded == [(model, "w.safetensors")]


def test_file_in_the_overlay_comes_before_the_hub(loads: Loads) -> None:
    overlay = {"file": "mine.safetensors"}
    registry.create_model("test_vit", True, pretrained_cfg_overlay=overlay)
    assert loads.built[0][2] == "mine.safetensors"


def test_model_without_weights_says_which_tags_have_some() -> None:
    overlay = {"hf_hub_id": None, "url": None}
    with pytest.raises(ValueError, match=r"registered: vit_huge_patch14_224\.mae"):
        registry.create_model(
            "vit_huge_patch14_224.mae", True, pretrained_cfg_overlay=overlay
        )
    assert not registry.is_model_pretrained("vit_base_patch32_plus_256")
    with pytest.raises(ValueError, match="registered: none"):
        registry.create_model("vit_base_patch32_plus_256", True)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("vit_relpos_base_patch16_cls_224.untrained", "none"),
        ("test_vit_relpos", "none"),
        ("naflexvit_base_patch16_map", "none"),
        (
            "eva02_enormous_patch14_clip_224.pretrain",
            r"eva02_enormous_patch14_clip_224\.laion2b, .*\.laion2b_plus;",
        ),
    ],
)
def test_a_tag_without_weights_says_so_by_its_name(name: str, others: str) -> None:
    assert not registry.is_model_pretrained(name)
    assert name not in registry.list_pretrained()
    with pytest.raises(ValueError, match=rf"for {name}; registered: {others}"):
        registry.create_model(name, True)
    registry.create_model(name)


def test_weights_that_are_not_on_the_hub_are_named_by_address() -> None:
    with pytest.raises(ValueError, match=r"download https://dl\.fbaipublicfiles\.com/"):
        registry.create_model("vit_huge_patch14_gap_224.in1k_ijepa", True)


# ------------------------------------------------------------------------- the folders


def test_folder_is_read_as_timm_does(folder: Path) -> None:
    model: Any = registry.create_model(f"local-dir:{folder}")
    assert (model.options["embed_dim"], model.options["depth"]) == (192, 2)
    assert (model.options["reg_tokens"], model.options["num_classes"]) == (1, 3)
    assert model.options["img_size"] == 64
    assert tuple(model.default_cfg["label_names"]) == ("a", "b", "c")
    assert built(f"local-dir:{folder}", depth=1, num_classes=9)["depth"] == 1
    assert registry.get_pretrained_cfg(f"local-dir:{folder}") == model.default_cfg


def test_folder_weights_are_those_beside_the_config(folder: Path, loads: Loads) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    registry.create_model(f"local-dir:{folder}", True)
    _, cfg, path, rest = loads.built[0]
    assert path == str(folder / "model.safetensors")
    assert rest["variant"] == "vit_tiny_patch16_224"
    assert cfg["input_size"] == (3, 64, 64)


def test_folder_brings_its_own_configuration(folder: Path) -> None:
    with pytest.raises(ValueError, match="brings its own pretrained_cfg"):
        registry.create_model(f"local-dir:{folder}", pretrained_cfg="x")


def test_folder_of_an_unknown_architecture_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architecture"] = "resnet50"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="unknown model 'resnet50'"):
        registry.create_model(f"local-dir:{folder}")


def test_packaged_model_is_the_folder_it_lies_in(loads: Loads) -> None:
    home = registry.PACKAGED["vit_digits"]
    assert registry.is_model("vit_digits")
    assert registry.is_model_pretrained("vit_digits")
    assert "vit_digits" in registry.list_models(pretrained=True)
    model: Any = registry.create_model("vit_digits", pretrained=True)
    assert loads.built[0][2] == str(home / "model.safetensors")
    assert model.options["num_classes"] == 10
    assert model.options["global_pool"] == "map"
    assert registry.get_pretrained_cfg("vit_digits") == model.default_cfg


# ------------------------------------------------------------------------- the table


def test_importing_the_registry_does_not_read_the_table() -> None:
    code = (
        "from vitpool.registry.table import table; "
        "assert table.cache_info().misses == 0; "
        "import sys; assert 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
