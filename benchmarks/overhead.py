# SPDX-License-Identifier: Apache-2.0
"""What a call costs beside its arithmetic, and what two callers get. vitpool alone.

    python -m benchmarks.overhead

Prints JSON: the time of one call of a one-block model of width 8 with four patches; the
throughput of two Python threads, each with a ViT-Ti of its own, over that of one; and
images per second of ViT-B at batch 1 and batch 32.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from typing import Any

import numpy as np

from .worker import timed


def per_call() -> dict[str, float]:
    """Microseconds of a call of a model that has next to nothing to compute."""
    import vitpool

    model = vitpool.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1, num_classes=2
    )
    x = np.zeros((1, 3, 8, 8), np.float32)
    out = {}
    for threads in (1, 2):
        vitpool.set_num_threads(threads)
        timed(lambda: model(x), 0.1, 10**6)
        times = timed(lambda: model(x), 0.5, 10**6)
        out[f"min_us_{threads}"] = 1e6 * min(times)
        out[f"median_us_{threads}"] = 1e6 * statistics.median(times)
    return out


def two_callers(seconds: float = 2.0) -> dict[str, float]:
    """Calls a second of one Python thread, and of two together, by pool size."""
    import vitpool

    models = [vitpool.create_model("vit_tiny_patch16_224", seed=i) for i in (0, 1)]
    x = np.zeros((1, 3, 224, 224), np.float32)

    def rate(callers: int) -> float:
        counts = [0] * callers
        end = time.perf_counter() + seconds

        def work(i: int) -> None:
            while time.perf_counter() < end:
                models[i](x)
                counts[i] += 1

        threads = [threading.Thread(target=work, args=(i,)) for i in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / seconds

    out = {}
    for threads in (1, 2):
        vitpool.set_num_threads(threads)
        models[0](x), models[1](x)
        out[f"one_caller_{threads}"] = max(rate(1) for _ in range(2))
        out[f"two_callers_{threads}"] = max(rate(2) for _ in range(2))
    return out


def batch_rates(name: str = "vit_base_patch16_224") -> dict[str, float]:
    """Images a second at batch 1 and at batch 32, two threads, interleaved."""
    import vitpool

    vitpool.set_num_threads(2)
    model = vitpool.create_model(name, seed=0)
    one = np.zeros((1, 3, 224, 224), np.float32)
    many = np.zeros((32, 3, 224, 224), np.float32)
    model(one), model(many)
    best = {1: 0.0, 32: 0.0}
    for _ in range(3):
        best[32] = max(best[32], 32 / min(timed(lambda: model(many), 0, 1)))
        best[1] = max(best[1], 1 / min(timed(lambda: model(one), 2.0, 20)))
    return {"batch_1": best[1], "batch_32": best[32], "ratio": best[1] / best[32]}


def main() -> None:
    out: dict[str, Any] = {
        "per_call": per_call(),
        "callers": two_callers(),
        "images_per_second": batch_rates(),
    }
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
