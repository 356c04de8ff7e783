# SPDX-License-Identifier: Apache-2.0
"""The rows of test_semantics.py beside timm, run with the same weights.

Where timm raises or does something else, that is asserted too, so that a later timm
that changes is noticed.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import reference
import torch
from golden import recipe
from models import BASE, X, same, unchanged

import vitpool

Pair = tuple[Any, Any]
NAMES = {n: n for n in ("Block", "Mlp", "PatchEmbed")} | {"Attention": "attn"}


def pair(**options: Any) -> Pair:
    """Ours and timm's, with the recipe's weights."""
    model = reference.build(BASE | options)
    ours = vitpool.VisionTransformer(**BASE | options, weights=reference.fill(model))
    return ours, model


def test_the_constructor_has_timms_options_in_order_and_with_its_defaults() -> None:
    from timm.models.vision_transformer import VisionTransformer as Timms

    def plain(default: Any) -> Any:
        """What is a class in timm is a name here."""
        return NAMES.get(default.__name__) if isinstance(default, type) else default

    # The CPU is the only device.
    timms = inspect.signature(Timms).parameters
    expected = {n: plain(p.default) for n, p in timms.items()}
    assert [expected.pop(n) for n in ("device", "dtype")] == [None] * 2
    ours = inspect.signature(vitpool.VisionTransformer).parameters
    positional = {n: p.default for n, p in ours.items() if p.kind is not p.KEYWORD_ONLY}
    assert list(positional.items()) == list(expected.items())


def without_head(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: np.array(v) for k, v in state.items() if not k.startswith("head.")}


def follow(ours: Any, model: Any) -> None:
    """Everything but the head is equal; then the head, which is random, is copied."""
    timms = reference.state(model)
    assert list(ours.state_dict()) == list(timms)
    assert same(without_head(ours.state_dict()), without_head(timms))
    assert ours.num_classes == model.num_classes
    assert ours.global_pool == model.global_pool
    assert (ours.attn_pool is None) == (model.attn_pool is None)
    ours.load_state_dict(timms)


ANSWERED: list[tuple[str, dict[str, Any], list[tuple[Any, ...]]]] = [
    ("1", {"global_pool": "map", "class_token": False}, [(5, "map")]),
    ("2", {"global_pool": "map"}, [(5,), (5, None), (0, "map"), (3,)]),
    ("3", {"global_pool": "map"}, [(5, "avg")]),
    ("3 on", {"global_pool": "map", "reg_tokens": 2}, [(5, "max"), (4, "token")]),
    ("12", {}, [(5, "avg"), (5, "avgmax"), (5, "max"), (5, "token")]),
    ("13", {"global_pool": "avg"}, [(0, "token"), (4, "avg")]),
    ("14 token", {}, [(0, "")]),
    ("14 avg", {"global_pool": "avg"}, [(0, "")]),
    ("15", {}, [(0, ""), (5,)]),
    ("17", {"global_pool": "prr"}, [(5, "prr"), (0,), (5, "prr")]),
    ("17 without", {"global_pool": "prr", "class_token": False}, [(5, "prr")]),
    ("18", {"embed_dim": 384, "num_heads": 6, "num_classes": 1000}, [(1000,)]),
    ("19", {"global_pool": "map", "fc_norm": True}, [(5, "avg")]),
    ("20", {"global_pool": "max", "final_norm": False}, [(5, "avgmax")]),
    ("25", {"global_pool": "map", "reg_tokens": 3}, []),
    ("25 included", {"global_pool": "map", "pool_include_prefix": True}, [(5, "avg")]),
    ("26", {"global_pool": "prr", "class_token": False, "reg_tokens": 2}, []),
]


@pytest.mark.parametrize(
    ("options", "calls"), [r[1:] for r in ANSWERED], ids=[r[0] for r in ANSWERED]
)
def test_rows_that_timm_answers(options: dict[str, Any], calls: list[Any]) -> None:
    ours, model = pair(**options)
    reference.agree(ours, model, X)
    for call in calls:
        pools = ours.attn_pool, model.attn_pool
        ours.reset_classifier(*call)
        model.reset_classifier(*call)
        if model.attn_pool is not None:
            assert model.attn_pool is pools[1]
            assert ours.attn_pool is pools[0]
        follow(ours, model)
        reference.agree(ours, model, X)


MAP, AVG, TOKEN = {"global_pool": "map"}, {"global_pool": "avg"}, {}
REFUSED: list[tuple[str, dict[str, Any], list[Any], tuple[Any, ...], type]] = [
    ("4", MAP, [(5, "avg")], (6, "map"), ValueError),
    ("5 map", MAP | {"class_token": False}, [], (5, "token"), ValueError),
    ("5 avg", AVG | {"class_token": False}, [], (5, "token"), ValueError),
    ("6 map", MAP, [], (5, "prr"), ValueError),
    ("6 prr", {"global_pool": "prr"}, [], (5, "map"), ValueError),
    *[("7 map", MAP, [], (5, v), ValueError) for v in ("map ", "MAP", "gem")],
    *[("7 token", TOKEN, [], (5, v), ValueError) for v in ("map ", "MAP", "gem")],
    *[("7 map", MAP, [], (5, v), TypeError) for v in (0, False, b"avg", ["avg"])],
    *[("7 token", TOKEN, [], (5, v), TypeError) for v in (0, False, b"avg", ["avg"])],
    ("8 map", TOKEN, [], (5, "map"), ValueError),
    ("8 prr", TOKEN, [], (5, "prr"), ValueError),
]


@pytest.mark.parametrize(
    ("options", "before", "call", "error"),
    [r[1:] for r in REFUSED],
    ids=[f"{r[0]} {r[3][1]!r}" for r in REFUSED],
)
def test_rows_that_timm_asserts_against_half_done(
    options: dict[str, Any], before: list[Any], call: tuple[Any, ...], error: type
) -> None:
    ours, model = pair(**options)
    for earlier in before:
        ours.reset_classifier(*earlier)
        model.reset_classifier(*earlier)
    with pytest.raises(AssertionError):
        model.reset_classifier(*call)
    assert model.num_classes == call[0]
    with unchanged(ours), pytest.raises(error):
        ours.reset_classifier(*call)


def test_row9_timm_loses_the_pool_before_it_raises() -> None:
    ours, model = pair(global_pool="map")
    with pytest.raises(TypeError):
        model.reset_classifier(None, "avg")
    assert model.attn_pool is None
    with unchanged(ours), pytest.raises(TypeError):
        ours.reset_classifier(None, "avg")


def test_row10_timm_takes_negative_classes() -> None:
    ours, model = pair()
    model.reset_classifier(-3)
    assert model.num_classes == -3
    with unchanged(ours), pytest.raises(ValueError, match="num_classes"):
        ours.reset_classifier(-3)


def test_row11_timm_notices_a_bool_late() -> None:
    ours, model = pair()
    with pytest.raises(TypeError):
        model.reset_classifier(True)
    assert model.num_classes is True
    with unchanged(ours), pytest.raises(TypeError, match="num_classes"):
        ours.reset_classifier(True)


def test_row16_timm_goes_on_averaging_the_class_token() -> None:
    ours, model = pair(global_pool="prr")
    ours.reset_classifier(0, "avg")
    model.reset_classifier(0, "avg")
    assert model.pool_include_prefix is True
    follow(ours, model)
    with torch.no_grad():
        timms = model(torch.from_numpy(X)).numpy()
    tokens = ours.forward_features(X)
    np.testing.assert_allclose(timms, tokens.mean(axis=1), rtol=1e-4, atol=1e-5)
    model.pool_include_prefix = False
    reference.agree(ours, model, X)


@pytest.mark.parametrize("pool", ["token", "gem", "map "])
def test_row21_timm_asserts_at_construction(pool: str) -> None:
    options = BASE | {"global_pool": pool, "class_token": pool != "token"}
    with pytest.raises(AssertionError):
        reference.build(options)
    with pytest.raises(ValueError, match="global_pool"):
        vitpool.VisionTransformer(**options)


@pytest.mark.parametrize("override", ["token", "", "avg", "max", "avgmax"])
def test_row22_timm_ignores_the_override(override: str) -> None:
    ours, model = pair(global_pool="map", reg_tokens=1)
    tokens = torch.from_numpy(ours.forward_features(X))
    with torch.no_grad():
        assert torch.equal(model.pool(tokens, override), model.pool(tokens))
        # Without its attention pool timm does what the override says, and so do we.
        model.attn_pool = None
        expected = model.pool(tokens, override).numpy()
    got = ours.pool(tokens.numpy(), override)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_row23_timm_asserts_against_a_map_override() -> None:
    ours, model = pair()
    tokens = ours.forward_features(X)
    with pytest.raises(AssertionError):
        model.pool(torch.from_numpy(tokens), "map")
    with pytest.raises(ValueError, match="pool_type"):
        ours.pool(tokens, "map")


def test_row24_timm_takes_the_first_patch_for_the_class_token() -> None:
    ours, model = pair(global_pool="avg", class_token=False)
    tokens = ours.forward_features(X)
    first = model.pool(torch.from_numpy(tokens), "token")
    np.testing.assert_array_equal(first.numpy(), tokens[:, 0])
    with pytest.raises(ValueError, match="pool_type"):
        ours.pool(tokens, "token")


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("pool", ["avg", "token", "map"])
def test_row27_intermediates_take_the_norm_that_is_there(pool: str, norm: bool) -> None:
    ours, model = pair(global_pool=pool, depth=2)

    def call(either: Any, x: Any) -> Any:
        return either.forward_intermediates(x, norm=norm)

    reference.check(ours, model, call, X)


@pytest.mark.parametrize("block", ["Block", "ResPostBlock"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_weights_are_those_that_timms_hooks_see(
    block: str, masked: bool
) -> None:
    ours, model = pair(block_fn=block, depth=2, qk_norm=True)
    mask = recipe.mask("bool", (5, 5)) if masked else None
    seen: list[Any] = []
    for one in model.blocks:
        one.attn.fused_attn = False
        one.attn.attn_drop.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        expected = model(torch.from_numpy(X), attn_mask=reference.tensor(mask))
    got, attention = ours(X, attn_mask=mask, return_attn=[0, 1])
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5)
    for i, weights in enumerate(seen):
        np.testing.assert_allclose(attention[i], weights.numpy(), rtol=1e-4, atol=1e-6)


def test_attention_weights_of_the_map_pool_are_timms() -> None:
    ours, model = pair(global_pool="map", reg_tokens=1)
    _, attention = ours(X, return_attn=["attn_pool"])
    pool = model.attn_pool
    with torch.no_grad():
        tokens = model.forward_features(torch.from_numpy(X))[:, 2:]
        q = pool.q(pool.latent).reshape(1, 1, 2, 16).transpose(1, 2)
        k = pool.kv(tokens)[..., :32].reshape(2, 4, 2, 16).transpose(1, 2)
        expected = (q @ k.transpose(-2, -1) / 4).softmax(dim=-1)
    got = attention["attn_pool"]
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pool", ["avg", "avgmax", "map", "prr"])
def test_many_tokens_are_pooled_as_accurately_as_by_timm(pool: str) -> None:
    """A float32 sum over a thousand tokens, one after another, would not be."""
    ours, model = pair(embed_dim=64, num_heads=4, global_pool=pool)

    def call(either: Any, tokens: Any) -> Any:
        return either.pool(tokens)

    tokens = recipe.uniform((160, 1025, 64), "tokens").astype(np.float32)
    reference.check(ours, model, call, tokens, what=pool, count=1)
