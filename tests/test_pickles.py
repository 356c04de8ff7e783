# SPDX-License-Identifier: Apache-2.0
"""Pickles that version 0.1.0 wrote: they load, and give the numbers they gave.

`data/pickle_0_1_0` has a file a model, and outputs.npz with what each gave for the
recipe's picture of this size. A pickle holds two names of ours, and no more.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import copies, same

from vitpool.config import DEFAULTS
from vitpool.model import VisionTransformer

DATA = Path(__file__).parent / "data" / "pickle_0_1_0"
# file -> the size of its picture, and what its constructor was given
BASE: dict[str, Any] = {
    "img_size": 8,
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 8,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "num_classes": 3,
}
MODELS: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "plain": ((8, 8), {}),
    "dynamic_img_size": (
        (12, 16),
        {
            "dynamic_img_size": True,
            "reg_tokens": 1,
            "global_pool": "avg",
            "init_values": 1e-5,
            "norm_layer": ("rmsnorm", 1e-6),
        },
    ),
    "map_pool": (
        (8, 8),
        {
            "global_pool": "map",
            "class_token": False,
            "qkv_bias": False,
            "act_layer": "quick_gelu",
        },
    ),
}


def load(name: str) -> Any:
    return pickle.loads((DATA / f"{name}.pkl").read_bytes())


@pytest.mark.parametrize("name", MODELS)
def test_pickles_of_0_1_0_load_and_give_their_numbers(name: str) -> None:
    model = load(name)
    size, options = MODELS[name]
    assert model.config == BASE | options
    assert same(copies(model), recipe.weights(model.param_shapes()))
    with np.load(DATA / "outputs.npz") as outputs:
        expected = outputs[name]
    got = model(recipe.picture((2, 1, *size)))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_pickle_of_0_1_0_keeps_its_pretrained_cfg() -> None:
    assert load("plain").pretrained_cfg == {
        "architecture": "vit_digits",
        "num_classes": 3,
        "input_size": (1, 8, 8),
        "mean": (0.5,),
        "std": (0.25,),
        "label_names": ["a", "b", "c"],
    }


class Names(pickle.Unpickler):
    """Remembers which names of ours a pickle asks for."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.ours: set[str] = set()
        self.load()

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("vitpool"):
            self.ours.add(f"{module}.{name}")
        return super().find_class(module, name)


def test_a_new_pickle_holds_the_names_that_those_of_0_1_0_hold() -> None:
    names = {"vitpool.model._rebuild", "vitpool.model.VisionTransformer"}
    assert Names((DATA / "map_pool.pkl").read_bytes()).ours == names
    assert Names(pickle.dumps(load("map_pool"))).ours == names


def test_a_pickle_holds_every_argument_and_its_version() -> None:
    """A default that changes later does not change what an old pickle gives."""
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2
    )
    rebuild, arguments = model.__reduce__()
    cls, config, weights, cfg, version, untrained = arguments
    unsaid = {"weight_init", "fix_init"}  # they tell nothing of a finished model
    unsaid |= {name for name in DEFAULTS if "drop" in name}
    assert set(config) == set(DEFAULTS) - unsaid
    nothing = {name for name, value in config.items() if value is None}
    assert nothing == {"init_values", "embed_norm_layer"}, "left to a default"
    assert untrained == list(weights)
    assert rebuild(cls, config, weights, cfg, version, untrained).config
    with pytest.raises(ValueError, match="written by a later vitpool"):
        rebuild(cls, config, weights, cfg, 5, untrained)
