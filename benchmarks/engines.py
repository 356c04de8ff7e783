# SPDX-License-Identifier: Apache-2.0
"""Each engine, set up as its own documentation advises for CPU inference in float32.

An engine is a class: it loads the exported files of one model once, and `prepare(x)`
gives a call without arguments that returns the output as a NumPy array. What it is
imports only itself, so that a worker process holds one engine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .specs import AUTOTUNE

Call = Callable[[], np.ndarray]

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def import_timm() -> Any:
    """timm, also where torchvision's compiled operators do not load beside torch."""
    if str(TOOLS) not in sys.path:
        sys.path.append(str(TOOLS))
    from import_timm import timm

    return timm


class Vitpool:
    """From the safetensors file, by timm's name."""

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        import vitpool

        vitpool.set_num_threads(threads)
        self.model = vitpool.create_model(
            spec["timm"], checkpoint_path=files / "model.safetensors", **spec["options"]
        )
        config = vitpool.show_config()
        self.version = vitpool.__version__
        self.setup = f"{config['micro_kernel']}"

    def prepare(self, x: np.ndarray) -> Call:
        return lambda: self.model(x)


class Torch:
    """timm's module under inference_mode."""

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        timm = import_timm()
        import torch
        from safetensors.torch import load_file

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = timm.create_model(spec["timm"], **spec["options"]).eval()
        self.model.load_state_dict(load_file(files / "model.safetensors"))
        self.version = torch.__version__
        self.setup = "eager, inference_mode"

    def prepare(self, x: np.ndarray) -> Call:
        tensor = self.torch.from_numpy(x)

        def call() -> np.ndarray:
            with self.torch.inference_mode():
                return self.model(tensor).numpy()

        return call


class TorchCompile(Torch):
    """torch.compile with frozen weights, as the documentation has it for the CPU."""

    mode = "default"

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        super().__init__(spec, files, threads)
        import torch._inductor.config as inductor

        inductor.freezing = True  # TORCHINDUCTOR_FREEZING=1
        self.setup = f"inductor, mode {self.mode}, freezing, inference_mode"

    def prepare(self, x: np.ndarray) -> Call:
        torch = self.torch
        torch._dynamo.reset()  # static shapes: each batch is compiled for itself
        model = torch.compile(self.model, mode=self.mode, dynamic=False)
        tensor = torch.from_numpy(x)

        def call() -> np.ndarray:
            with torch.inference_mode():
                return model(tensor).numpy()

        return call


class TorchCompileAutotune(TorchCompile):
    """The same, with the C++ templates of products that inductor tries in this mode."""

    mode = "max-autotune"


class OnnxRuntime:
    """Both of the exported file and what onnxruntime.transformers.optimizer made of it
    are tried for each batch, and the faster is kept.
    """

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        import onnxruntime

        self.ort, self.threads = onnxruntime, threads
        self.files = {
            "as exported": files / "model.onnx",
            "after its transformers optimizer": files / "optimized.onnx",
        }
        self.version = onnxruntime.__version__
        self.setup = ""

    def session(self, path: Path, batch: int) -> Any:
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.execution_mode = self.ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = (
            self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        )
        options.add_free_dimension_override_by_name("batch", batch)
        options.log_severity_level = 3
        return self.ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def prepare(self, x: np.ndarray) -> Call:
        best: tuple[float, Any, str] = (float("inf"), None, "")
        for name, path in self.files.items():
            session = self.session(path, len(x))
            calls = []
            for _ in range(8):
                start = time.perf_counter()
                session.run(None, {"x": x})
                calls.append(time.perf_counter() - start)
                if sum(calls) > 1.5:
                    break
            if min(calls) < best[0]:
                best = min(calls), session, name
        _, session, name = best
        self.setup = f"ORT_ENABLE_ALL, sequential, model {name}"
        return lambda: session.run(None, {"x": x})[0]


class OpenVino:
    """The converted model, LATENCY hint, float32 throughout, shared memory."""

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        import openvino

        self.core = openvino.Core()
        self.path, self.threads = files / "model.xml", threads
        self.version = openvino.__version__.split("-")[0]
        self.setup = "from torch by convert_model, LATENCY, f32"

    def prepare(self, x: np.ndarray) -> Call:
        model = self.core.read_model(self.path)
        model.reshape(list(x.shape))
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = self.core.compile_model(model, "CPU", config).create_infer_request()

        def call() -> np.ndarray:
            return request.infer([x], share_inputs=True, share_outputs=True)[0]

        return call


CLASSES = {
    "vitpool": Vitpool,
    "torch": Torch,
    "torch.compile": TorchCompile,
    AUTOTUNE: TorchCompileAutotune,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
}
# The import that tells whether an engine is there.
MODULES = {
    "vitpool": ("vitpool",),
    "torch": ("torch", "timm"),
    "torch.compile": ("torch", "timm"),
    AUTOTUNE: ("torch", "timm"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}
