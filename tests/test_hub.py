# SPDX-License-Identifier: Apache-2.0
"""Models from folders in timm's hub layout, and saving them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

import vitpool
from vitpool import hub

NESTED = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 5,
    "num_features": 192,
    "global_pool": "token",
    "label_names": ["a", "b", "c", "d", "e"],
    "label_descriptions": {"a": "the first"},
    "model_args": {"img_size": [32, 48], "in_chans": 1, "depth": 1},
    "pretrained_cfg": {
        "tag": "x",
        "input_size": [3, 224, 224],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 1000,
    },
}
FLAT = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 3,
    "num_features": 192,
    "labels": ["x", "y", "z"],
    "input_size": [3, 224, 224],
    "mean": [0.5, 0.5, 0.5],
    "crop_pct": 0.9,
}


def folder(path: Path, config: object) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


# ------------------------------------------------------------------------------ folders


def test_nested_config(tmp_path: Path) -> None:
    folder(tmp_path / "m", NESTED)
    name, cfg, args = hub.load_model_config(f"local-dir:{tmp_path / 'm'}")
    assert name == "vit_tiny_patch16_224"
    assert args == {"img_size": (32, 48), "in_chans": 1, "depth": 1}
    assert cfg["num_classes"] == 5  # what is said outside wins
    assert cfg["input_size"] == (1, 32, 48)  # the arguments describe the weights
    assert cfg["label_names"] == NESTED["label_names"]
    assert cfg["mean"] == (0.5, 0.5, 0.5)
    assert cfg["source"] == "local-dir"


def test_flat_config_and_a_plain_path(tmp_path: Path) -> None:
    folder(tmp_path / "m", FLAT)
    name, cfg, args = hub.load_model_config(tmp_path / "m")
    assert (name, args) == ("vit_tiny_patch16_224", {})
    assert cfg["label_names"] == ["x", "y", "z"]
    assert (cfg["num_classes"], cfg["crop_pct"]) == (3, 0.9)
    assert "num_features" not in cfg


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "config.json: not JSON"),
        ("[]", "no 'architecture'"),
        ("{}", "no 'architecture'"),
        ('{"architecture": 5}', "no 'architecture'"),
        ('{"architecture": "x", "pretrained_cfg": 1}', "'pretrained_cfg' is not"),
        ('{"architecture": "x", "model_args": [1]}', "'model_args' is not"),
        ('{"architecture": "x", "input_size": [3]}', "a size is not"),
        ('{"architecture": "x", "input_size": "abc"}', "a size is not"),
        ('{"architecture": "x", "mean": 5}', "a size is not"),
        ("[" * 5000, "not JSON"),
    ],
)
def test_hostile_configs_are_refused_by_name(tmp_path, text, words) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        hub.load_model_config(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_folders_without_a_config_or_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        hub.load_model_config(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        hub.load_model_config(f"local-dir:{tmp_path / 'no'}")
    with pytest.raises(FileNotFoundError, match="has no weights"):
        hub.weights_path(tmp_path)


def test_weights_are_found_in_timms_order(tmp_path: Path) -> None:
    for name in ("z.bin", "pytorch_model.bin", "b.safetensors", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
    for name in ("model.safetensors", "pytorch_model.bin", "b.safetensors", "z.bin"):
        assert hub.weights_path(tmp_path) == str(tmp_path / name)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("source", ["hf-hub:", "local-dir:", "bogus", "s3:x", "a/b"])
def test_unknown_sources_say_what_is_allowed(source: str) -> None:
    with pytest.raises(ValueError, match="model source"):
        hub.split_source(source)


@pytest.mark.parametrize("repo", ["a@b@c", "a/b/c", "@x", "a@"])
def test_hub_ids_are_checked_before_anything_is_asked(repo: str) -> None:
    with pytest.raises(ValueError, match="hub id"):
        hub.load_model_config(f"hf-hub:{repo}")


# ------------------------------------------------------------------------------- saving


def test_saved_models_come_back_bit_for_bit(tmp_path: Path) -> None:
    model = vitpool.create_model("vit_digits", pretrained=True)
    hub.save_pretrained(model, tmp_path / "m")
    again = vitpool.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(again(x), model(x))
    assert again.pretrained_cfg["label_names"] == model.pretrained_cfg["label_names"]
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"global_pool": "avg", "num_classes": 7},
        {"global_pool": "map", "class_token": False, "reg_tokens": 2},
        {"global_pool": "prr", "init_values": 0.1, "img_size": (32, 48)},
        {"norm_layer": "rmsnorm", "act_layer": "gelu_tanh", "num_classes": 0},
        {"dynamic_img_size": True, "in_chans": 1, "pre_norm": True},
    ],
)
def test_options_survive_saving(tmp_path: Path, options: dict) -> None:
    options = {"img_size": 32, **options}
    model = vitpool.create_model("vit_tiny_patch16_224", depth=2, seed=0, **options)
    hub.save_pretrained(model, tmp_path)
    again = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert again.config == model.config
    channels, height, width = vitpool.resolve_data_config(model)["input_size"]
    x = np.random.default_rng(0).standard_normal(
        (2, channels, height - height % 16, width), np.float32
    )
    np.testing.assert_array_equal(again(x), model(x))


def test_saving_replaces_files_and_never_writes_into_them(tmp_path: Path) -> None:
    """Who has opened the old ones goes on reading them."""
    folder, kept = tmp_path / "m", tmp_path / "kept"
    kept.mkdir()
    options = {"img_size": 32, "depth": 1, "num_classes": 3}
    for seed in (0, 1):
        model = vitpool.create_model("vit_tiny_patch16_224", seed=seed, **options)
        hub.save_pretrained(model, folder, label_names=[f"{seed}{i}" for i in range(3)])
        if seed == 0:
            before = {p.name: p.read_bytes() for p in folder.iterdir()}
            for name in before:
                os.link(folder / name, kept / name)
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == before
    for name, content in before.items():
        assert (folder / name).read_bytes() != content


def test_the_arguments_size_is_the_stored_grids(tmp_path: Path) -> None:
    """pretrained_cfg may still tell the source model's size, as timm leaves it."""
    options = {"img_size": (64, 96), "depth": 1, "num_classes": 3, "seed": 0}
    model = vitpool.create_model("vit_tiny_patch16_224", **options)
    hub.save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 224, 224]
    (tmp_path / "config.json").write_text(json.dumps(config))
    same = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert same.pretrained_cfg["input_size"] == (3, 64, 96)
    tall = vitpool.create_model(
        f"local-dir:{tmp_path}", pretrained=True, img_size=(96, 64)
    )
    model.set_input_size((96, 64))
    np.testing.assert_array_equal(tall.pos_embed, model.pos_embed)


def test_a_replaced_classifier_loses_its_labels(tmp_path: Path) -> None:
    model = vitpool.create_model("vit_digits", pretrained=True)
    model.reset_classifier(3, "map")
    hub.save_pretrained(model, tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["num_classes"] == 3
    assert "label_names" not in config
    hub.save_pretrained(model, tmp_path / "b", label_names=["x", "y", "z"])
    again = vitpool.create_model(f"local-dir:{tmp_path / 'b'}", pretrained=True)
    assert list(again.pretrained_cfg["label_names"]) == ["x", "y", "z"]
    with pytest.raises(ValueError, match="4 names for 3 classes"):
        hub.save_pretrained(model, tmp_path / "c", label_names=list("abcd"))
    assert not (tmp_path / "c").exists()


def snapshot(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


@pytest.mark.parametrize("broken", ["write_text", "fsync", "replace"])
def test_a_save_that_fails_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    model = vitpool.create_model("vit_digits", pretrained=True)
    hub.save_pretrained(model, tmp_path)
    before = snapshot(tmp_path)
    model.reset_classifier(3)

    def fails(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    def replace(source: str, target: str) -> None:
        if str(target).endswith("model.safetensors"):
            fails()
        os.rename(source, target)

    owner = Path if broken == "write_text" else os
    with monkeypatch.context() as patch:
        patch.setattr(owner, broken, replace if broken == "replace" else fails)
        with pytest.raises(OSError, match="No space left"):
            hub.save_pretrained(model, tmp_path)
    assert snapshot(tmp_path) == before


def test_a_save_that_is_killed_never_leaves_halves_of_two_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is looked at after each change of a name in it."""
    model = vitpool.create_model("vit_digits", pretrained=True)
    hub.save_pretrained(model, tmp_path)
    before = snapshot(tmp_path)
    model.reset_classifier(3)
    seen = []

    def replace(source: str, target: str) -> None:
        os.rename(source, target)
        seen.append(snapshot(tmp_path))

    monkeypatch.setattr(os, "replace", replace)
    hub.save_pretrained(model, tmp_path)
    after = snapshot(tmp_path)
    assert len(seen) >= 2
    assert sorted(after) == ["config.json", "model.safetensors"]
    for names in [before, *seen, after]:
        pair = names.get("config.json"), names.get("model.safetensors")
        whole = [(x["config.json"], x["model.safetensors"]) for x in (before, after)]
        assert pair[0] is None or pair in whole


def test_both_files_are_on_the_disk_before_they_get_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    real_sync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        done.append(str(target))
        assert str(source) in done
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    hub.save_pretrained(vitpool.create_model("vit_digits", pretrained=True), tmp_path)
    assert done[-1] == str(tmp_path)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_saved_files_have_the_permissions_that_the_umask_leaves(
    tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        hub.save_pretrained(
            vitpool.create_model("vit_digits", pretrained=True), tmp_path
        )
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path.name


# ----------------------------------------------------------- the weights, by their path


@pytest.mark.parametrize("prefix", ["", "local-dir:", "LOCAL_DIR:"])
def test_weights_are_taken_with_the_config_beside_them(
    tmp_path: Path, prefix: str
) -> None:
    model = vitpool.create_model("vit_digits", pretrained=True)
    hub.save_pretrained(model, tmp_path)
    other = tmp_path / "epoch.9.safetensors"
    (tmp_path / "model.safetensors").rename(other)
    name = f"{prefix}{other}"
    again = vitpool.create_model(name, pretrained=True)
    assert again.config == model.config
    np.testing.assert_array_equal(again.head.weight, model.head.weight)
    assert vitpool.get_pretrained_cfg(name)["file"] == str(other)
    assert hub.weights_path(other) == str(other)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json beside it"):
        vitpool.create_model(name, pretrained=True)
    with pytest.raises(ValueError, match="looks like a path"):
        vitpool.create_model(str(tmp_path / "none.safetensors"), pretrained=True)


# ---------------------------------------------------------------- what a config may say


PLACES = ("file", "url", "state_dict", "hf_hub_id", "source")


@pytest.mark.parametrize("flat", [False, True])
def test_a_config_does_not_choose_which_file_is_read(
    tmp_path: Path, flat: bool
) -> None:
    """A folder's weights are those in the folder, whatever its config.json says."""
    model = vitpool.create_model("vit_digits", pretrained=True)
    hub.save_pretrained(model, tmp_path / "private")
    other = vitpool.create_model("vit_digits", seed=1)
    hub.save_pretrained(other, tmp_path / "given")
    told = tmp_path / "given" / "config.json"
    config = json.loads(told.read_text())
    private = str(tmp_path / "private" / "model.safetensors")
    for key in PLACES:
        for value in (private, "https://example.org/x", {"a": 1}, "hf-hub", 5):
            place = config["pretrained_cfg"]
            if flat:
                place = {**place, "model_args": config["model_args"]}
                place["architecture"] = config["architecture"]
            text = {**place, key: value}
            if not flat:
                text = {**config, "pretrained_cfg": text, key: value}
            told.write_text(json.dumps(text))
            got = vitpool.create_model(f"local-dir:{told.parent}", pretrained=True)
            weight = got.get_parameter("head.weight")
            np.testing.assert_array_equal(weight, other.get_parameter("head.weight"))
            assert private not in map(str, got.pretrained_cfg.values())


def test_the_caller_may_still_name_another_file(tmp_path: Path) -> None:
    model = vitpool.create_model("vit_digits", seed=1)
    hub.save_pretrained(model, tmp_path / "a")
    model.reset_classifier(10, seed=2)
    hub.save_pretrained(model, tmp_path / "b")
    got = vitpool.create_model(
        f"local-dir:{tmp_path / 'a'}",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "b" / "model.safetensors")},
    )
    wanted = model.get_parameter("head.weight")
    np.testing.assert_array_equal(got.get_parameter("head.weight"), wanted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_args": {"weights": {"a": 1}}}, "no argument of timm's"),
        ({"model_args": {"dtype": "float32", "seed": 0}}, "no argument of timm's"),
        ({"num_classes": "10"}, "num_classes must be an integer"),
        ({"num_classes": -3}, "num_classes must be at least 0"),
        ({"pretrained_cfg": {"hf_hub_filename": "../../x.bin"}}, "'hf_hub_filename'"),
        ({"pretrained_cfg": {"hf_hub_filename": "/etc/passwd"}}, "'hf_hub_filename'"),
        ({"pretrained_cfg": {"hf_hub_filename": ["a"]}}, "'hf_hub_filename'"),
        ({"pretrained_cfg": {"input_size": [3, 0, 32]}}, "a size is not"),
        ({"pretrained_cfg": {"input_size": [-3, 32, 32]}}, "a size is not"),
    ],
)
def test_a_config_that_says_more_than_it_may_is_refused(
    tmp_path: Path, change: dict, words: str
) -> None:
    folder(tmp_path / "m", {**NESTED, "model_args": {}, **change})
    with pytest.raises(ValueError, match=words) as caught:
        hub.load_model_config(tmp_path / "m")
    assert str(tmp_path) in str(caught.value)


def test_a_model_in_several_files_loads_from_its_folder(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    model = vitpool.create_model("vit_digits", pretrained=True)
    hub.save_pretrained(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    weights = model.state_dict()
    names = list(weights)
    parts = {
        "model-1-of-2.safetensors": names[:9],
        "model-2-of-2.safetensors": names[9:],
    }
    for file, keys in parts.items():
        save_file({key: weights[key] for key in keys}, tmp_path / file)
    placed = {key: file for file, keys in parts.items() for key in keys}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    got = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    for key, value in weights.items():
        np.testing.assert_array_equal(got.get_parameter(key), value)
