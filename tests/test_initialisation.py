# SPDX-License-Identifier: Apache-2.0
"""Fresh weights: the same for a seed, and of timm's distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import BASE, copies, refused, same

import vitpool


def test_the_same_seed_gives_the_same_model() -> None:
    def build(seed: Any) -> dict[str, np.ndarray]:
        return copies(vitpool.VisionTransformer(**BASE, global_pool="map", seed=seed))

    assert same(build(3), build(3))
    assert same(build(0), build(np.int64(0)))
    assert not same(build(3), build(4))
    assert not same(build(None), build(None))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_seed_does_not_depend_on_threads(threads: int) -> None:
    before = vitpool.get_num_threads()
    vitpool.set_num_threads(threads)
    try:
        got = copies(vitpool.VisionTransformer(**BASE, seed=3))
    finally:
        vitpool.set_num_threads(before)
    assert same(got, copies(vitpool.VisionTransformer(**BASE, seed=3)))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range(seed: int) -> None:
    with refused(ValueError, "seed", seed):
        vitpool.VisionTransformer(**BASE, seed=seed)


WIDE: dict[str, Any] = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 192,
    "depth": 1,
    "num_heads": 3,
    "num_classes": 100,
    "seed": 5,
}


def assert_normal(values: np.ndarray, std: float, cut: float = np.inf) -> None:
    """Mean, spread and tail of a normal distribution cut at `cut` times `std`."""
    assert abs(values.mean()) < 5 * std / values.size**0.5
    spread = values.std() / std
    assert abs(spread - (0.88 if cut == 2 else 1)) < 5 / values.size**0.5 + 0.01
    top = np.abs(values).max() / std
    assert top <= cut
    if values.size > 10_000:
        assert top > min(cut * 0.95, 3)


def assert_uniform(values: np.ndarray, bound: float) -> None:
    assert np.abs(values).max() <= bound * (1 + 1e-6)
    assert abs(values.mean()) < 5 * bound / values.size**0.5
    spread = values.std() * 3**0.5 / bound
    assert abs(spread - 1) < 5 / values.size**0.5 + 0.01


def linears(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v for k, v in state.items() if k.endswith("weight") and v.ndim == 2}


def conv_bound(state: dict[str, np.ndarray]) -> float:
    weight = state["patch_embed.proj.weight"]
    return float(np.prod(weight.shape[1:])) ** -0.5


def assert_norms_and_tokens(state: dict[str, np.ndarray]) -> None:
    assert_normal(state["pos_embed"], 0.02)
    assert_normal(state["cls_token"], 1e-6)
    assert_normal(state["reg_token"], 1e-6)
    for key, value in state.items():
        part = key.split(".")[-2] if "." in key else ""
        if part.startswith("norm") or part == "fc_norm":
            assert (value == (1 if key.endswith("weight") else 0)).all(), key


def test_default_initialisation_is_timms() -> None:
    model = vitpool.VisionTransformer(
        **WIDE, global_pool="map", reg_tokens=4, init_values=1e-5
    )
    state = copies(model)
    assert_norms_and_tokens(state)
    for key, value in linears(state).items():
        # Cut at 2 absolute, a hundred standard deviations: a plain normal.
        assert_normal(value, 0.02), key
        assert not state[key.replace("weight", "bias")].any(), key
    # The patch embedding keeps torch's own: uniform by fan-in.
    bound = conv_bound(state)
    assert_uniform(state["patch_embed.proj.weight"], bound)
    assert_uniform(state["patch_embed.proj.bias"], bound)
    assert (state["blocks.0.ls1.gamma"] == np.float32(1e-5)).all()
    assert_normal(state["attn_pool.latent"], 192**-0.5, cut=2)


@pytest.mark.parametrize("mode", ["jax", "jax_nlhb"])
def test_jax_initialisation_is_timms(mode: str) -> None:
    model = vitpool.VisionTransformer(
        **WIDE, global_pool="map", reg_tokens=1, weight_init=mode
    )
    state = copies(model)
    assert_norms_and_tokens(state)
    head_bias = np.float32(-np.log(100)) if mode == "jax_nlhb" else 0
    for key, value in linears(state).items():
        bias = state[key.replace("weight", "bias")]
        if key == "head.weight":
            assert not value.any()
            np.testing.assert_allclose(bias, head_bias, rtol=1e-6)
            continue
        assert_uniform(value, (6 / sum(value.shape)) ** 0.5)
        if "mlp" in key:
            assert_normal(bias, 1e-6)
        else:
            assert not bias.any()
    # lecun_normal_: cut at two standard deviations, then scaled back to the variance.
    weight = state["patch_embed.proj.weight"]
    std = conv_bound(state)
    assert abs(weight.std() / std - 1) < 0.02
    assert np.abs(weight).max() <= 2 * std / 0.87962566103423978 * (1 + 1e-6)
    assert not state["patch_embed.proj.bias"].any()


def test_moco_initialisation_is_timms() -> None:
    state = copies(
        vitpool.VisionTransformer(
            **WIDE, global_pool="map", reg_tokens=1, weight_init="moco"
        )
    )
    assert_norms_and_tokens(state)
    for key, value in linears(state).items():
        rows = value.shape[0] // 3 if "qkv" in key else value.shape[0]
        assert_uniform(value, (6 / (rows + value.shape[1])) ** 0.5)
        assert not state[key.replace("weight", "bias")].any()
    assert_uniform(state["patch_embed.proj.weight"], conv_bound(state))


def test_reset_initialisation_is_torchs() -> None:
    state = copies(vitpool.VisionTransformer(**WIDE, reg_tokens=1, weight_init="reset"))
    assert_norms_and_tokens(state)
    for key, value in linears(state).items():
        bound = value.shape[1] ** -0.5
        assert_uniform(value, bound)
        assert_uniform(state[key.replace("weight", "bias")], bound)


def test_skipped_initialisation_is_a_usable_model() -> None:
    """timm leaves uninitialised memory in pos_embed and the tokens; we do not."""
    model = vitpool.VisionTransformer(**WIDE, weight_init="skip")
    assert all(np.isfinite(v).all() for v in model.state_dict().values())


def test_fix_init_scales_by_depth() -> None:
    options = WIDE | {"depth": 2}
    plain = copies(vitpool.VisionTransformer(**options))
    fixed = copies(vitpool.VisionTransformer(**options, fix_init=True))
    for key, value in plain.items():
        scale = 1.0
        if key.endswith((".attn.proj.weight", ".mlp.fc2.weight")):
            scale = (2.0 * (int(key.split(".")[1]) + 1)) ** 0.5
        np.testing.assert_allclose(fixed[key], value / scale, rtol=1e-6, err_msg=key)


def test_initialisation_of_the_other_blocks_is_timms() -> None:
    for mlp in ("SwiGLU", "SwiGLUPacked", "GluMlp"):
        state = copies(vitpool.VisionTransformer(**WIDE, mlp_layer=mlp))
        if mlp == "SwiGLU":
            gate = state["blocks.0.mlp.fc1_g.weight"]
            bias = state["blocks.0.mlp.fc1_g.bias"]
        else:
            half = state["blocks.0.mlp.fc1.bias"].size // 2
            gate = state["blocks.0.mlp.fc1.weight"][half:]
            bias = state["blocks.0.mlp.fc1.bias"][half:]
            assert_normal(state["blocks.0.mlp.fc1.weight"][:half], 0.02)
        assert_normal(gate, 1e-6)
        assert (bias == 1).all()
    state = copies(
        vitpool.VisionTransformer(**WIDE, block_fn="ResPostBlock", init_values=0.25)
    )
    assert (state["blocks.0.norm1.weight"] == 0.25).all()
    assert (state["blocks.0.norm2.weight"] == 0.25).all()
    state = copies(vitpool.VisionTransformer(**WIDE | {"depth": 8}, attn_layer="diff"))
    lambdas = [v.ravel() for k, v in state.items() if ".lambda_" in k]
    assert_normal(np.concatenate(lambdas), 0.1)


def test_initialisation_of_eva_is_timms() -> None:
    """Every Linear, gates too, is a normal of 0.02, smaller by depth at a branch's end;
    the head's numbers are a thousandth of that."""
    options = WIDE | {"depth": 3, "seed": 5}
    split = {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True}
    packed = {"swiglu_mlp": True, "init_values": 0.1, "num_reg_tokens": 20}
    for others in (split, packed):
        state = copies(vitpool.Eva(**options, **others))
        assert_normal(state["pos_embed"], 0.02)
        for key, value in state.items():
            words = key.split(".")
            part = words[-2] if len(words) > 1 else ""
            if part.endswith("norm") or part in ("norm1", "norm2"):
                assert (value == (words[-1] == "weight")).all(), key
            elif words[0] == "patch_embed":
                assert_uniform(value, conv_bound(state))
            elif "gamma" in key:
                assert (value == np.float32(0.1)).all(), key
            elif value.ndim == 1:
                assert not value.any(), key
            elif value.ndim == 2:
                std = 2e-5 if part == "head" else 0.02
                if key.endswith(("attn.proj.weight", "mlp.fc2.weight")):
                    std /= (2.0 * (int(words[1]) + 1)) ** 0.5
                assert_normal(value, std)
    assert_normal(state["reg_token"], 0.02)
    whole = copies(vitpool.Eva(**options, head_init_scale=0.0))
    assert_normal(whole["head.weight"], 0.02)


def test_fresh_frequencies_are_turned_head_by_head() -> None:
    """timm's init_random_2d_freqs: two sets of D/4 frequencies, at right angles."""
    model = vitpool.Eva(
        **WIDE | {"num_heads": 24, "depth": 6},
        use_rot_pos_emb=True,
        rope_type="mixed",
        rope_temperature=10.0,
    )
    freqs = model.state_dict()["rope.freqs"]  # (2, depth, heads, D / 2)
    size = 10.0 ** -(np.arange(2) / 2)
    np.testing.assert_allclose(np.hypot(*freqs), np.tile(size, (6, 24, 2)), rtol=1e-6)
    first = np.arctan2(freqs[1], freqs[0]) % (2 * np.pi)
    np.testing.assert_allclose(first[..., 0], first[..., 1], atol=1e-5)
    np.testing.assert_allclose(
        (first[..., 2:] - first[..., :2]) % (2 * np.pi), np.pi / 2, atol=1e-5
    )
    angles = np.sort(first[..., 0].ravel())
    assert len(set(angles)) == 144
    # Uniform: Kolmogorov's distance, which 1 of 10,000 draws exceeds.
    even = (np.arange(144) + 0.5) / 144
    assert np.abs(angles / (2 * np.pi) - even).max() < 2.2 / 12


def test_a_new_head_of_eva_is_as_the_constructors() -> None:
    model = vitpool.Eva(**WIDE, num_reg_tokens=1)
    model.reset_classifier(50)
    assert_normal(model.state_dict()["head.weight"], 2e-5)
    assert not model.state_dict()["head.bias"].any()
