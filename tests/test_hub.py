# SPDX-License-Identifier: Apache-2.0
"""Models from folders and from a hub; the hub here is a stand-in without a network."""

from __future__ import annotations

import json
import sys
import time
import types
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


# ------------------------------------------------------------------------------ the hub


class Answer(Exception):
    """An HTTP error as huggingface_hub raises it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = types.SimpleNamespace(status_code=status)


class EntryNotFoundError(Exception):
    pass


class LocalEntryNotFoundError(FileNotFoundError, EntryNotFoundError):
    pass


class FakeHub:
    """huggingface_hub's four functions over a dict; `wrong` is raised when asked."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.files, self.cached = files, set()
        self.wrong: BaseException | None = None
        self.wait = 0.0
        self.asked: list[tuple[str, str | None]] = []

    def hf_hub_url(self, repo: str, filename: str, revision: str | None) -> str:
        self.asked.append((repo, revision))
        return filename

    def get_token(self) -> None:
        return None

    def get_hf_file_metadata(self, url: str, token: object, timeout: float) -> None:
        time.sleep(self.wait)
        if self.wrong:
            raise self.wrong
        if url not in self.files:
            raise EntryNotFoundError(url)

    def hf_hub_download(
        self, repo, filename, revision, cache_dir, local_files_only=False
    ) -> str:
        if local_files_only and filename not in self.cached:
            raise LocalEntryNotFoundError(filename)
        self.cached.add(filename)
        return str(self.files[filename])


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    folder(tmp_path / "repo", {"architecture": "vit_tiny_patch16_224"})
    (tmp_path / "repo" / "pytorch_model.bin").write_bytes(b"")
    found = FakeHub({p.name: p for p in (tmp_path / "repo").iterdir()})
    constants = types.SimpleNamespace(ENDPOINT="https://hub", HF_HUB_OFFLINE=False)
    errors = types.SimpleNamespace(
        EntryNotFoundError=EntryNotFoundError,
        LocalEntryNotFoundError=LocalEntryNotFoundError,
    )
    module = types.ModuleType("huggingface_hub")
    for name in dir(found):
        if name.startswith(("hf_", "get_")):
            setattr(module, name, getattr(found, name))
    module.constants, module.errors = constants, errors  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setattr("vitpool.registry.hub._unreachable", {})
    found.constants = constants  # type: ignore[attr-defined]
    return found


def test_hub_files_and_revisions(fake: FakeHub) -> None:
    name, cfg, _ = hub.load_model_config("hf-hub:timm/x@abc")
    assert name == "vit_tiny_patch16_224"
    assert (cfg["hf_hub_id"], cfg["source"]) == ("timm/x@abc", "hf-hub")
    assert fake.asked == [("timm/x", "abc")]
    assert hub.weights_path("hf-hub:timm/x").endswith("pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"has no other\.bin"):
        hub.weights_path("hf-hub:timm/x", filename="other.bin")


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_without_a_network_one_line_tells_what_to_do(fake: FakeHub) -> None:
    fake.wrong = OSError("Name or service not known")
    with pytest.raises(hub.HubUnreachableError) as caught:
        hub.load_model_config("hf-hub:timm/x")
    text = one_line(caught.value)
    assert "cannot reach https://hub" in text
    assert "Name or service not known" in text
    assert "local-dir:" in text
    assert isinstance(caught.value, ConnectionError)


def test_a_silent_hub_is_given_up_within_five_seconds(fake: FakeHub) -> None:
    fake.wait = 6.0
    start = time.monotonic()
    for _ in range(3):  # asked once: what it did a moment ago, it does again
        with pytest.raises(hub.HubUnreachableError):
            hub.load_model_config("hf-hub:timm/x")
    assert time.monotonic() - start < 5
    assert len(fake.asked) == 1


def test_the_cache_serves_without_a_network(fake: FakeHub) -> None:
    hub.load_model_config("hf-hub:timm/x")
    fake.wrong = OSError("down")
    assert hub.load_model_config("hf-hub:timm/x")[0] == "vit_tiny_patch16_224"
    fake.wrong, fake.constants.HF_HUB_OFFLINE = AssertionError, True
    assert hub.load_model_config("hf-hub:timm/x")[0] == "vit_tiny_patch16_224"
    with pytest.raises(hub.HubUnreachableError, match="HF_HUB_OFFLINE is set"):
        hub.weights_path("hf-hub:timm/x")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_told_apart_from_silence(fake: FakeHub, status: int) -> None:
    fake.wrong = Answer(status)
    with pytest.raises(hub.HubError, match=f"refuses hf-hub:timm/x .HTTP {status}"):
        hub.load_model_config("hf-hub:timm/x")
    fake.wrong = Answer(503)
    with pytest.raises(hub.HubUnreachableError, match="status 503"):
        hub.load_model_config("hf-hub:timm/x")


def test_without_huggingface_hub_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"vitpool\[hub\]") as caught:
        hub.load_model_config("hf-hub:timm/x")
    one_line(caught.value)
