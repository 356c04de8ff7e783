# SPDX-License-Identifier: Apache-2.0
"""Eva's, Beit's and DeiT's files give the tensors that timm's filters make of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import prepare  # noqa: F401
import published
import pytest
import reference
import timm
import torch
from golden import recipe
from published_families import LAYOUTS, Layout
from timm.models import beit, deit, eva, naflexvit, vision_transformer_hybrid
from timm.models import vision_transformer as vit
from timm.models import vision_transformer_relpos as relpos

import vitpool
from vitpool.checkpoint import (
    Spec,
    build_with_checkpoint,
    convert_state_dict,
)

CLASSES = {
    "Eva": eva.Eva,
    "Beit": beit.Beit,
    "VisionTransformerDistilled": deit.VisionTransformerDistilled,
    "VisionTransformerRelPos": relpos.VisionTransformerRelPos,
    "NaFlexVit": naflexvit.NaFlexVit,
}
FILTERS = {
    "Eva": eva.checkpoint_filter_fn,
    "Beit": beit.checkpoint_filter_fn,
    "VisionTransformerDistilled": vit.checkpoint_filter_fn,
}
OF_TIMM = {name: layout for name, layout in LAYOUTS.items() if layout.of_timm}
# timm does not resize Perception Encoder's positions.
CASES = [
    (name, size)
    for name in OF_TIMM
    for size in (64, 96, (48, 80))
    if size == 64 or not name.startswith("pe ")
]


def timm_model(family: str, options: Mapping[str, Any]) -> Any:
    return CLASSES[family](**reference.timm_options(options)).eval()


def spec_of(family: str, options: Mapping[str, Any]) -> Spec:
    return Spec.from_options(options, {"input_size": (3, 64, 64)}, family=family)


def file_of(layout: Layout) -> dict[str, np.ndarray]:
    """The weights of timm's model of this class, as they are published."""
    model = timm_model(layout.family, layout.options)
    return layout.publish(recipe.weights(reference.shapes(model), seed=1))


@pytest.mark.parametrize(("name", "size"), CASES, ids=str)
def test_layout_converts_to_what_timm_loads(name: str, size: Any) -> None:
    layout = OF_TIMM[name]
    options = dict(layout.options) | {"img_size": size}
    model = timm_model(layout.family, options)
    model.pretrained_cfg = {"input_size": (3, 64, 64)}
    content = file_of(layout)
    state = {key: torch.from_numpy(np.array(value)) for key, value in content.items()}
    want = FILTERS[layout.family](state, model)
    own = set(model.state_dict())
    # What timm's filter leaves in, or does not find: OpenCLIP's projection.
    over = {key for key in want if key.startswith(("mask_", "lm_head.", "cls_pt_"))}
    head = {"head.weight", "head.bias"} if name == "eva02 open_clip" else set()
    assert set(want) - over == own - head
    got = convert_state_dict(content, spec_of(layout.family, options))
    assert set(got) == own
    want = {key: tensor for key, tensor in want.items() if key in own}
    for key, tensor in want.items():
        value = tensor.numpy()
        assert got[key].shape == value.shape, key
        resized = size != 64 and key.endswith(("pos_embed", "bias_table"))
        tolerance = 3e-6 * np.abs(value).max() if resized else 0
        np.testing.assert_allclose(got[key], value, rtol=0, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_gives_timms_outputs(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    theirs = timm_model(layout.family, layout.options)
    state = recipe.weights(reference.shapes(theirs), seed=1)
    content = layout.publish(state)
    if "open_clip" in name or name.startswith("pe "):
        state = {k: v * (k != "head.bias") for k, v in state.items()}
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {k: torch.tensor(v) for k, v in content.items()}}, path)
    ours = build_with_checkpoint(layout.options, None, path, family=layout.family)
    x = recipe.picture((2, 3, 64, 64))
    with torch.no_grad():
        want = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours(x), want, rtol=0, atol=3e-5 * np.abs(want).max())


# NaFlexVit

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
NAFLEX: dict[str, tuple[dict[str, Any], Any]] = {
    "map": ({"class_token": False, "global_pool": "map"}, dict),
    "token": ({"class_token": True, "global_pool": "token"}, dict),
    "registers": (
        {"class_token": True, "reg_tokens": 4, "global_pool": "token"},
        lambda state: state | {"pos_embed": state["pos_embed"][:, 5:]},
    ),
    "radio": (
        {
            "class_token": True,
            "reg_tokens": 3,
            "global_pool": "token",
            "final_norm": False,
        },
        lambda state: published.radio(state | {"pos_embed": state["pos_embed"][:, 4:]}),
    ),
}


@pytest.mark.parametrize("name", NAFLEX)
def test_weights_of_a_vision_transformer_are_timms_in_a_naflexvit(name: str) -> None:
    options, publish = NAFLEX[name]
    stored = vit.VisionTransformer(**SMALL, **options, img_size=64)
    content = publish(recipe.weights(reference.shapes(stored), seed=1))
    ours = SMALL | options | {"pos_embed_grid_size": (4, 4)}
    model = timm_model("NaFlexVit", ours)
    state = {key: torch.from_numpy(np.array(value)) for key, value in content.items()}
    want = naflexvit.checkpoint_filter_fn(state, model)
    model.load_state_dict(want)
    got = convert_state_dict(content, spec_of("NaFlexVit", ours))
    assert set(got) == set(want)
    for key, tensor in want.items():
        np.testing.assert_array_equal(got[key], tensor.numpy(), err_msg=key)


def test_own_weights_of_a_naflexvit_are_read_from_timms() -> None:
    options = SMALL | {"num_classes": 5, "rope_type": "mixed", "class_token": True}
    model = timm_model("NaFlexVit", options | {"pos_embed_grid_size": (3, 5)})
    state = recipe.weights(reference.shapes(model), seed=1)
    spec = spec_of("NaFlexVit", options | {"pos_embed_grid_size": (3, 5)})
    got = convert_state_dict(state, spec)
    assert set(got) == set(state) == set(spec.shapes)
    for key, value in state.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)


def test_mobileclip_converts_to_what_timm_loads(tmp_path: Path) -> None:
    """With the counters of its norms, which no output depends on."""
    name, options = "vit_base_mci_224", {"depth": 1, "num_classes": 12}
    model = timm.create_model(name, **options).eval()
    drawn = recipe.weights(reference.shapes(model), seed=1)
    drawn = {k: abs(v) if k.endswith("var") else v for k, v in drawn.items()}
    content = published.mobileclip(drawn)
    state = {key: torch.from_numpy(np.array(value)) for key, value in content.items()}
    model.load_state_dict(vision_transformer_hybrid.checkpoint_filter_fn(state, model))
    torch.save(state, path := tmp_path / "mobileclip.pt")
    ours = vitpool.create_model(name, **options, checkpoint_path=path)
    x = recipe.picture((1, 3, 224, 224))
    with torch.no_grad():
        want = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours(x), want, rtol=0, atol=3e-5 * np.abs(want).max())
