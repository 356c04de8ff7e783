# SPDX-License-Identifier: Apache-2.0
"""What `vitpool finetune` leaves is timm's, too: the same folder, the same answers."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import prepare  # noqa: F401
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import shapes

import vitpool
from vitpool import cli

SMALL = {"depth": 2, "num_classes": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.folders(tmp_path_factory.mktemp("shapes") / "train", count=6)


@pytest.mark.parametrize(
    ("name", "options", "argv"),
    [
        ("vit_tiny_patch16_224", {"img_size": 64}, ["--train", "head"]),
        ("vit_tiny_patch16_224", {"img_size": 64}, ["--gp", "map", "--train", "pool"]),
        ("vit_tiny_patch16_224", {"img_size": 64}, ["--gp", "avg", "--train", "1"]),
        ("vit_base_patch16_siglip_224", {"img_size": 64}, ["--train", "pool"]),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 56}, ["--train", "2"]),
        ("vit_small_patch14_dinov2", {"img_size": 56},
         ["--gp", "prr", "--train", "pool", "--smoothing", "0.1"]),
        ("vit_tiny_patch16_224", {"img_size": 64},
         ["--train", "all", "--mixup", "0.2", "--crop-pct", "0.8", "--mean", "0.5"]),
        ("vit_tiny_patch16_224", {"img_size": 64, "in_chans": 1}, ["--train", "pool"]),
    ],
)  # fmt: skip
def test_timm_loads_what_was_trained_and_answers_the_same(
    tmp_path: Path, data: Path, name: str, options: dict, argv: list[str]
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, **SMALL, **options)
    size = (model.patch_embed.proj.in_channels, *model.patch_embed.img_size)
    model.pretrained_cfg["input_size"] = size
    save_for_hf(model, tmp_path / "source", safe_serialization=True)
    out = tmp_path / "out"
    words = ["finetune", data, "-m", tmp_path / "source", "-o", out, "--epochs", "2",
             "-b", "6", "--lr", "0.001", "-q", *argv]  # fmt: skip
    assert cli.main([str(word) for word in words]) == 0

    theirs = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert list(theirs.pretrained_cfg["label_names"]) == [*shapes.CLASSES]
    assert theirs.num_classes == 3
    ours = vitpool.create_model(f"local-dir:{out}", pretrained=True)
    config = timm.data.resolve_model_data_config(theirs)
    transform = timm.data.create_transform(**config)
    mode = "L" if size[0] == 1 else "RGB"
    with open(out / "validation.csv", newline="") as file:
        judged = list(csv.DictReader(file))
    assert len(judged) == 3
    pictures = [Image.open(row["path"]).convert(mode) for row in judged]
    x = torch.stack([transform(picture) for picture in pictures])
    with torch.inference_mode():
        logits = theirs(x)
    np.testing.assert_allclose(ours(x.numpy()), logits, rtol=1e-4, atol=2e-5)
    chances = logits.softmax(-1).numpy()
    for row, chance in zip(judged, chances, strict=True):
        assert shapes.CLASSES[chance.argmax()] == row["predicted"]
        assert chance.max() == pytest.approx(float(row["probability"]), abs=1e-4)
