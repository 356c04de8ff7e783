# SPDX-License-Identifier: Apache-2.0
"""Each engine, set up as its own documentation advises for CPU inference in float32."""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], np.ndarray]

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def import_timm() -> Any:
    """timm, also where torchvision's compiled operators do not load beside torch."""
    if str(TOOLS) not in sys.path:
        sys.path.append(str(TOOLS))
    from import_timm import timm

    return timm


class Engine:
    """What all have in common; `version` and `setup` are of an object."""

    dtype = "float32"
    modules: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ("model.safetensors",)
    switches: tuple[str, ...] = ()
    reach = ""
    least, below = "baseline", ""
    version: str
    setup: str

    def prepare(self, x: np.ndarray) -> Call:
        """A call that gives the output for these pictures; it may be built here."""
        raise NotImplementedError


class Vitpool(Engine):
    """From the safetensors file, by timm's name."""

    modules = ("vitpool",)
    switches = ("VITPOOL_TARGET",)

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


class Torch(Engine):
    """timm's module under inference_mode."""

    modules = ("torch", "timm")
    switches = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
    # On a Zen 4 products run in mkl_blas_def_sgemm_kernel_0_zen, whatever the switch.
    reach = "on AMD's CPUs MKL heeds no switch, and runs AVX2"

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
        model, tensor = self.ready(), self.torch.from_numpy(x)

        def call() -> np.ndarray:
            with self.torch.inference_mode():
                return model(tensor).numpy()

        return call

    def ready(self) -> Any:
        """What a call runs: the module."""
        return self.model


class TorchCompile(Torch):
    """torch.compile with frozen weights, as the documentation has it for the CPU.

    Inductor's own vectors (`cpp.simdlen`) follow ATEN_CPU_CAPABILITY.
    """

    backend, mode = "inductor", "default"

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        super().__init__(spec, files, threads)
        import torch._inductor.config as inductor

        inductor.freezing = True  # TORCHINDUCTOR_FREEZING=1
        self.setup = f"{self.backend}, mode {self.mode}, freezing, inference_mode"

    def ready(self) -> Any:
        """The compiled module; static shapes: each batch is compiled for itself."""
        self.torch._dynamo.reset()
        return self.compiled()

    def compiled(self) -> Any:
        return self.torch.compile(self.model, mode=self.mode, dynamic=False)


class TorchCompileAutotune(TorchCompile):
    """The same, with the C++ templates of products that inductor tries in this mode."""

    mode = "max-autotune"


class ZenTorch(TorchCompile):
    """AMD's backend of torch.compile."""

    modules = ("torch", "timm", "zentorch")
    reach = "not capped: ZenDNN's own kernels"
    least = "avx512"
    below = "without AVX-512 it leaves all to inductor, which is torch.compile's column"
    backend = "zentorch"

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        super().__init__(spec, files, threads)
        self.version = importlib.metadata.version("zentorch")

    def compiled(self) -> Any:
        import zentorch  # noqa: F401  (registers the backend)

        return self.torch.compile(self.model, backend="zentorch", dynamic=False)


class OnnxRuntime(Engine):
    """Both of the exported file and what onnxruntime.transformers.optimizer made of it
    are tried for each batch, and the faster is kept.
    """

    modules = ("onnxruntime",)
    needs = ("onnxruntime",)
    reads = ("model.onnx",)
    reach = "not capped: MLAS takes the best that the CPU has"

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
        trials = 8 if len(self.files) > 1 else 1
        for name, path in self.files.items():
            session = self.session(path, len(x))
            calls = []
            for _ in range(trials):
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


class OpenVino(Engine):
    """The converted model, LATENCY hint, float32 throughout, shared memory."""

    modules = ("openvino",)
    needs = ("openvino",)
    reads = ("model.xml", "model.bin")
    precision = "f32"  # '' leaves it to the plugin
    switches = ("ONEDNN_MAX_CPU_ISA",)

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        import openvino

        self.core = openvino.Core()
        self.path, self.threads = files / self.reads[0], threads
        self.version = openvino.__version__.split("-")[0]
        self.setup = f"from torch by convert_model, LATENCY, {self.precision}"

    def prepare(self, x: np.ndarray) -> Call:
        model = self.core.read_model(self.path)
        model.reshape(list(x.shape))
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
        }
        if self.precision:
            config["INFERENCE_PRECISION_HINT"] = self.precision
        request = self.core.compile_model(model, "CPU", config).create_infer_request()

        def call() -> np.ndarray:
            return request.infer([x], share_inputs=True, share_outputs=True)[0]

        return call


class LiteRt(Engine):
    """The converted model in the interpreter, whose CPU delegate is XNNPACK."""

    modules = ("litert_torch", "ai_edge_litert")
    needs = ("litert",)
    reads = ("model_1.tflite",)
    form = "model_{}.tflite"  # by batch
    reach = "not capped: XNNPACK takes the best that the CPU has"

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        self.files, self.threads = files, threads
        self.version = importlib.metadata.version("ai-edge-litert")
        self.setup = "by litert_torch.convert, interpreter with XNNPACK"

    def prepare(self, x: np.ndarray) -> Call:
        from ai_edge_litert.interpreter import Interpreter

        path = self.files / self.form.format(len(x))
        interpreter = Interpreter(str(path), num_threads=self.threads)
        interpreter.allocate_tensors()
        given = interpreter.get_input_details()[0]["index"]
        found = interpreter.get_output_details()[0]["index"]

        def call() -> np.ndarray:
            interpreter.set_tensor(given, x)
            interpreter.invoke()
            return interpreter.get_tensor(found)

        return call


class ExecuTorch(Engine):
    """The program that was lowered to XNNPACK, in ExecuTorch's own runtime."""

    modules = ("executorch",)
    needs = ("executorch",)
    reads = ("model_1.pte",)
    reach = LiteRt.reach

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        from executorch.extension.pybindings import portable_lib

        # Its only switch of the number of threads; unsafe while a program runs.
        portable_lib._unsafe_reset_threadpool(threads)
        self.files = files
        self.version = importlib.metadata.version("executorch")
        self.setup = "lowered to XNNPACK, attention in its parts"

    def prepare(self, x: np.ndarray) -> Call:
        import torch
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(self.files / f"model_{len(x)}.pte")
        method = program.load_method("forward")
        tensor = torch.from_numpy(x)
        return lambda: method.execute([tensor])[0].numpy()
