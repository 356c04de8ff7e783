# SPDX-License-Identifier: Apache-2.0
"""Pools of tokens against NumPy: which tokens count, and sums over very many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import small

REDUCE: dict[str, Any] = {
    "avg": lambda x: x.mean(1),
    "max": lambda x: x.max(1),
    "avgmax": lambda x: (x.mean(1) + x.max(1)) / 2,
}


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("pool", REDUCE)
@pytest.mark.parametrize("tokens", [4, 31, 32, 33, 65, 300])
def test_a_pool_is_of_the_tokens_behind_the_prefix(
    pool: str, include: bool, tokens: int
) -> None:
    model = small(reg_tokens=2, pool_include_prefix=include)
    x = recipe.uniform((3, tokens, 32), "tokens").astype(np.float32)
    seen = (x if include else x[:, 3:]).astype(np.float64)
    want = REDUCE[pool](seen)
    np.testing.assert_allclose(model.pool(x, pool), want, rtol=0, atol=2e-7)
    np.testing.assert_array_equal(model.pool(x, "token"), x[:, 0])


@pytest.mark.parametrize("pool", ["avg", "avgmax"])
def test_a_mean_of_very_many_tokens_is_no_chain(pool: str) -> None:
    """Rounding errors of one chain of 60,000 sums are six times as large."""
    model = small(class_token=False, global_pool="avg")
    x = (recipe.uniform((1, 60_000, 32), "tokens") + 1).astype(np.float32)
    want = REDUCE[pool](x.astype(np.float64))
    np.testing.assert_allclose(model.pool(x, pool), want, rtol=2e-6, atol=0)


@pytest.mark.parametrize("tokens", [65, 1025, 4097])
def test_a_mean_is_as_accurate_for_thousands_of_tokens(tokens: int) -> None:
    """Its error, root of the mean square, is no more than half an ulp's."""
    model = small(class_token=False, global_pool="avg")
    x = (1 + recipe.uniform((4, tokens, 32), "tokens")).astype(np.float32)
    want = x.mean(axis=1, dtype=np.float64)
    error = np.sqrt(np.mean((model.pool(x) / want - 1) ** 2))
    assert error < 2.0**-24
