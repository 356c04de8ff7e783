# SPDX-License-Identifier: Apache-2.0
"""A new process from `import numpy` to the first logits, once.

    python -m benchmarks.coldstart ENGINE SPEC_JSON DIR THREADS

Prints JSON: seconds beyond `import numpy` (the engine's import, reading its own file,
the first output of one picture), and the process's peak memory in bytes, before and
after, and what is resident then. onnxruntime and OpenVINO start from the files they
were exported to.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from .engines import ENGINES, OnnxRuntime
from .worker import memory, peak_memory, pictures


def main(argv: list[str]) -> None:
    engine, spec, files, threads = argv[0], json.loads(argv[1]), argv[2], int(argv[3])
    x = pictures(1, spec["image"])
    before = peak_memory()
    start = time.perf_counter()
    loaded = ENGINES[engine](spec, Path(files), threads)
    if isinstance(loaded, OnnxRuntime):  # a cold start does not try two files
        loaded.files = dict(list(loaded.files.items())[:1])
    loaded.prepare(x)()
    out = {
        "seconds": time.perf_counter() - start,
        "before": before,
        "peak": peak_memory(),
        "resident": memory("VmRSS"),
        "version": loaded.version,
    }
    print(json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1:])
