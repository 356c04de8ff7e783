# SPDX-License-Identifier: Apache-2.0
"""Train vit_digits, the small model that ships inside vitpool, with vitpool itself.

Data: scikit-learn's 1,797 labelled digits, real scans of 8x8 values 0..16 (UCI,
Optical Recognition of Handwritten Digits). A stratified fifth is held out: nothing is
trained on it and nothing is chosen by it. The rest is the training share.

    python tools/train_digits.py              train, measure, write the model's folder
    python tools/train_digits.py --validate   train on 4/5 of the training share and
                                              measure on its last fifth; writes nothing.
                                              Settings are chosen with this alone
    python tools/train_digits.py --check      measure the written files again

Needs scikit-learn, for its digits. The same machine gives the same weights each time,
on any number of threads; another may differ in the last bits.
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
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import vitpool
from vitpool.model import PlainViT
from vitpool.train import Trainer
from vitpool.transforms import Transform, create_transform, preprocess

FOLDER = Path(__file__).resolve().parent.parent / "vitpool" / "models" / "vit_digits"

SPLIT_SEED = 0
TRAIN_SEED = 0
ENLARGE = 12  # 8x8 scans become 96x96 pictures that people can see

EPOCHS = 150
# How far a training scan is redrawn, each way.
TURN_DEGREES = 12
SHEAR = 0.15
SCALE = 0.1
SHIFT = 0.125  # of half the picture's width: half a pixel of the scan
FINE = 4  # cells a side that a pixel of the scan has while it is warped

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
GREY: dict[str, Any] = {"input_size": (1, 32, 32), "mean": 0.5, "std": 0.5}

Float32 = NDArray[np.float32]


def picture(scan: NDArray[Any]) -> NDArray[np.uint8]:
    """An 8x8 scan (0 paper, 16 ink) as an 8-bit grey picture, dark ink on white."""
    grey = 255 - np.rint(scan * (255 / 16)).astype(np.uint8)
    return grey.repeat(ENLARGE, 0).repeat(ENLARGE, 1)


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def evaluation() -> Transform:
    """What the written model takes: float32 (3, 32, 32) of a picture."""
    return create_transform(**vitpool.resolve_data_config(PRETRAINED_CFG))


def redrawn(scan: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float32]:
    """A scan turned, scaled, sheared, shifted and inked a little differently.

    In and out (8, 8), values 0..16. The warp runs on a 32x32 grid whose 4x4 cells are
    then averaged, as the scans themselves were made: one grey a cell, as theirs.
    """
    limits = (math.radians(TURN_DEGREES), SHEAR, SCALE, SCALE, SHIFT, SHIFT, 0.15)
    angle, shear, *scales, right, down, ink = rng.uniform(-1, 1, len(limits)) * limits
    cos, sin = math.cos(angle), math.sin(angle)
    scale_x, scale_y = (1 + scale for scale in scales)
    side = scan.shape[0] * FINE
    # Where a cell of the result comes from; the middle of the picture is (0, 0).
    a, b = cos * scale_x, (shear - sin) * scale_y
    d, e = sin * scale_x, cos * scale_y
    c, f = (
        side / 2 * (1 + move - p - q) for move, p, q in ((right, a, b), (down, d, e))
    )
    fine = Image.fromarray(scan.astype(np.float32)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    fine = fine.transform(  # outside is 0, paper
        fine.size, Image.Transform.AFFINE, (a, b, c, d, e, f),
        resample=Image.Resampling.BILINEAR,
    )  # fmt: skip
    coarse = np.asarray(fine).reshape(-1, FINE, side // FINE, FINE).mean((1, 3))
    gain = 1.1 + ink  # more than 1, since the warp blurs
    return (coarse * np.float32(gain)).clip(0, 16)


class Redrawn:
    """Training scans (n, 8, 8), drawn anew each epoch, as the model's input.

    Each goes through the evaluation's transform, so that the model sees what it will
    see in use, as dark ink on white or, for half of the pictures, as white on black.
    """

    def __init__(self, scans: NDArray[Any]) -> None:
        self.scans = scans
        # A grey picture's three channels are alike: one is made, and given thrice.
        self.transform = create_transform(**{**evaluation().options, **GREY})

    def __len__(self) -> int:
        return len(self.scans)

    def batch(self, indices: Any, epoch: int, seed: int) -> Float32:
        """Some of them, (B, 3, 32, 32); what is drawn is the place's and epoch's."""
        return np.stack([self._drawn(int(i), epoch, seed) for i in indices])

    def _drawn(self, index: int, epoch: int, seed: int) -> Float32:
        rng = np.random.default_rng([seed, epoch, index])
        x = self.transform(picture(redrawn(self.scans[index], rng)))
        # Mean and deviation are 0.5, so that a sign swaps black and white.
        return (-x if rng.random() < 0.5 else x).repeat(3, 0)


def train(scans: NDArray[Any], y: NDArray[Any]) -> vitpool.VisionTransformer:
    """Fit a fresh model to scans (n, 8, 8), y (n,), for a fixed number of epochs."""
    model = vitpool.VisionTransformer(**MODEL_ARGS, weight_init="jax", seed=TRAIN_SEED)
    # A patch is one pixel of the scan, so where it is says as much as how dark it is.
    # With timm's default start (positions and weights at 0.02) learning hardly begins.
    shape = model.param_shapes()["pos_embed"]
    model.pos_embed = np.random.default_rng(TRAIN_SEED).uniform(-2, 2, shape)
    trainer = Trainer(
        model,
        "all",
        optimizer="adamw",
        lr=2e-3,
        weight_decay=0.05,
        layer_decay=1.0,
        warmup=5,
        schedule="cosine",
        epochs=EPOCHS,
        batch_size=32,
        clip_grad=1.0,
        label_smoothing=0.05,
        seed=TRAIN_SEED,
    )

    def told(_: Trainer, row: dict[str, Any]) -> None:
        if row["epoch"] % 10 == 0:
            print(f"epoch {row['epoch']:3d}  loss {row['loss']:.4f}", flush=True)

    trainer.fit(Redrawn(scans), y, progress=False, callbacks=[told])
    return model


def count_right(model: PlainViT, x: Float32, y: NDArray[Any]) -> int:
    return int((model(x).argmax(1) == y).sum())


def percent(right: int, count: int) -> str:
    return f"{right} of {count} right, {100 * right / count:.2f} %"


def write(model: vitpool.VisionTransformer, right: int, count: int) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    # save and write, since save_file makes a file that only its owner may read.
    packed = save(model.state_dict(), metadata={"format": "pt"})
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


def check(files: list[bytes], labels: NDArray[Any]) -> None:
    """Load the written folder as a stranger would and measure it on the held-out."""
    config = json.loads((FOLDER / "config.json").read_text())
    model = vitpool.create_model(f"local-dir:{FOLDER}", pretrained=True)

    right = count_right(model, preprocess(files, model), labels)
    print(f"held-out fifth: {percent(right, len(labels))}")
    if right != config["metrics"]["held_out_right"]:
        raise SystemExit("config.json states another number of right answers")
    samples = model.classify(sample_paths(), topk=1)
    for path, [best] in zip(sample_paths(), samples, strict=True):
        print(f"{path.name}: {best.label} ({best.probability:.3f})")
    if [best.label for [best] in samples] != [str(digit) for digit in range(10)]:
        raise SystemExit("a sample picture gets a wrong label")
    sizes = [p.stat().st_size for p in sorted(FOLDER.rglob("*")) if p.is_file()]
    parameters = sum(array.size for array in model.state_dict().values())
    print(f"{parameters} parameters, {len(sizes)} files, {sum(sizes)} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--validate", action="store_true", help="measure the settings")
    mode.add_argument("--check", action="store_true", help="measure the written files")
    args = parser.parse_args()
    started = time.perf_counter()

    digits = load_digits()
    scans, labels = digits.images, digits.target
    files = [png_bytes(picture(scan)) for scan in scans]
    train_ids, held_out_ids = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=SPLIT_SEED
    )
    held_out_ids.sort()
    held_out_files = [files[i] for i in held_out_ids]
    if args.check:
        check(held_out_files, labels[held_out_ids])
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
    model = train(scans[fit_ids], labels[fit_ids])
    x = preprocess([files[i] for i in measure_ids], evaluation())
    right = count_right(model, x, labels[measure_ids])
    swapped = count_right(model, -x, labels[measure_ids])
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
        check(held_out_files, labels[held_out_ids])
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
