# SPDX-License-Identifier: Apache-2.0
"""Models that know where tokens lie to each other, and the distilled one.

What they take, what another size makes of them, what a new classifier keeps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import copies, same, unchanged

import vitpool
from vitpool.resample_rel_pos import resize_rel_pos_bias_table

SMALL: dict[str, Any] = {
    "img_size": (16, 24),
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
    "seed": 0,
}
X = recipe.picture((2, 3, 16, 24))
TABLES: dict[str, Any] = {
    "beit": lambda: vitpool.Beit(
        **SMALL, use_rel_pos_bias=True, use_shared_rel_pos_bias=True, init_values=0.1
    ),
    "relpos": lambda: vitpool.VisionTransformerRelPos(**SMALL, rel_pos_type="bias"),
    "relpos_token": lambda: vitpool.VisionTransformerRelPos(
        **SMALL, rel_pos_type="bias", class_token=True, shared_rel_pos=True
    ),
}
MLPS: dict[str, Any] = {
    kind: lambda kind=kind: vitpool.VisionTransformerRelPos(**SMALL, rel_pos_type=kind)
    for kind in ("mlp", "mlpswin")
}


def filled(make: Any) -> Any:
    model = make()
    model.load_state_dict(recipe.weights(model.param_shapes()))
    return model


def tables(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v for k, v in state.items() if k.endswith("bias_table")}


@pytest.mark.parametrize("name", TABLES)
def test_another_size_resamples_every_table(name: str) -> None:
    model = filled(TABLES[name])
    before = copies(model)
    model.set_input_size((32, 16))
    after = copies(model)
    prefix = model.num_prefix_tokens > 0
    assert tables(before)
    for key, table in tables(before).items():
        want = resize_rel_pos_bias_table(table, (4, 2), prefix, (2, 3))
        assert want.shape[0] == 7 * 3 + 3 * prefix
        np.testing.assert_array_equal(after[key], want)
    rest = set(before) - set(tables(before)) - {"pos_embed"}
    assert same({k: before[k] for k in rest}, {k: after[k] for k in rest})
    assert model(recipe.picture((1, 3, 32, 16))).shape == (1, 5)


@pytest.mark.parametrize("name", MLPS)
def test_another_size_needs_no_other_numbers_where_an_mlp_makes_the_table(
    name: str,
) -> None:
    model = filled(MLPS[name])
    before = copies(model)
    model.set_input_size((32, 16))
    assert same(before, copies(model))
    fresh = vitpool.VisionTransformerRelPos(
        **SMALL | {"img_size": (32, 16)}, rel_pos_type=name, weights=before
    )
    x = recipe.picture((2, 3, 32, 16))
    assert model(x).tobytes() == fresh(x).tobytes()


def test_resampled_random_tables_are_random() -> None:
    model = TABLES["beit"]()
    model.set_input_size((32, 16))
    assert set(tables(copies(model))) <= set(model.untrained())
    model = filled(TABLES["beit"])
    model.set_input_size((32, 16))
    assert not model.untrained()


@pytest.mark.parametrize("name", [*TABLES, *MLPS])
def test_pictures_of_another_size_are_refused(name: str) -> None:
    model = filled((TABLES | MLPS)[name])
    with unchanged(model, X):
        with pytest.raises(ValueError, match=r"16 x 16, but this model takes 16 x 24"):
            model(recipe.picture((2, 3, 16, 16)))
        with pytest.raises(ValueError, match=r"5 tokens .* its own grid: \d \+ 2 x 3"):
            model.blocks[0](np.zeros((1, 5, 32), np.float32))


@pytest.mark.parametrize("name", TABLES)
def test_a_bias_moves_attention_as_much_as_it_says(name: str) -> None:
    """Weights with a table are those without it, times e to its biases, normalised."""
    model = filled(TABLES[name])
    state = copies(model)
    for key, table in tables(state).items():
        state[key] = np.zeros_like(table)
    bare = filled(TABLES[name])
    bare.load_state_dict(state)
    rng = np.random.default_rng(3)
    key = next(iter(tables(state)))
    state[key] = rng.normal(0, 1, state[key].shape).astype(np.float32)
    model.load_state_dict(state)
    n = model.num_prefix_tokens + 6
    x = rng.normal(0, 1, (1, n, 32)).astype(np.float32)
    plain, moved = (first_weights(m, x) for m in (bare, model))
    i, j = np.divmod(np.arange(6)[:, None], 3), np.divmod(np.arange(6)[None, :], 3)
    rows = (i[0] - j[0] + 1) * 5 + i[1] - j[1] + 2
    if n > 6:
        rows = np.pad(rows, ((1, 0), (1, 0)), constant_values=15)
        rows[1:, 0], rows[0, 0] = 16, 17
    want = plain * np.exp(state[key].astype(np.float64)[rows].transpose(2, 0, 1))
    want /= want.sum(-1, keepdims=True)
    np.testing.assert_allclose(moved, want, rtol=0, atol=1e-6)


def first_weights(model: Any, tokens: np.ndarray) -> np.ndarray:
    """Of block 0's attention, (heads, N, N)."""
    maps = model._run(tokens, 1, maps=[(0, 0)], first=0)[2]
    return np.asarray(maps[0][0], np.float64)


# -- the distilled model --


def distilled(**options: Any) -> Any:
    model = vitpool.VisionTransformerDistilled(**SMALL | options)
    model.load_state_dict(recipe.weights(model.param_shapes()))
    return model


def test_logits_are_the_mean_of_both_heads() -> None:
    model = distilled()
    state = copies(model)
    tokens = model.forward_features(X).astype(np.float64)
    heads = ("head", "head_dist")
    want = sum(
        tokens[:, i] @ state[f"{h}.weight"].T.astype(np.float64) + state[f"{h}.bias"]
        for i, h in enumerate(heads)
    )
    np.testing.assert_allclose(model(X), want / 2, rtol=0, atol=1e-5)
    mean = (tokens[:, 0] + tokens[:, 1]) / 2
    got = model.forward_head(model.forward_features(X), pre_logits=True)
    np.testing.assert_allclose(got, mean, rtol=0, atol=1e-6)
    model.reset_classifier(0)
    np.testing.assert_allclose(model(X), mean, rtol=0, atol=1e-6)


def test_a_new_classifier_makes_both_heads_anew() -> None:
    model = distilled()
    before = copies(model)
    model.reset_classifier(3)
    after = copies(model)
    assert list(model.untrained()) == [
        f"{h}.{p}" for h in ("head", "head_dist") for p in ("weight", "bias")
    ]
    assert after["head_dist.weight"].shape == (3, 32)
    assert not np.array_equal(after["head.weight"], after["head_dist.weight"])
    rest = {k for k in before if not k.startswith("head")}
    assert same({k: before[k] for k in rest}, {k: after[k] for k in rest})


def test_no_pool_is_taken_without_heads_alone_and_changes_none() -> None:
    """timm takes '' at any time, and goes on as before."""
    model = distilled()
    with (
        unchanged(model, X),
        pytest.raises(ValueError, match="must be 'token', not ''"),
    ):
        model.reset_classifier(4, "")
    model.reset_classifier(0, "")
    assert model.global_pool == "token"
    assert model(X).shape == (2, 32)


@pytest.mark.parametrize(
    ("make", "pool", "says"),
    [
        (
            TABLES["beit"],
            "max",
            "global_pool of Beit must be one of '', 'avg', 'token'",
        ),
        (TABLES["beit"], "AVG", "not 'AVG'; did you mean 'avg'"),
        (TABLES["relpos"], "map", "of VisionTransformerRelPos must be one of"),
        (TABLES["relpos"], "token", "'token' needs the class token"),
        (distilled, "avg", "of VisionTransformerDistilled must be 'token', not 'avg'"),
    ],
)
def test_a_pool_that_the_class_lacks_is_refused(
    make: Any, pool: str, says: str
) -> None:
    model = filled(make)
    with unchanged(model, X), pytest.raises(ValueError, match=says):
        model.reset_classifier(3, pool)
