# SPDX-License-Identifier: Apache-2.0
"""Train vit_digits, the small model that ships inside vitpool.

Data: scikit-learn's 1,797 labelled digits, real scans of 8x8 values 0..16 (UCI,
Optical Recognition of Handwritten Digits). A stratified fifth is held out: nothing is
trained on it and nothing is chosen by it. The rest is the training share.

    python tools/train_digits.py              train, measure, write the model's folder
    python tools/train_digits.py --validate   train on 4/5 of the training share and
                                              measure on its last fifth; writes nothing.
                                              Settings are chosen with this alone
    python tools/train_digits.py --check      measure the written files again

Needs torch, timm, scikit-learn, pillow and safetensors. The same machine gives the same
weights each time (one thread, fixed seeds); another may differ in the last bits.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from import_timm import timm  # noqa: F401 - the first import of it
from PIL import Image
from safetensors.torch import load_file, save
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timm.data import create_transform, resolve_data_config
from timm.models.vision_transformer import VisionTransformer

FOLDER = Path(__file__).resolve().parent.parent / "vitpool" / "models" / "vit_digits"

SPLIT_SEED = 0
TRAIN_SEED = 0
ENLARGE = 12  # 8x8 scans become 96x96 pictures that people can see

EPOCHS = 100
WARMUP_EPOCHS = 5
BATCH = 32
PEAK_LR = 2e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.05
# How far a training scan is redrawn, each way.
TURN_DEGREES = 12
SHEAR = 0.15
SCALE = 0.1
SHIFT = 0.125  # of half the picture's width: half a pixel of the scan

# What differs from timm's VisionTransformer defaults. A patch of 4 in a picture of 32
# is one pixel of the 8x8 scan, so the pool's attention map is a map of the scan.
MODEL_ARGS: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 4,
    "num_classes": 10,
    "global_pool": "map",
    "embed_dim": 64,
    "depth": 3,
    "num_heads": 4,
    "class_token": False,
}
PRETRAINED_CFG: dict[str, Any] = {
    "num_classes": 10,
    "input_size": [3, 32, 32],
    "pool_size": None,
    "fixed_input_size": True,
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "first_conv": "patch_embed.proj",
    "classifier": "head",
    "license": "apache-2.0",
}


def picture(scan: np.ndarray) -> Image.Image:
    """An 8x8 scan (0 paper, 16 ink) as an 8-bit grey picture, dark ink on white."""
    grey = 255 - np.rint(scan * (255 / 16)).astype(np.uint8)
    return Image.fromarray(grey.repeat(ENLARGE, 0).repeat(ENLARGE, 1))


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def decoded(files: list[bytes]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(f)) for f in files]


def model_inputs(images: list[Image.Image], cfg: dict[str, Any]) -> torch.Tensor:
    """What timm's evaluation pipeline makes of pictures: (n, 3, 32, 32) float32."""
    transform = create_transform(**resolve_data_config(pretrained_cfg=cfg))
    return torch.stack([transform(image.convert("RGB")) for image in images])


def redrawn(scans: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Each scan turned, scaled, sheared, shifted and inked a little differently.

    In and out (n, 8, 8), values 0..16. The warp runs on a 32x32 grid whose 4x4 cells
    are then averaged, as the scans themselves were made: one grey a cell, as theirs.
    """

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(len(scans), generator=rng) * 2 - 1) * limit

    angle, shear = uniform(math.radians(TURN_DEGREES)), uniform(SHEAR)
    scale_x, scale_y = 1 + uniform(SCALE), 1 + uniform(SCALE)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * scale_x, (shear - sin) * scale_y, uniform(SHIFT)], 1),
        torch.stack([sin * scale_x, cos * scale_y, uniform(SHIFT)], 1),
    ]
    fine = F.interpolate(scans[:, None], scale_factor=4, mode="bicubic")
    grid = F.affine_grid(torch.stack(rows, 1), list(fine.shape), align_corners=False)
    fine = F.grid_sample(fine, grid, align_corners=False)  # outside is 0, paper
    coarse = F.avg_pool2d(fine, 4)[:, 0]
    gain = 1.1 + uniform(0.15)  # more than 1, since the warp blurs
    return (coarse * gain[:, None, None]).clamp(0, 16)


def train(scans: torch.Tensor, y: torch.Tensor) -> VisionTransformer:
    """Fit a fresh model to scans (n, 8, 8), y (n,), for a fixed number of epochs.

    Each epoch draws every scan anew and takes it through timm's evaluation pipeline, so
    the model sees what it will see in use, as dark ink on white or, for half of the
    pictures, as white on black.
    """
    torch.manual_seed(TRAIN_SEED)
    rng = torch.Generator().manual_seed(TRAIN_SEED)
    model = VisionTransformer(**MODEL_ARGS, weight_init="jax")
    # A patch is one pixel of the scan, so where it is says as much as how dark it is.
    # With timm's default start (positions and weights at 0.02) learning hardly begins.
    torch.nn.init.trunc_normal_(model.pos_embed, std=2.0)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim in (2, 4)]},
        # biases, norms, positions and the pool's latent
        {"params": [p for p in parameters if p.ndim in (1, 3)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
    per_epoch = math.ceil(len(scans) / BATCH)
    warmup, total = WARMUP_EPOCHS * per_epoch, EPOCHS * per_epoch

    def lr_factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)
    model.train()
    for epoch in range(1, EPOCHS + 1):
        losses = []
        drawn = [picture(scan) for scan in redrawn(scans, rng).numpy()]
        x = model_inputs(drawn, PRETRAINED_CFG)
        # Mean and deviation are 0.5, so that a sign swaps black and white.
        x *= torch.randint(0, 2, (len(x), 1, 1, 1), generator=rng) * 2 - 1
        for batch in torch.randperm(len(x), generator=rng).split(BATCH):
            logits = model(x[batch])
            loss = F.cross_entropy(logits, y[batch], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if epoch % 10 == 0:
            print(f"epoch {epoch:3d}  loss {np.mean(losses):.4f}", flush=True)
    return model.eval()


@torch.inference_mode()
def count_right(model: VisionTransformer, x: torch.Tensor, y: torch.Tensor) -> int:
    return int((model(x).argmax(1) == y).sum())


def percent(right: int, count: int) -> str:
    return f"{right} of {count} right, {100 * right / count:.2f} %"


def write(model: VisionTransformer, right: int, count: int) -> None:
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    FOLDER.mkdir(parents=True, exist_ok=True)
    # save and write, since save_file makes a file that only its owner may read.
    packed = save(weights, metadata={"format": "pt"})
    (FOLDER / "model.safetensors").write_bytes(packed)
    config = {
        "architecture": "vit_digits",
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": model.global_pool,
        "label_names": [str(digit) for digit in range(10)],
        "model_args": MODEL_ARGS,
        "pretrained_cfg": PRETRAINED_CFG,
        "metrics": {
            "data": "scikit-learn load_digits, the held-out stratified fifth",
            "split_seed": SPLIT_SEED,
            "held_out_count": count,
            "held_out_right": right,
            "held_out_accuracy": round(right / count, 4),
        },
    }
    (FOLDER / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def sample_paths() -> list[Path]:
    return [FOLDER / "samples" / f"digit_{digit}.png" for digit in range(10)]


def check(files: list[bytes], labels: torch.Tensor) -> None:
    """Load the written folder as a stranger would and measure it on the held-out."""
    config = json.loads((FOLDER / "config.json").read_text())
    model = VisionTransformer(**config["model_args"]).eval()
    model.load_state_dict(load_file(FOLDER / "model.safetensors"))
    cfg = config["pretrained_cfg"]

    right = count_right(model, model_inputs(decoded(files), cfg), labels)
    print(f"held-out fifth: {percent(right, len(labels))}")
    if right != config["metrics"]["held_out_right"]:
        raise SystemExit("config.json states another number of right answers")
    samples = model_inputs([Image.open(p) for p in sample_paths()], cfg)
    with torch.inference_mode():
        probabilities = model(samples).softmax(1)
    for path, row in zip(sample_paths(), probabilities, strict=True):
        print(f"{path.name}: {int(row.argmax())} ({float(row.max()):.3f})")
    if probabilities.argmax(1).tolist() != list(range(10)):
        raise SystemExit("a sample picture gets a wrong label")
    sizes = [p.stat().st_size for p in sorted(FOLDER.rglob("*")) if p.is_file()]
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters, {len(sizes)} files, {sum(sizes)} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--validate", action="store_true", help="measure the settings")
    mode.add_argument("--check", action="store_true", help="measure the written files")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    started = time.perf_counter()

    digits = load_digits()
    scans, labels = digits.images, digits.target
    files = [png_bytes(picture(scan)) for scan in scans]
    y = torch.from_numpy(labels)
    train_ids, held_out_ids = train_test_split(
        np.arange(len(y)), test_size=0.2, stratify=labels, random_state=SPLIT_SEED
    )
    held_out_ids.sort()
    held_out_files = [files[i] for i in held_out_ids]
    if args.check:
        check(held_out_files, y[held_out_ids])
        return

    if args.validate:
        fit_ids, measure_ids = train_test_split(
            train_ids,
            test_size=0.2,
            stratify=labels[train_ids],
            random_state=SPLIT_SEED,
        )
    else:
        fit_ids, measure_ids = train_ids, held_out_ids
    model = train(torch.from_numpy(scans[fit_ids]).float(), y[fit_ids])
    x = model_inputs(decoded([files[i] for i in measure_ids]), PRETRAINED_CFG)
    right = count_right(model, x, y[measure_ids])
    swapped = count_right(model, -x, y[measure_ids])
    name = "validation part" if args.validate else "held-out fifth"
    print(f"{name}: {percent(right, len(x))}")
    print(f"the same, white ink on black: {percent(swapped, len(x))}")
    if not args.validate:
        write(model, right, len(x))
        # A rule, not a choice: the first held-out scan of each digit.
        for digit, path in enumerate(sample_paths()):
            path.parent.mkdir(exist_ok=True)
            first = next(i for i in held_out_ids if labels[i] == digit)
            path.write_bytes(files[first])
        check(held_out_files, y[held_out_ids])
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
