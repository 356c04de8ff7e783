# SPDX-License-Identifier: Apache-2.0
"""The files of low precision that an engine starts from, as export.py writes those of
float32. Each writer is named after its engine; `QUANTIZED` lists them.

What is calibrated sees CALIBRATION random crops of the photographs. onnxruntime
names no number; NNCF takes 300 of what it is given unless told otherwise.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .photographs import crops

CALIBRATION = 64


def calibration(spec: dict[str, Any]) -> Iterator[NDArray[np.float32]]:
    """Pictures, (1, 3, H, W) each."""
    for picture in crops(spec["image"], CALIBRATION, seed=1):
        yield picture[None]


def _vitpool(dtype: str, spec: dict[str, Any], files: Path) -> None:
    import vitpool

    model = vitpool.create_model(
        spec["timm"], checkpoint_path=files / "model.safetensors", **spec["options"]
    )
    folder = files / f"vitpool {dtype}"
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype).save_pretrained(folder)


def vitpool_bfloat16(model: Any, spec: dict[str, Any], files: Path, _: int) -> None:
    _vitpool("bfloat16", spec, files)


def vitpool_float16(model: Any, spec: dict[str, Any], files: Path, _: int) -> None:
    _vitpool("float16", spec, files)


def vitpool_int8(model: Any, spec: dict[str, Any], files: Path, _: int) -> None:
    """With its default settings: no pictures, and none of the user's choices."""
    _vitpool("int8", spec, files)


def onnxruntime_dynamic(model: Any, spec: dict[str, Any], files: Path, _: int) -> None:
    """Of the file as exported, and of what the transformers optimizer made of it."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for name in ("model", "optimized"):
        quantize_dynamic(
            files / f"{name}.onnx",
            files / f"{name}_dynamic.onnx",
            per_channel=True,
            weight_type=QuantType.QInt8,
            # Shape inference does not know the optimizer's BiasGelu.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


def onnxruntime_static(model: Any, spec: dict[str, Any], files: Path, _: int) -> None:
    """QDQ with S8S8, 'the first choice' of that page, after its preprocessing."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.pictures = calibration(spec)

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self.pictures, None)
            return None if picture is None else {"x": picture}

    ready = files / "preprocessed.onnx"
    quant_pre_process(str(files / "model.onnx"), str(ready), skip_symbolic_shape=True)
    quantize_static(
        ready,
        files / "static.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    ready.unlink()


def openvino_nncf(model: Any, spec: dict[str, Any], files: Path, _: int) -> None:
    import nncf
    import openvino

    read = openvino.Core().read_model(files / "model.xml")
    pictures = list(calibration(spec))
    made = nncf.quantize(
        read,
        nncf.Dataset(pictures),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(pictures),
    )
    openvino.save_model(made, files / "nncf.xml", compress_to_fp16=False)


def litert_dynamic(model: Any, spec: dict[str, Any], files: Path, batch: int) -> None:
    from ai_edge_quantizer import quantizer, recipe

    out = files / f"dynamic_{batch}.tflite"
    out.unlink(missing_ok=True)
    made = quantizer.Quantizer(str(files / f"model_{batch}.tflite"))
    made.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    made.quantize().export_model(str(out))


# For any batch; and for each batch a file of its own.
ANY_BATCH = {
    "vitpool bfloat16": vitpool_bfloat16,
    "vitpool float16": vitpool_float16,
    "vitpool int8": vitpool_int8,
    "onnxruntime dynamic": onnxruntime_dynamic,
    "onnxruntime static": onnxruntime_static,
    "openvino nncf": openvino_nncf,
}
EACH_BATCH = {"litert dynamic": litert_dynamic}
