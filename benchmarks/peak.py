# SPDX-License-Identifier: Apache-2.0
"""The machine's float32 multiply-add rate, measured."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("fma_peak.c")


class Peak:
    """Measures again and again during a run and remembers the best, by thread count.

    With a C compiler: registers alone, a limit. Without one: NumPy's matmul of 2,048 x
    2,048 in a process of its own, which is a lower bound of the limit; `source` says.
    widest: bits of a vector, at most; with_tiles: AMX's tiles are of interest.
    """

    def __init__(
        self, folder: Path, widest: int = 512, with_tiles: bool = True
    ) -> None:
        self.widest, self.with_tiles = widest, with_tiles
        self.best: dict[int, float] = {}
        self.tiles: dict[int, float] = {}  # float32 by AMX's tiles, where there are any
        self.bits = 0
        self.program = folder / "fma_peak"
        compiler = shutil.which("cc") or shutil.which("gcc")
        self.source = "FMA loop in registers"
        if compiler:
            command = [
                compiler,
                "-O2",
                "-pthread",
                str(SOURCE),
                "-o",
                str(self.program),
            ]
            compiler = None if subprocess.run(command).returncode else compiler
        if not compiler:
            self.source = "matmul of 2,048 x 2,048 (no C compiler: a lower bound)"

    def measure(self, threads: int, seconds: float = 0.3) -> float:
        """GFLOP/s of `threads` threads: the best so far in this run."""
        if self.program.exists():
            command = [str(self.program), str(threads), str(seconds), str(self.widest)]
            out = subprocess.run(command, capture_output=True, text=True, check=True)
            rate, bits, tiles = out.stdout.split()
            self.bits = int(bits)
            if self.with_tiles:
                self.tiles[threads] = max(self.tiles.get(threads, 0.0), float(tiles))
        else:
            rate = self.matmul(threads)
        self.best[threads] = max(self.best.get(threads, 0.0), float(rate))
        return self.best[threads]

    @staticmethod
    def matmul(threads: int) -> str:
        code = f"""
import os
for name in ("OMP", "OPENBLAS", "MKL"):
    os.environ[name + "_NUM_THREADS"] = "{threads}"
import time, numpy as np
a = np.ones((2048, 2048), np.float32)
best = 1e9
for _ in range(6):
    start = time.perf_counter(); a @ a; best = min(best, time.perf_counter() - start)
print(2 * 2048**3 / best / 1e9)
"""
        command = [sys.executable, "-c", code]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        return out.stdout
