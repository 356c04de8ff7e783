# SPDX-License-Identifier: Apache-2.0
"""The command against timm itself: one checkpoint, one picture, the same answer.

And the way back: what `save_pretrained` writes, timm loads and computes the same.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import prepare  # noqa: F401
import pytest
import skimage
import sklearn.datasets
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

import vitpool
from vitpool import cli, hub

FOLDERS = (Path(skimage.__file__).parent, Path(sklearn.datasets.__file__).parent)
PICTURES = [
    FOLDERS[0] / "data" / "chelsea.png",
    FOLDERS[0] / "data" / "camera.png",
    FOLDERS[0] / "data" / "rocket.jpg",
    FOLDERS[0] / "data" / "logo.png",
    FOLDERS[1] / "images" / "china.jpg",
]


def checkpoint(folder: Path, name: str, **options: object) -> torch.nn.Module:
    """A random model of timm's, made decisive, saved as timm saves."""
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    with torch.no_grad():
        # random weights tell all classes alike: make the logits differ by several units
        model.head.weight.normal_(std=0.5)
    save_for_hf(model, folder, safe_serialization=True)
    return model


def theirs(model: torch.nn.Module, picture: Path) -> np.ndarray:
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config)
    with torch.inference_mode():
        image = Image.open(picture).convert("RGB")
        return model(transform(image)[None]).softmax(-1)[0].numpy()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_384", {"num_classes": 7}),
        ("vit_base_patch16_siglip_224", {"depth": 2, "num_classes": 1000}),
        ("vit_small_patch14_dinov2", {"depth": 2, "num_classes": 11, "img_size": 98}),
        ("vit_small_patch14_reg4_dinov2", {"depth": 1, "num_classes": 3,
                                           "img_size": 98}),
    ],
)  # fmt: skip
def test_classify_prints_timms_classes_and_probabilities(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str, options: dict
) -> None:
    model = checkpoint(tmp_path, name, **options)
    # timm's own transform follows its config; give both the size the model has
    size = model.patch_embed.img_size
    model.pretrained_cfg["input_size"] = (3, *size)
    argv = ["classify", *map(str, PICTURES), "-m", str(tmp_path), "--json"]
    assert cli.main([*argv, "--topk", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, picture in zip(lines, PICTURES, strict=True):
        expected = theirs(model, picture)
        order = np.argsort(-expected, kind="stable")[:5]
        classes = json.loads(line)["classes"]
        assert [c["index"] for c in classes] == order.tolist()
        got = [c["prob"] for c in classes]
        np.testing.assert_allclose(got, expected[order], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"num_classes": 9, "global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"img_size": 64, "in_chans": 1, "num_classes": 2}),
        ("vit_base_patch16_siglip_224", {"depth": 1}),
        ("vit_base_patch16_clip_224", {"depth": 1}),
        ("vit_small_patch14_reg4_dinov2", {"depth": 1, "img_size": 56}),
        ("vit_giant_patch14_dinov2",
         {"depth": 1, "embed_dim": 96, "num_heads": 3, "img_size": 56}),
        ("vit_tiny_patch16_224", {"dynamic_img_size": True, "num_classes": 0}),
        ("vit_digits", {}),
    ],
)  # fmt: skip
def test_saved_models_are_timms_too(tmp_path: Path, name: str, options: dict) -> None:
    ours = vitpool.create_model(
        name, pretrained=name == "vit_digits", seed=0, **options
    )
    hub.save_pretrained(ours, tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    config = vitpool.resolve_data_config(ours)
    x = np.random.default_rng(0).standard_normal((2, *config["input_size"]), np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x)).numpy()
    result = ours(x)
    assert result.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-5 * scale)
    their_config = timm.data.resolve_model_data_config(model)
    assert {k: tuple(v) if isinstance(v, (list, tuple)) else v
            for k, v in their_config.items()} == config  # fmt: skip


def test_a_changed_head_is_saved_as_it_is(tmp_path: Path) -> None:
    ours = vitpool.create_model("vit_digits", pretrained=True)
    ours.reset_classifier(4, "avg")
    hub.save_pretrained(ours, tmp_path, label_names=["n", "e", "s", "w"])
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert model.pretrained_cfg["label_names"] == ["n", "e", "s", "w"]
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours(x), expected, rtol=1e-4, atol=1e-5)


def run_command(*argv: str, **env: str) -> tuple[subprocess.CompletedProcess, float]:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "vitpool", *argv], capture_output=True, text=True,
        env={**os.environ, **env},
    )  # fmt: skip
    return done, time.monotonic() - start


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_the_hub_one_line_within_five_seconds(tmp_path, offline) -> None:
    # a port that takes connections and never answers: the worst that a network does
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for model in (
            "hf-hub:timm/vit_base_patch16_siglip_224.webli",
            "vit_tiny_patch16_224",
        ):
            for _ in range(3):  # a busy machine starts Python slowly, not always
                done, seconds = run_command(
                    "classify", str(PICTURES[0]), "-m", model, HF_ENDPOINT=address,
                    HF_HUB_OFFLINE=offline, HF_HOME=str(tmp_path), NO_PROXY="127.0.0.1",
                )  # fmt: skip
                if seconds < 5:
                    break
            assert done.returncode == 2
            assert done.stderr.startswith("vitpool: cannot reach http://127.0.0.1")
            assert done.stderr.count("\n") == 1
            assert "local-dir:" in done.stderr
            assert seconds < 5
