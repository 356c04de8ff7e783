# SPDX-License-Identifier: Apache-2.0
"""Engines in bfloat16, each as its documentation advises; ours in float16 too.

onnxruntime has no CPU kernels of bfloat16's products, and LiteRT and ExecuTorch lower
none to XNNPACK.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .float32 import Call, Engine, OpenVino, Torch, TorchCompile, Vitpool, ZenTorch


class VitpoolSaved(Engine):
    """From the folder that save_pretrained wrote, which holds this dtype's weights."""

    modules = Vitpool.modules
    switches = Vitpool.switches

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        import vitpool

        vitpool.set_num_threads(threads)
        self.model = vitpool.create_model(
            f"local-dir:{files / self.needs[0]}", pretrained=True
        )
        self.version = vitpool.__version__
        self.setup = f"from its folder, dtype {self.model.dtype}"

    def prepare(self, x: np.ndarray) -> Call:
        return lambda: self.model(x)


class VitpoolBfloat16(VitpoolSaved):
    dtype = "bfloat16"
    needs = ("vitpool bfloat16",)
    reads = ("vitpool bfloat16/model.safetensors",)


class VitpoolFloat16(VitpoolSaved):
    """Products of float32, weights of float16: beside bfloat16 for its error."""

    dtype = "bfloat16"
    needs = ("vitpool float16",)
    reads = ("vitpool float16/model.safetensors",)


class Autocast(Torch):
    """torch.autocast over a float32 model, which chooses the dtype of each operation.

    To be named before the class that it changes.
    """

    dtype = "bfloat16"

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        super().__init__(spec, files, threads)
        self.setup += ", autocast to bfloat16"

    def prepare(self, x: np.ndarray) -> Call:
        torch = self.torch
        model, tensor = self.ready(), torch.from_numpy(x)

        def call() -> np.ndarray:
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                return model(tensor).float().numpy()

        return call


class Bfloat16(Torch):
    """The whole module and its pictures in bfloat16."""

    dtype = "bfloat16"

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        super().__init__(spec, files, threads)
        self.model = self.model.bfloat16()
        self.setup += ", model.to(bfloat16)"

    def prepare(self, x: np.ndarray) -> Call:
        torch = self.torch
        model, tensor = self.ready(), torch.from_numpy(x).bfloat16()

        def call() -> np.ndarray:
            with torch.inference_mode():
                return model(tensor).float().numpy()

        return call


class TorchCompileAutocast(Autocast, TorchCompile):
    """Compiled, model.to(bfloat16) is no faster than this, and its error is larger."""


class ZenTorchBfloat16(Bfloat16, ZenTorch):
    """Under autocast its error is smaller, and it is slower."""


class OpenVinoBfloat16(OpenVino):
    dtype = "bfloat16"
    precision = "bf16"
