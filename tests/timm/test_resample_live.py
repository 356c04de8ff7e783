# SPDX-License-Identifier: Apache-2.0
"""Resampling equals timm's, which is torch's interpolation, to float32 rounding."""

from __future__ import annotations

import numpy as np
import prepare  # noqa: F401
import pytest
import rerun
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import patch_embed as timm_patches
from timm.layers import pos_embed as timm_positions
from timm.layers import pos_embed_rel as timm_relative

from vitpool import resample
from vitpool.resample_rel_pos import resize_rel_pos_bias_table

MODES = st.sampled_from(["bicubic", "bilinear"])
GRID = st.tuples(st.integers(1, 40), st.integers(1, 40))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@rerun.settings(300)
@given(
    old=GRID,
    new=GRID,
    prefix=st.integers(0, 5),
    interpolation=MODES,
    antialias=st.booleans(),
    corners=st.sampled_from([None, False, True]),
)
def test_positions_equal_timms(
    old: tuple[int, int],
    new: tuple[int, int],
    prefix: int,
    interpolation: str,
    antialias: bool,
    corners: bool | None,
) -> None:
    pos = random(1, prefix + old[0] * old[1], 3)
    args = (old, prefix, interpolation, antialias)
    want = timm_positions.resample_abs_pos_embed(
        torch.from_numpy(pos), list(new), *args, align_corners=corners
    ).numpy()
    got = resample.resample_abs_pos_embed(pos, new, *args, align_corners=corners)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * np.abs(want).max())


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    ("old", "new"), [(14, 16), (37, 16), (16, 37), (24, 14), (128, 32), (128, 14)]
)
def test_common_grids_equal_timms(
    old: int, new: int, interpolation: str, antialias: bool
) -> None:
    pos = random(1, 1 + old * old, 8)
    want = timm_positions.resample_abs_pos_embed(
        torch.from_numpy(pos), [new, new], None, 1, interpolation, antialias
    ).numpy()
    got = resample.resample_abs_pos_embed(
        pos, (new, new), None, 1, interpolation, antialias
    )
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((16, 16), (14, 14)),
        ((16, 16), (32, 32)),
        ((32, 32), (8, 8)),
        ((32, 32), (16, 16)),
        ((48, 48), (16, 16)),
        ((14, 14), (16, 16)),
        ((16, 16), (12, 20)),
        ((12, 20), (16, 16)),
    ],
)
def test_patches_equal_timms(
    old: tuple[int, int], new: tuple[int, int], interpolation: str, antialias: bool
) -> None:
    """timm takes the pseudo-inverse in float32; ours is nearer to the exact one."""
    kernel = random(6, 3, *old)
    want = timm_patches.resample_patch_embed(
        torch.from_numpy(kernel), list(new), interpolation, antialias
    ).numpy()
    got = resample.resample_patch_embed(kernel, new, interpolation, antialias)
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-6 * np.abs(want).max())


@rerun.settings(100)
@given(
    old=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    new=st.tuples(st.integers(1, 32), st.integers(1, 32)),
    prefix=st.booleans(),
)
@pytest.mark.filterwarnings("ignore:torch.searchsorted")
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_tables_of_relative_positions_equal_timms(
    old: tuple[int, int], new: tuple[int, int], prefix: bool
) -> None:
    rows, wanted = ((2 * h - 1) * (2 * w - 1) + 3 * prefix for h, w in (old, new))
    table = random(rows, 3)
    want = timm_relative.resize_rel_pos_bias_table(
        torch.from_numpy(table), new, (wanted, 3), old
    ).numpy()
    got = resize_rel_pos_bias_table(table, new, prefix, old)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
