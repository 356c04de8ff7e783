# SPDX-License-Identifier: Apache-2.0
"""The engines, a file for each dtype, and ENGINES, their only list.

An engine is a class: it loads the exported files of one model once, and `prepare(x)`
gives a call without arguments that returns the output as a NumPy array of float32. What
it is imports only itself, so that a worker process holds one engine. What a class says
of itself:

dtype      that of its products, by vitpool's name
modules    the imports that tell whether the engine is there
needs      what export.py writes for it, in this order
reads      the files that hold the weights it starts from
switches   the environment variables of targets.py that cap its instructions
reach      what the switches do not reach, in words
least      the least target at which it is an engine of its own, and `below`: what it is
           on lesser ones
"""

from __future__ import annotations

from typing import Any

from . import bfloat16, float32, int8
from .float32 import Call, Engine, OnnxRuntime, TorchCompile, import_timm

__all__ = ["AUTOTUNE", "DTYPES", "ENGINES", "NOT_FLOAT32"]
__all__ += ["Call", "Engine", "OnnxRuntime", "TorchCompile", "import_timm"]

# Compiling with max-autotune takes minutes for each shape, so that one model tells.
AUTOTUNE = "torch.compile max-autotune"
ENGINES: dict[str, type[Any]] = {
    "vitpool": float32.Vitpool,
    "torch": float32.Torch,
    "torch.compile": float32.TorchCompile,
    AUTOTUNE: float32.TorchCompileAutotune,
    "zentorch": float32.ZenTorch,
    "onnxruntime": float32.OnnxRuntime,
    "openvino": float32.OpenVino,
    "litert": float32.LiteRt,
    "executorch": float32.ExecuTorch,
    "vitpool bfloat16": bfloat16.VitpoolBfloat16,
    "vitpool float16": bfloat16.VitpoolFloat16,
    "torch autocast": bfloat16.Autocast,
    "torch bfloat16": bfloat16.Bfloat16,
    "torch.compile autocast": bfloat16.TorchCompileAutocast,
    "zentorch bfloat16": bfloat16.ZenTorchBfloat16,
    "openvino bf16": bfloat16.OpenVinoBfloat16,
    "vitpool int8": int8.VitpoolInt8,
    "onnxruntime dynamic": int8.OnnxRuntimeDynamic,
    "onnxruntime static": int8.OnnxRuntimeStatic,
    "openvino nncf": int8.OpenVinoNncf,
    "openvino nncf f32": int8.OpenVinoNncfFloat32,
    "torchao": int8.TorchAo,
    "litert dynamic": int8.LiteRtDynamic,
}
# By dtype, what takes part.
DTYPES = {
    dtype: [name for name, engine in ENGINES.items() if engine.dtype == dtype]
    for dtype in ("float32", "bfloat16", "int8")
}
# Held against timm's output as the others are, and too far from it to be timed as
# float32: the difference at the highest precision that they have.
NOT_FLOAT32 = {"MNN": 3e-4, "ncnn": 8e-3}
