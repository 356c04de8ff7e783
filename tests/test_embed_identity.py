# SPDX-License-Identifier: Apache-2.0
"""The identity of a run changes with what changes a vector, and with nothing else."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
from models import small

from vitpool import embed
from vitpool.config import DEFAULTS
from vitpool.transforms import Transform, create_transform

TRANSFORM = create_transform(32)
BASE: dict[str, Any] = {
    "num_classes": 3, "depth": 2, "num_heads": 4, "patch_size": 8, "reg_tokens": 1,
    "global_pool": "avg", "fc_norm": False, "init_values": 0.5,
}  # fmt: skip
# Every option of the constructor, with a value that BASE does not have.
OTHER: dict[str, Any] = {
    "img_size": (16, 64), "patch_size": (4, 16), "in_chans": 1, "num_classes": 5,
    "global_pool": "max", "embed_dim": 16, "depth": 3, "num_heads": 2,
    "mlp_ratio": 2.0, "qkv_bias": False, "qk_norm": True, "scale_attn_norm": True,
    "scale_mlp_norm": True, "proj_bias": False, "init_values": None,
    "class_token": False, "pos_embed": "none", "no_embed_class": True, "reg_tokens": 2,
    "pre_norm": True, "final_norm": False, "fc_norm": True,
    "pool_include_prefix": True, "dynamic_img_size": True, "dynamic_img_pad": True,
    "drop_rate": 0.5, "pos_drop_rate": 0.5, "patch_drop_rate": 0.5,
    "proj_drop_rate": 0.5, "attn_drop_rate": 0.5, "drop_path_rate": 0.5,
    "weight_init": "jax", "fix_init": True, "embed_norm_layer": "layernorm",
    "embed_layer": "ConvStem", "norm_layer": ("layernorm", 1e-2), "act_layer": "relu",
    "block_fn": "ParallelScalingBlock", "mlp_layer": "SwiGLU", "attn_layer": "diff",
}  # fmt: skip
NO_VECTOR = {
    *("num_classes", "global_pool", "dynamic_img_size", "dynamic_img_pad"),
    *("weight_init", "fix_init"),
    *(name for name in DEFAULTS if name.endswith("drop_rate")),
    *("drop_path_rate",),
}
POOLS = ["avg"]


def identity(
    model: Any, pools: list[str] | None = None, transform: Transform = TRANSFORM
) -> dict[str, Any]:
    return embed.Embedder(model, pools).identity(transform)


def vectors(model: Any) -> np.ndarray:
    """Of two pictures that any shape of input can have."""
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    channels, (high, wide) = model.config.get("in_chans", 3), model.patch_embed.img_size
    x = x[:, :channels].reshape(2, channels, high, wide)
    return np.concatenate(list(embed.Embedder(model, POOLS)(x).values()))


@pytest.fixture(scope="module")
def plain() -> Any:
    return small(**BASE)


@pytest.mark.parametrize("option", DEFAULTS)
def test_an_option_is_compared_if_a_vector_depends_on_it(plain, option) -> None:
    base = BASE
    if option == "embed_layer":  # ConvStem has a patch of its own
        base = BASE | {"patch_size": 16}
        plain = small(**base)
    other = small(**base | {option: OTHER[option]})
    told, expected = vectors(other), vectors(plain)
    differ = told.shape != expected.shape or not np.allclose(told, expected, atol=1e-5)
    assert differ == (option not in NO_VECTOR)
    assert (identity(other, POOLS) != identity(plain, POOLS)) == differ


def test_every_weight_is_in_a_models_identity() -> None:
    plain = small(**BASE | {"global_pool": "map"})
    weights = plain.state_dict()
    seen = {identity(plain)["weights"]}
    for name in weights:
        changed = copy.copy(plain)
        array = weights[name].copy()
        array.flat[-1] = np.nextafter(array.flat[-1], np.float32(9))  # its last bit
        changed.load_state_dict({name: array}, strict=False)
        seen.add(identity(changed)["weights"])
    heads = ("head.weight", "head.bias")  # no vector passes the classifier
    assert len(seen) == 1 + len(weights) - len(heads)
    swapped = copy.copy(plain)
    first, second = (f"blocks.{i}.norm1.weight" for i in (0, 1))
    both = {first: weights[second], second: weights[first]}
    swapped.load_state_dict(both, strict=False)
    assert identity(swapped)["weights"] not in seen


def test_what_a_prr_model_pools_otherwise_is_what_a_model_of_that_pool_does() -> None:
    models = [small(**BASE | {"global_pool": pool}) for pool in ("prr", "token")]
    np.testing.assert_array_equal(*map(vectors, models))
    told, other = (identity(model, POOLS)["options"] for model in models)
    assert told == other


def test_pools_and_pixels_are_in_an_identity(plain) -> None:
    told = [
        identity(plain, ["avg"]),
        identity(plain, ["max"]),
        identity(plain, ["avg", "max"]),
    ]
    base = TRANSFORM.options
    others = {
        "input_size": (3, 32, 64), "interpolation": "nearest", "mean": (0.5,) * 3,
        "std": (0.5,) * 3, "crop_pct": 0.5, "crop_mode": "squash", "exif": True,
    }  # fmt: skip
    assert others.keys() == base.keys()
    for name, value in others.items():
        told.append(identity(plain, ["avg"], create_transform(**base | {name: value})))
    told.append(identity(plain, ["avg"], type("Own", (Transform,), {})(**base)))
    assert len({json.dumps(t) for t in told}) == len(told)


def test_the_same_model_has_one_identity_whatever_its_classifier(plain) -> None:
    told = identity(plain)
    assert told["format"] == 3
    assert told == json.loads(json.dumps(told))
    bare = copy.copy(plain)
    bare.reset_classifier(0)
    for same in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain)), bare):
        assert identity(same) == told
