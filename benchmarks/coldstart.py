# SPDX-License-Identifier: Apache-2.0
"""A new process from `import numpy` to the first logits, once.

    python -m benchmarks.coldstart ENGINE SPEC_JSON DIR THREADS

Prints JSON: seconds beyond `import numpy` (the engine's import, reading its own file,
the first output of one picture), and the process's peak memory in bytes, before and
after. onnxruntime and OpenVINO start from the files they were exported to.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .engines import ENGINES, Call, OnnxRuntime
from .worker import peak_memory, pictures


class OnnxRuntimeOnce(OnnxRuntime):
    """The exported file alone: a cold start does not try two."""

    def prepare(self, x: np.ndarray) -> Call:
        session = self.session(self.files["as exported"], len(x))
        return lambda: session.run(None, {"x": x})[0]


def main(argv: list[str]) -> None:
    engine, spec, files, threads = argv[0], json.loads(argv[1]), argv[2], int(argv[3])
    x = pictures(1, spec["image"])
    before = peak_memory()
    start = time.perf_counter()
    cls: Any = OnnxRuntimeOnce if engine == "onnxruntime" else ENGINES[engine]
    loaded = cls(spec, Path(files), threads)
    loaded.prepare(x)()
    out = {
        "seconds": time.perf_counter() - start,
        "before": before,
        "peak": peak_memory(),
        "version": loaded.version,
    }
    print(json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1:])
