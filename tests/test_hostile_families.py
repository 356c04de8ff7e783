# SPDX-License-Identifier: Apache-2.0
"""The keys of Eva's, Beit's, DeiT's and NaFlexVit's layouts, with any shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import published
import pytest
import rerun
from hypothesis import given
from hypothesis import strategies as st
from published_families import LAYOUTS

from vitpool.checkpoint import Spec, StateDict, convert_state_dict
from vitpool.checkpoint.fit import Fit
from vitpool.checkpoint.lazy import LazyTensor

NAFLEX = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
STEM = NAFLEX | {"img_size": 64, "embed_layer": "ConvStem", "no_embed_class": True}
NAMES = (
    *("eva mim", "eva02 split", "eva02 clip", "eva02 open_clip", "dinov3"),
    *("transformers dinov3 plus", "sapiens2", "pe core", "pe lang", "beit mim"),
    *("beit shared", "transformers beit", "transformers deit"),
)


def spec_of(family: str, options: Mapping[str, Any]) -> Spec:
    cfg = {"num_classes": 10, "label_offset": 1, "input_size": (3, 64, 64)}
    return Spec.from_options(options, cfg, family=family)


def zeros_for(spec: Spec) -> dict[str, np.ndarray]:
    return {key: np.zeros(shape, np.float32) for key, shape in spec.shapes.items()}


SPECS = {name: spec_of(LAYOUTS[name].family, LAYOUTS[name].options) for name in NAMES}
KNOWN = {name: LAYOUTS[name].publish(zeros_for(SPECS[name])) for name in NAMES}
SPECS["naflex"] = spec_of("NaFlexVit", NAFLEX | {"class_token": True, "reg_tokens": 2})
SPECS["naflex of another grid"] = spec_of(
    "NaFlexVit", NAFLEX | {"pos_embed_grid_size": (3, 5), "patch_size": 8}
)
SPECS["stem"] = spec_of("VisionTransformer", STEM)
SPECS["beit, larger"] = spec_of(
    "Beit", dict(LAYOUTS["beit"].options) | {"img_size": (96, 48)}
)
KNOWN["naflex"] = zeros_for(SPECS["naflex"])
KNOWN["mobileclip"] = published.mobileclip(zeros_for(SPECS["stem"]))
SHAPE = st.lists(st.sampled_from([0, 1, 2, 3, 8, 16, 32, 52, 96]), max_size=5)


@rerun.settings(80)
@given(data=st.data())
@pytest.mark.parametrize("layout", KNOWN)
@pytest.mark.filterwarnings("ignore:.*its head is loaded:UserWarning")
@pytest.mark.filterwarnings("ignore::vitpool.LeftOutWarning")
def test_known_keys_with_any_shapes_are_refused_or_read(
    layout: str, data: st.DataObject
) -> None:
    """No layout trusts that a key comes with others, or with the axes it needs."""
    shapes = {key: array.shape for key, array in KNOWN[layout].items()}
    for key in data.draw(st.lists(st.sampled_from(list(shapes)), max_size=4)):
        changed = data.draw(st.none() | SHAPE)
        if changed is None:
            shapes.pop(key, None)
        else:
            shapes[key] = tuple(changed)
    tensors = {
        key: LazyTensor(shape, lambda shape=shape: np.zeros(shape, np.float32))
        for key, shape in shapes.items()
    }
    # Its own model first: a simple example is of that.
    names = [layout] * (layout in SPECS) + list(SPECS)
    spec = SPECS[data.draw(st.sampled_from(names))]
    try:
        weights = convert_state_dict(StateDict(tensors, "a file"), spec)
        Fit.of(weights, spec).check(weights, spec, strict=True)
        for key in weights:
            assert weights[key].shape == spec.shapes[key]
    except ValueError as error:
        assert "a file" in str(error)  # noqa: PT017
