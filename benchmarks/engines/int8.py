# SPDX-License-Identifier: Apache-2.0
"""Engines in int8, each as its documentation advises for transformers on a CPU.

What needs pictures to calibrate on has been quantised by quantize.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .bfloat16 import VitpoolSaved
from .float32 import LiteRt, OnnxRuntime, OpenVino, TorchCompile


class VitpoolInt8(VitpoolSaved):
    dtype = "int8"
    needs = ("vitpool int8",)
    reads = ("vitpool int8/model.safetensors",)


class OnnxRuntimeDynamic(OnnxRuntime):
    """quantize_dynamic, of both files that OnnxRuntime tries."""

    dtype = "int8"
    modules = ("onnxruntime", "onnx")
    needs = ("onnxruntime", "onnxruntime dynamic")
    reads = ("model_dynamic.onnx",)

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        super().__init__(spec, files, threads)
        self.files = {
            "as exported, quantize_dynamic, per channel": files / self.reads[0],
            "after its transformers optimizer, quantize_dynamic, per channel": files
            / "optimized_dynamic.onnx",
        }


class OnnxRuntimeStatic(OnnxRuntime):
    """quantize_static, QDQ, signed weights and activations, weights by channel."""

    dtype = "int8"
    modules = ("onnxruntime", "onnx")
    needs = ("onnxruntime", "onnxruntime static")
    reads = ("static.onnx",)

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        super().__init__(spec, files, threads)
        self.files = {"quantize_static, QDQ S8S8, per channel": files / self.reads[0]}


class OpenVinoNncf(OpenVino):
    """What nncf.quantize made, at the plugin's own precision for the rest: bfloat16
    where the CPU has it.
    """

    dtype = "int8"
    modules = ("openvino", "nncf")
    needs = ("openvino", "openvino nncf")
    reads = ("nncf.xml", "nncf.bin")
    precision = ""

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        super().__init__(spec, files, threads)
        rest = self.precision or "what the plugin chooses"
        self.setup = f"nncf.quantize, TRANSFORMER, MIXED, LATENCY, the rest in {rest}"


class OpenVinoNncfFloat32(OpenVinoNncf):
    """The same, with float32 for what is not int8."""

    precision = "f32"


class TorchAo(TorchCompile):
    """quantize_ of every Linear, activations by token and dynamic; then inductor."""

    dtype = "int8"
    modules = ("torch", "timm", "torchao")

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        super().__init__(spec, files, threads)
        from torchao.quantization import (
            Int8DynamicActivationInt8WeightConfig,
            quantize_,
        )

        quantize_(self.model, Int8DynamicActivationInt8WeightConfig())
        self.setup = "Int8DynamicActivationInt8WeightConfig, inductor, freezing"


class LiteRtDynamic(LiteRt):
    """The float32 program after ai_edge_quantizer's recipe dynamic_wi8_afp32."""

    dtype = "int8"
    modules = (*LiteRt.modules, "ai_edge_quantizer")
    needs = ("litert", "litert dynamic")
    form = "dynamic_{}.tflite"
    reads = ("dynamic_1.tflite",)

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        super().__init__(spec, files, threads)
        self.setup = "recipe dynamic_wi8_afp32, interpreter with XNNPACK"
