# SPDX-License-Identifier: Apache-2.0
"""What `vitpool embed` costs beside decoding and computing overlapped by hand.

    python -m benchmarks.embedding [--images 10000] [--model vit_tiny_patch16_224]

Makes JPEG pictures, embeds them to Parquet, and does half of them before and half after
by a plain thread pool that decodes a batch ahead, with nothing written. Prints JSON:
pictures a second of both, their ratio, and the process's memory along the way.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .worker import memory

BATCH = 32


def make_pictures(folder: Path, count: int) -> list[str]:
    """JPEG files of 320 x 240, smooth enough to be like photographs in size."""
    from PIL import Image

    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        small = rng.integers(0, 256, (15, 20, 3), np.uint8)
        path = folder / f"{i:06d}.jpg"
        Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC).save(path)
        paths.append(str(path))
    return paths


def by_hand(model: Any, transform: Any, paths: Sequence[str], workers: int) -> float:
    """Seconds for decoding and forward, one batch decoded ahead; vectors are kept."""
    start = time.perf_counter()
    vectors = []
    with ThreadPoolExecutor(workers) as pool:
        batches = [paths[i : i + BATCH] for i in range(0, len(paths), BATCH)]
        ahead = [pool.submit(transform, path) for path in batches[0]]
        for following in [*batches[1:], []]:
            futures, ahead = ahead, [pool.submit(transform, path) for path in following]
            vectors.append(model(np.stack([future.result() for future in futures])))
    assert sum(map(len, vectors)) == len(paths)
    return time.perf_counter() - start


def measure(name: str, count: int) -> dict[str, Any]:
    """The whole comparison."""
    import vitpool
    from vitpool.embed import embed_images
    from vitpool.transforms import default_workers

    model = vitpool.create_model(name, num_classes=0, seed=0)
    transform = vitpool.create_transform(**vitpool.resolve_data_config(model))
    workers = default_workers()
    with tempfile.TemporaryDirectory() as folder:
        paths = make_pictures(Path(folder), count)
        half = count // 2
        by_hand(model, transform, paths[: 4 * BATCH], workers)  # warm
        hand = by_hand(model, transform, paths[:half], workers)
        resident: list[float] = []
        done = 0

        def progress(rows: int) -> None:
            nonlocal done
            done += rows
            if done * 10 // count > len(resident):
                resident.append(round(memory("VmRSS") / 2**20, 1))

        start = time.perf_counter()
        out = Path(folder) / "out"
        summary = embed_images(model, paths, out, batch_size=BATCH, progress=progress)
        embed = time.perf_counter() - start
        assert summary.rows == count
        assert summary.failed == 0
        hand += by_hand(model, transform, paths[half:], workers)
    return {
        "model": name,
        "images": count,
        "by_hand_per_second": round(count / hand, 1),
        "embed_per_second": round(count / embed, 1),
        "ratio": round(hand / embed, 3),
        "memory_mb_at_each_tenth": resident,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    args = parser.parse_args()
    print(json.dumps(measure(args.model, args.images), indent=2))


if __name__ == "__main__":
    main()
