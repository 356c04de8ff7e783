# SPDX-License-Identifier: Apache-2.0
"""Eva without torch: its options and what they make, any size of image, its pools."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from concepts import CONCEPTS, options_of, small_of
from golden import recipe
from models import copies, refused

import vitpool
from vitpool.config import resolve

BASE: dict[str, Any] = options_of("eva")[1]
X = recipe.picture((2, 3, 32, 48))
ROPED = [n for n, (_, o) in CONCEPTS.items() if n.startswith("eva") and len(o) > 2]


# -- options --


POST = {"swiglu_mlp": True, "use_post_norm": True}


@pytest.mark.parametrize(
    ("width", "ratio", "given", "kind", "hidden"),
    [
        # those of timm's names
        (192, 4 * 2 / 3, {"swiglu_mlp": True}, "SwiGLUPacked", 1024),
        (1024, 4 * 2 / 3, {"swiglu_mlp": True, "scale_mlp": True}, "SwiGLU", 2730),
        (1408, 6144 / 1408, {}, "Mlp", 6144),
        (1792, 15360 / 1792, {}, "Mlp", 15360),
        (1536, 8960 / 1536, {}, "Mlp", 8960),
        (384, 4, {"swiglu_mlp": True, "swiglu_align_to": 8}, "SwiGLU", 1536),
        (4096, 2, {"swiglu_mlp": True, "swiglu_align_to": 64}, "SwiGLU", 8192),
        (1536, 4 * 2 / 3, {"swiglu_mlp": True, "swiglu_align_to": 8}, "SwiGLU", 4096),
        # others
        (100, 2.7, {"swiglu_mlp": True, "swiglu_align_to": 64}, "SwiGLU", 320),
        # blocks with norms behind ask for a norm alone
        (
            100,
            2.7,
            {"swiglu_mlp": True, "swiglu_align_to": 64, "use_post_norm": True},
            "SwiGLUPacked",
            540,
        ),
        (100, 2.7, {"swiglu_align_to": 64}, "Mlp", 270),
        # A post-norm block of timm's does not align what has no norm.
        (100, 2.7, POST | {"swiglu_align_to": 64}, "SwiGLUPacked", 540),
        (100, 2.7, POST | {"swiglu_align_to": 64, "scale_mlp": True}, "SwiGLU", 320),
    ],
)
def test_the_width_of_an_mlp(
    width: int, ratio: float, given: dict[str, Any], kind: str, hidden: int
) -> None:
    core = resolve({"embed_dim": width, "mlp_ratio": ratio} | given, "Eva")
    assert (core["mlp_layer"], core["mlp_hidden"]) == (kind, hidden)
    assert core["act_layer"] == ("gelu" if kind == "Mlp" else "silu")
    assert core["attn_pool_act"] == "gelu"
    assert core["attn_pool_hidden"] == int(width * ratio)


@pytest.mark.parametrize(
    ("options", "norm", "fc_norm"),
    [
        ({}, False, True),
        ({"global_pool": "token"}, True, False),
        ({"global_pool": "max"}, True, False),
        ({"global_pool": "avgmax"}, True, False),
        ({"use_fc_norm": False}, True, False),
        ({"use_post_transformer_norm": True}, True, True),
        ({"use_fc_norm": False, "use_post_transformer_norm": False}, False, False),
        ({"global_pool": "", "use_fc_norm": True}, False, True),
    ],
)
def test_where_norms_stand(options: dict[str, Any], norm: bool, fc_norm: bool) -> None:
    core = resolve(options, "Eva")
    assert (core["norm"], core["fc_norm"]) == (norm, fc_norm)
    keys = vitpool.Eva(**BASE | options, seed=0).param_shapes()
    assert ("norm.weight" in keys, "fc_norm.weight" in keys) == (norm, fc_norm)


def test_frequencies_stand_before_norm_pre() -> None:
    """As timm's modules; in NaFlexVit behind it."""
    small = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    rope = {"use_rot_pos_emb": True, "rope_type": "mixed"}
    eva = vitpool.Eva(**small, **rope, use_pre_transformer_norm=True)
    naflex = vitpool.NaFlexVit(**small, rope_type="mixed", pre_norm=True)
    for model, order in ((eva, 1), (naflex, -1)):
        both = [
            k for k in model.param_shapes() if k in ("rope.freqs", "norm_pre.weight")
        ]
        assert both[::order] == ["rope.freqs", "norm_pre.weight"]


@pytest.mark.parametrize(
    ("options", "there", "missing"),
    [
        ({}, ["q_bias", "v_bias", "qkv.weight"], ["qkv.bias", "k_bias"]),
        ({"attn_type": "rope"}, ["qkv.weight", "qkv.bias"], ["q_bias"]),
        ({"qkv_bias": False}, ["qkv.weight"], ["q_bias", "qkv.bias"]),
        (
            {"qkv_fused": False},
            ["q_proj.bias", "k_proj.weight", "v_proj.bias"],
            ["k_proj.bias", "qkv.weight"],
        ),
        ({"qkv_fused": False, "attn_type": "rope"}, ["k_proj.bias"], []),
    ],
)
def test_queries_keys_and_values(
    options: dict[str, Any], there: list[str], missing: list[str]
) -> None:
    keys = vitpool.Eva(**BASE | options, seed=0).param_shapes()
    assert all(f"blocks.0.attn.{name}" in keys for name in there)
    assert not any(f"blocks.0.attn.{name}" in keys for name in missing)


def test_layer_scale_of_0_is_there_and_behind_attention_alone_where_asked_for() -> None:
    keys = vitpool.Eva(**BASE | {"init_values": 0.0}, seed=0).param_shapes()
    assert {"blocks.0.gamma_1", "blocks.0.gamma_2"} <= keys.keys()
    keys = vitpool.Eva(
        **BASE | {"init_values": 0.1, "attn_only_layer_scale": True}, seed=0
    ).param_shapes()
    assert "blocks.0.gamma_1" in keys
    assert "blocks.0.gamma_2" not in keys


GROUPED = {"attn_type": "rope", "qkv_fused": False, "depth": 5}


@pytest.mark.parametrize(
    ("given", "each"),
    [
        (None, [4] * 5),
        (2, [2] * 5),
        (4, [4] * 5),
        ((None, 2, 2, 2, None), [4, 2, 2, 2, 4]),
        ([4, 4, 1, None, 4], [4, 4, 1, 4, 4]),
        ((2, 2, None, None, None), [2, 2, 4, 4, 4]),
        (np.array([4, 1, 1, 1, 1]), [4, 1, 1, 1, 1]),
        ((None,) * 5, [4] * 5),
    ],
)
def test_key_and_value_heads_of_each_block(given: Any, each: list[int]) -> None:
    model = vitpool.Eva(**BASE | GROUPED | {"num_kv_heads": given}, seed=0)
    shapes = model.param_shapes()
    heads = [shapes[f"blocks.{i}.attn.k_proj.weight"][0] // 8 for i in range(5)]
    assert heads == each
    told = model.config.get("num_kv_heads")
    if isinstance(told, tuple):
        assert [4 if n is None else n for n in told] == each
    else:
        assert [told or 4] * 5 == each
    assert type(model)(**model.config, seed=0).param_shapes() == shapes


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_kv_heads": (2, 4, 2, 2, 2)}, ValueError, "num_kv_heads must be one"),
        ({"num_kv_heads": (1, 2, 2, 2, 4)}, ValueError, "num_kv_heads must be one"),
        ({"num_kv_heads": (2, 2)}, ValueError, "5, one for each block, not 2"),
        ({"num_kv_heads": 3}, ValueError, "divisor of num_heads, 4, not 3"),
        ({"num_kv_heads": 0}, ValueError, "num_kv_heads"),
        ({"num_kv_heads": "2"}, TypeError, "num_kv_heads"),
        ({"num_kv_heads": 2, "attn_type": "eva"}, ValueError, "attn_type='rope'"),
        ({"num_kv_heads": 2, "qkv_fused": True}, ValueError, "qkv_fused=False"),
        ({"attn_type": "mla"}, ValueError, "'eva', 'rope'"),
        ({"rope_type": "mrope"}, ValueError, "'cat', 'mixed', 'dinov3'"),
        ({"rope_mrope_section": (8, 12, 12)}, ValueError, "rope_type='mrope'"),
        ({"rope_grid_indexing": "yx"}, ValueError, "'ij', 'xy'"),
        ({"rope_temperature": 0}, ValueError, "rope_temperature must be above 0"),
        ({"rope_jitter_coords": 0.5}, ValueError, "at least 1.0, not 0.5"),
        ({"rope_shift_coords": -1}, ValueError, "at least 0.0, not -1"),
        ({"rope_rescale_coords": True}, TypeError, "rope_rescale_coords"),
        ({"ref_feat_shape": (16,)}, ValueError, "ref_feat_shape"),
        ({"swiglu_align_to": -8}, ValueError, "swiglu_align_to"),
        ({"use_fc_norm": 1}, TypeError, "use_fc_norm"),
        ({"global_pool": "prr"}, ValueError, "global_pool of Eva"),
        ({"global_pool": "token", "class_token": False}, ValueError, "token"),
        ({"use_post_norm": True, "qk_norm": True}, ValueError, "qk_norm goes with"),
        (
            {"use_post_norm": True, "attn_only_layer_scale": True},
            ValueError,
            "attn_only_layer_scale goes with",
        ),
        ({"use_post_norm": True, "num_kv_heads": 2}, ValueError, "num_kv_heads goes"),
        (
            {"use_rot_pos_emb": True, "rope_type": "mixed", "rope_rotate_half": True},
            ValueError,
            "rope_rotate_half must be False",
        ),
        ({"use_rot_pos_emb": True, "num_heads": 16}, ValueError, "divisible by 4"),
        ({"head_init_scale": "1"}, TypeError, "head_init_scale"),
    ],
)
def test_options_that_cannot_be(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with refused(error, words):
        vitpool.Eva(**BASE | GROUPED | options)


def test_how_timms_training_moves_coordinates_is_kept_for_it(tmp_path: Any) -> None:
    moved = {"rope_jitter_coords": 1.5, "rope_rescale_coords": 2.0}
    model = small_of("eva-dinov3")
    plain = model(X)
    other = vitpool.Eva(
        **options_of("eva-dinov3")[1] | moved, weights=model.state_dict()
    )
    assert other(X).tobytes() == plain.tobytes()
    assert moved.items() <= other.config.items()
    for twin in (
        copy.copy(other),
        copy.deepcopy(other),
        pickle.loads(pickle.dumps(other)),
    ):
        assert twin.config == other.config
    assert not moved.keys() & model.config.keys()


# -- rotary positions, and images of any size --

ANY_SIZE = [n for n in ROPED if n != "eva-dinov3"] + ["eva", "eva-dinov3"]


@pytest.mark.parametrize("name", ANY_SIZE)
@pytest.mark.parametrize("size", [(48, 32), (64, 80), (16, 16)])
def test_an_image_of_any_size_is_one_of_a_model_made_for_it(
    name: str, size: tuple[int, int]
) -> None:
    _, options = options_of(name)
    model = vitpool.Eva(**options | {"dynamic_img_size": True}, seed=0)
    weights = recipe.weights(model.param_shapes())
    model.load_state_dict(weights)
    x = recipe.picture((2, 3, *size))
    other = copy.copy(model)
    other.set_input_size(size)
    assert model(x).tobytes() == other(x).tobytes()
    assert model.forward_features(x).tobytes() == other.forward_features(x).tobytes()
    assert model(X).tobytes() == small_of_any(options, weights)(X).tobytes()


def small_of_any(options: dict[str, Any], weights: dict[str, np.ndarray]) -> Any:
    return vitpool.Eva(**options | {"dynamic_img_size": False}, weights=weights)


def test_an_image_is_padded_to_whole_patches() -> None:
    _, options = options_of("eva-dinov3")
    model = vitpool.Eva(**options | {"dynamic_img_pad": True}, seed=0)
    x = recipe.picture((1, 3, 30, 50))
    wide = np.zeros((1, 3, 32, 64), np.float32)
    wide[:, :, :30, :50] = x
    assert model(x).tobytes() == model(wide).tobytes()


def test_tables_of_other_grids_are_those_of_the_weights_now() -> None:
    _, options = options_of("eva-mixed")
    model = vitpool.Eva(**options | {"dynamic_img_size": True}, seed=0)
    model.load_state_dict(recipe.weights(model.param_shapes()))
    x = recipe.picture((1, 3, 64, 32))
    before = model(x)
    freqs = model.state_dict()["rope.freqs"] * np.float32(1.5)
    model.load_state_dict({"rope.freqs": freqs}, strict=False)
    fresh = vitpool.Eva(**model.config, weights=model.state_dict())
    assert model(x).tobytes() == fresh(x).tobytes() != before.tobytes()


@pytest.mark.parametrize("name", ["eva-dinov3", "eva-mixed", "eva-clip"])
def test_blocks_alone_take_tokens_of_another_grid(name: str) -> None:
    _, options = options_of(name)
    model = vitpool.Eva(**options | {"dynamic_img_size": True}, seed=0)
    model.load_state_dict(recipe.weights(model.param_shapes()))
    x = recipe.picture((1, 3, 48, 64))
    prefix = model.num_prefix_tokens
    blocks = [
        np.concatenate([before, tokens], 1)
        for tokens, before in model.forward_intermediates(
            x, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
    ]
    out = model.forward_blocks(blocks[0], 1, grid=(3, 4))
    assert out.tobytes() == blocks[1].tobytes()
    turned = model.forward_blocks(blocks[0], 1, grid=(4, 3))
    assert turned.tobytes() != out.tobytes()
    with refused(ValueError, f"{prefix + 6} tokens", "2 x 3", "grid says"):
        model.forward_blocks(blocks[0], 1)
    with refused(ValueError, "5 x 5"):
        model.forward_blocks(blocks[0], 1, grid=(5, 5))


# -- pools --


def test_pools_come_and_go_as_timms() -> None:
    model = small_of("eva-pool")
    pool = copies(model.attn_pool)
    model.reset_classifier(3, "map")
    assert all(np.array_equal(pool[k], v) for k, v in copies(model.attn_pool).items())
    assert model.attn_pool.num_heads == 8
    for name in ("avg", "avgmax", "max", "token", ""):
        model.reset_classifier(3, name)
        assert model.global_pool == name
        assert model.attn_pool is None
    with refused(ValueError, "add_attn_pool=True", model=model, x=X):
        model.reset_classifier(3, "map")
    model.reset_classifier(3, "map", add_attn_pool=True, seed=0)
    assert model.attn_pool.num_heads == 8
    assert model.param_shapes()["attn_pool.mlp.fc1.weight"] == (96, 32)


def test_norms_stay_where_they_are() -> None:
    model = small_of("eva")
    assert model.config.get("use_fc_norm") is None
    model.reset_classifier(5, "token")
    assert "fc_norm.weight" in model.state_dict()
    assert model.config["use_fc_norm"] is True
    twin = vitpool.Eva(**model.config, weights=model.state_dict())
    assert twin(X).tobytes() == model(X).tobytes()


def test_token_needs_a_class_token() -> None:
    model = small_of("eva-packed")
    with refused(ValueError, "token", model=model, x=X):
        model.reset_classifier(5, "token")


# -- pruning --


@pytest.mark.parametrize(
    ("left", "told"),
    [
        (5, (None, 2, 2, None, None)),
        (4, (None, 2, 2, None)),
        (3, (None, 2, 2)),
        (2, (None, 2)),
        (1, None),
    ],
)
def test_pruning_keeps_every_blocks_key_and_value_heads(left: int, told: Any) -> None:
    kv = (None, 2, 2, None, None)
    model = vitpool.Eva(**BASE | GROUPED | {"num_kv_heads": kv}, seed=0)
    before = model.forward_intermediates(X, intermediates_only=True)
    model.prune_intermediate_layers([left - 1])
    assert model.config.get("num_kv_heads") == told
    after = model.forward_intermediates(X, intermediates_only=True)
    assert [a.tobytes() for a in after] == [b.tobytes() for b in before[:left]]


def test_pruning_keeps_the_frequencies_of_the_blocks_that_are_left() -> None:
    model = small_of("eva-mixed")
    freqs = model.state_dict()["rope.freqs"]
    model.prune_intermediate_layers([0])
    assert np.array_equal(model.state_dict()["rope.freqs"], freqs[:, :1])
    assert model.untrained() == []


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("split", [False, True])
def test_a_folder_does_not_take_over_an_architectures_list_of_heads(
    depth: int, split: bool, tmp_path: Path
) -> None:
    """Only Sapiens2's architectures have RMSNorm, and with it a number of heads for
    each of their blocks."""
    options: dict[str, Any] = {"norm_layer": "rmsnorm", "init_values": 1.0}
    options |= {"attn_type": "rope", "qkv_fused": False} if split else {}
    ours = vitpool.Eva(**BASE | options | {"depth": depth}, seed=0)
    ours.save_pretrained(tmp_path)
    again = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert again._options() == ours._options()
    post = vitpool.Eva(**BASE | options | {"use_post_norm": True}, seed=0)
    with pytest.raises(ValueError, match="cannot say norm_layer"):
        post.save_pretrained(tmp_path)
