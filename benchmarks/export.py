# SPDX-License-Identifier: Apache-2.0
"""One timm model with seeded random weights, written out for every engine.

    python -m benchmarks.export SPEC_JSON DIR [ENGINE ...]

model.safetensors for vitpool and torch, model.onnx and optimized.onnx for onnxruntime,
model.xml for OpenVINO. Prints a line for each engine that it could not serve.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from .engines import import_timm


def seeded(spec: dict[str, Any]) -> Any:
    """The timm module; noise on every parameter, so that no bias and no LayerScale is
    at the constant it starts from.
    """
    timm = import_timm()
    import torch

    torch.manual_seed(0)
    model = timm.create_model(spec["timm"], **spec["options"]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def for_onnxruntime(model: Any, spec: dict[str, Any], files: Path) -> None:
    import torch
    from onnxruntime.transformers import optimizer

    path = files / "model.onnx"
    # Opset 17 has LayerNormalization; onnxruntime fuses the exact GELU itself. Opset 23
    # has Attention, but onnxruntime's CPU kernel for it was slower than the parts.
    torch.onnx.export(
        model,
        (torch.zeros(2, 3, spec["image"], spec["image"]),),
        str(path),
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    optimizer.optimize_model(
        str(path),
        model_type="vit",
        num_heads=spec["heads"],
        hidden_size=spec["width"],
    ).save_model_to_file(str(files / "optimized.onnx"))


def for_openvino(model: Any, spec: dict[str, Any], files: Path) -> None:
    import openvino
    import torch

    example = torch.zeros(2, 3, spec["image"], spec["image"])
    converted = openvino.convert_model(model, example_input=example)
    openvino.save_model(converted, files / "model.xml", compress_to_fp16=False)


WRITERS = {"onnxruntime": for_onnxruntime, "openvino": for_openvino}


def main(argv: list[str]) -> None:
    spec, files, engines = json.loads(argv[0]), Path(argv[1]), argv[2:]
    warnings.filterwarnings("ignore")
    model = seeded(spec)
    from safetensors.torch import save_file

    save_file(model.state_dict(), files / "model.safetensors")
    for engine in engines:
        try:
            WRITERS[engine](model, spec, files)
        except Exception as error:  # one engine's trouble is not another's
            print(f"{engine}: export: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
