# SPDX-License-Identifier: Apache-2.0
"""Models from a hub: huggingface_hub itself, against a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hub_server
import numpy as np
import pytest
import test_transformers_folders as transformers_folders

import vitpool
from vitpool import hub

CONFIG = json.dumps({"architecture": "vit_tiny_patch16_224"}).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[hub_server.Hub]:
    """A hub; huggingface_hub is imported anew, with the hub in its environment."""
    found, http = hub_server.serve()
    fresh = {n: m for n, m in sys.modules.items() if n.startswith("huggingface_hub")}
    before = dict(os.environ)
    for name in fresh:
        del sys.modules[name]
    for name in [n for n in os.environ if n.startswith("HF_")]:
        del os.environ[name]
    os.environ["HF_ENDPOINT"] = found.endpoint
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    import huggingface_hub  # noqa: F401 - reads the environment now

    yield found
    http.shutdown()
    http.server_close()
    os.environ.clear()
    os.environ.update(before)
    for name in [n for n in sys.modules if n.startswith("huggingface_hub")]:
        del sys.modules[name]
    sys.modules.update(fresh)


@pytest.fixture
def online(
    server: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> hub_server.Hub:
    """The hub with one model, and an empty cache."""
    from huggingface_hub import constants

    server.reset()
    server.files["timm/x/config.json"] = CONFIG
    server.files["timm/x/pytorch_model.bin"] = b"weights"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("vitpool.registry.hub._unreachable", {})
    return server


def names(online: hub_server.Hub) -> list[str]:
    return [path.rsplit("/", 1)[-1] for _, path in online.asked]


def test_files_and_revisions(online: hub_server.Hub) -> None:
    name, cfg, _ = hub.load_model_config("hf-hub:timm/x@main")
    assert name == "vit_tiny_patch16_224"
    assert (cfg["hf_hub_id"], cfg["source"]) == ("timm/x@main", "hf-hub")
    assert {path for _, path in online.asked} == {"/timm/x/resolve/main/config.json"}
    path = hub.weights_path("hf-hub:timm/x")
    assert Path(path).read_bytes() == b"weights"
    with pytest.raises(FileNotFoundError, match=r"has no other\.bin"):
        hub.weights_path("hf-hub:timm/x", filename="other.bin")


def test_a_model_comes_whole_from_the_hub(
    online: hub_server.Hub, tmp_path: Path
) -> None:
    model = vitpool.create_model("vit_digits", pretrained=True)
    hub.save_pretrained(model, tmp_path / "m")
    for path in (tmp_path / "m").iterdir():
        online.files[f"me/digits/{path.name}"] = path.read_bytes()
    got = vitpool.create_model("hf-hub:me/digits", pretrained=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(got(x), model(x))


def test_a_model_of_transformers_comes_whole_from_the_hub(
    online: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers_folders.write(tmp_path, transformers_folders.VIT)
    local = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    for path in tmp_path.iterdir():
        if path.is_file():
            online.files[f"me/vit/{path.name}"] = path.read_bytes()
    got = vitpool.create_model("hf-hub:me/vit", pretrained=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(got(x), local(x))
    assert got.pretrained_cfg["crop_mode"] == "squash"
    assert "preprocessor_config.json" in names(online)
    # The one that it was not known to have, without the hub: said, and the model loads.
    online.files["me/vit/preprocessor_config.json"] = json.dumps(
        transformers_folders.CUT
    ).encode()
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.warns(UserWarning, match="as for other models of its kind: cannot rea"):
        vitpool.create_model("hf-hub:me/vit", pretrained=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    got = vitpool.create_model("hf-hub:me/vit", pretrained=True)
    assert got.pretrained_cfg["crop_mode"] == "center"


def test_a_model_in_several_files_is_fetched_whole(online: hub_server.Hub) -> None:
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    del online.files["timm/x/pytorch_model.bin"]
    online.files["timm/x/model.safetensors.index.json"] = json.dumps(index).encode()
    online.files["timm/x/m-1.safetensors"] = b"one"
    online.files["timm/x/m-2.safetensors"] = b"two"
    path = Path(hub.weights_path("hf-hub:timm/x"))
    assert (path.parent / "m-2.safetensors").read_bytes() == b"two"
    index["weight_map"]["b"] = "../../../etc/passwd"
    online.files["bad/x/model.safetensors.index.json"] = json.dumps(index).encode()
    with pytest.raises(ValueError, match=r"passwd. is not a safetensors file"):
        hub.weights_path("hf-hub:bad/x")


def test_a_hub_s_config_does_not_choose_a_local_file(
    online: hub_server.Hub, tmp_path: Path
) -> None:
    """Neither is the file read, nor does an error tell whether it is there."""
    model = vitpool.create_model("vit_digits", pretrained=True)
    hub.save_pretrained(model, tmp_path / "private")
    private = tmp_path / "private" / "model.safetensors"
    config = json.loads((tmp_path / "private" / "config.json").read_text())
    told = []
    for file in (private, tmp_path / "none.safetensors"):
        config["pretrained_cfg"].update(file=str(file), source="local-dir")
        online.files["bad/x/config.json"] = json.dumps(config).encode()
        with pytest.raises(FileNotFoundError) as caught:
            vitpool.create_model("hf-hub:bad/x", pretrained=True)
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert str(tmp_path) not in told[0]


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_without_a_network_one_line_tells_what_to_do(
    online: hub_server.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub, "hf_hub_url", lambda *a, **k: "http://127.0.0.1:9/x"
    )
    with pytest.raises(hub.HubUnreachableError) as caught:
        hub.load_model_config("hf-hub:timm/x")
    text = one_line(caught.value)
    assert f"cannot reach {online.endpoint}" in text
    assert "refused" in text
    assert "local-dir:" in text
    assert isinstance(caught.value, ConnectionError)


def test_a_silent_hub_is_given_up_within_five_seconds(online: hub_server.Hub) -> None:
    online.wait = 6.0
    start = time.monotonic()
    for _ in range(3):  # asked once: what it did a moment ago, it does again
        with pytest.raises(hub.HubUnreachableError):
            hub.load_model_config("hf-hub:timm/x")
    assert time.monotonic() - start < 5
    assert names(online) == ["config.json"]


def test_the_user_s_own_patience_counts(
    online: hub_server.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    online.wait = 1.0
    start = time.monotonic()
    with pytest.raises(hub.HubUnreachableError):
        hub.load_model_config("hf-hub:timm/x")
    assert time.monotonic() - start < 1.0


def test_the_cache_serves_without_a_network(
    online: hub_server.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub.load_model_config("hf-hub:timm/x")
    online.refusal = (503, "")
    assert hub.load_model_config("hf-hub:timm/x")[0] == "vit_tiny_patch16_224"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    online.asked.clear()
    assert hub.load_model_config("hf-hub:timm/x")[0] == "vit_tiny_patch16_224"
    with pytest.raises(hub.HubUnreachableError, match="HF_HUB_OFFLINE is set"):
        hub.weights_path("hf-hub:timm/x")
    assert online.asked == []


def test_a_commit_in_the_cache_is_not_asked_for_again(online: hub_server.Hub) -> None:
    source = f"hf-hub:timm/x@{hub_server.COMMIT}"
    hub.load_model_config(source)
    asked = len(online.asked)
    hub.load_model_config(source)
    assert len(online.asked) == asked


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((401, "RepoNotFound"), "refuses hf-hub:timm/x .HTTP 401"),
        ((403, ""), "refuses hf-hub:timm/x .HTTP 403"),
        ((404, "RepoNotFound"), "refuses hf-hub:timm/x .HTTP 404"),
        ((403, "GatedRepo"), "is gated: accept its terms"),
    ],
)
def test_a_refusal_is_told_apart_from_silence(
    online: hub_server.Hub, refusal: tuple[int, str], words: str
) -> None:
    online.refusal = refusal
    with pytest.raises(hub.HubError, match=words) as caught:
        hub.load_model_config("hf-hub:timm/x")
    one_line(caught.value)
    online.refusal = (503, "")
    with pytest.raises(hub.HubUnreachableError, match="503"):
        hub.load_model_config("hf-hub:timm/x")


def test_an_unknown_revision_is_named(online: hub_server.Hub) -> None:
    with pytest.raises(hub.HubError, match="no revision 'v9'") as caught:
        hub.load_model_config("hf-hub:timm/x@v9")
    one_line(caught.value)


def test_a_download_that_breaks_off_is_one_line_and_no_file(
    online: hub_server.Hub, tmp_path: Path
) -> None:
    online.cut = True
    with pytest.raises(hub.HubUnreachableError, match="the whole of") as caught:
        hub.weights_path("hf-hub:timm/x", filename="pytorch_model.bin")
    one_line(caught.value)
    online.cut = False
    path = hub.weights_path("hf-hub:timm/x", filename="pytorch_model.bin")
    assert Path(path).read_bytes() == b"weights"


ASK = """
from vitpool import hub
print(hub.load_model_config("hf-hub:timm/x")[0])
"""


@pytest.mark.parametrize(
    ("variables", "token"),
    [
        ({"HF_TOKEN": "hf_secret"}, "Bearer hf_secret"),
        ({"HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, None),
    ],
)
def test_the_environment_is_huggingface_hub_s(
    online: hub_server.Hub, tmp_path: Path, variables: dict, token: str | None
) -> None:
    """HF_ENDPOINT, HF_HOME, HF_TOKEN and whom it is sent to, in a new process."""
    home = tmp_path / "home"
    env = {**os.environ, "HF_HOME": str(home), **variables}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=env, capture_output=True, text=True
    )
    assert done.stdout.strip() == "vit_tiny_patch16_224", done.stderr
    assert set(online.tokens) == {token}
    assert list((home / "hub").glob("models--timm--x/snapshots/*/config.json"))


def test_without_huggingface_hub_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub") as caught:
        hub.load_model_config("hf-hub:timm/x")
    one_line(caught.value)
