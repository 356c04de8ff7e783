# SPDX-License-Identifier: Apache-2.0
"""Resampling of embeddings, by its own properties and by a few numbers from torch."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from vitpool.resample import (
    axis_weights,
    pos_embed_gradient,
    resample_abs_pos_embed,
    resample_patch_embed,
)

MODES = [(i, a) for i in ("bicubic", "bilinear") for a in (True, False)]
SIZES = [(4, 7), (7, 4), (37, 16), (16, 37), (14, 1), (1, 5), (9, 9)]

# torch.nn.functional.interpolate of the unit vectors of length 4, to length 3
# (torch 2.13.0, half-pixel centres).
FOUR_TO_THREE = {
    ("bicubic", True): [
        [0.75286043, 0.30434781, -0.05720824, 0.0],
        [-0.03520115, 0.53520113, 0.53520113, -0.03520115],
        [0.0, -0.05720812, 0.30434772, 0.75286049],
    ],
    ("bicubic", False): [
        [0.85648167, 0.16087967, -0.01736116, 0.0],
        [-0.09375, 0.59375, 0.59375, -0.09375],
        [0.0, -0.01736069, 0.16087949, 0.85648155],
    ],
    ("bilinear", True): [
        [0.69999999, 0.30000001, 0.0, 0.0],
        [0.0, 0.5, 0.5, 0.0],
        [0.0, 0.0, 0.29999989, 0.70000011],
    ],
    ("bilinear", False): [
        [0.83333331, 0.16666669, 0.0, 0.0],
        [0.0, 0.5, 0.5, 0.0],
        [0.0, 0.0, 0.16666651, 0.83333349],
    ],
}


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("mode", "want"), FOUR_TO_THREE.items())
def test_weights_equal_torchs(mode: tuple[str, bool], want: list[list[float]]) -> None:
    got = axis_weights(4, 3, *mode)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("interpolation", "antialias"), MODES)
@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("corners", [False, True])
def test_weights_of_a_target_sum_to_one(
    old: int, new: int, interpolation: str, antialias: bool, corners: bool
) -> None:
    weights = axis_weights(old, new, interpolation, antialias, corners)
    assert weights.shape == (new, old)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=0, atol=2.0**-24)


@pytest.mark.parametrize(("interpolation", "antialias"), MODES)
def test_weights_have_full_rank(interpolation: str, antialias: bool) -> None:
    """So no tolerance decides what the pseudo-inverse of a patch kernel's resize is."""
    for old, new in itertools.product(range(1, 41, 3), range(1, 41, 2)):
        values = np.linalg.svd(
            axis_weights(old, new, interpolation, antialias), compute_uv=False
        )
        assert values[-1] > 0.1 * values[0], (old, new)


@pytest.mark.parametrize(("old", "new"), [(37, 16), (14, 37), (16, 37), (37, 61)])
def test_positions_are_rounded_once(old: int, new: int) -> None:
    """Of a fused multiply and add, as torch's build has it."""
    weights = axis_weights(old, new, "bilinear", antialias=False)
    scale = Fraction(float(np.float32(old) / np.float32(new)))
    for i in range(new):
        exact = max(scale * (i + Fraction(1, 2)) - Fraction(1, 2), Fraction(0))
        position = np.float32(float(exact))
        left = int(position)
        assert weights[i, left] >= 1 - (position - np.float32(left))
        if left + 1 < old:
            assert weights[i, left + 1] == 1 - (np.float32(left + 1) - position)


@pytest.mark.parametrize(("interpolation", "antialias"), MODES)
def test_the_same_size_changes_nothing(interpolation: str, antialias: bool) -> None:
    np.testing.assert_array_equal(
        axis_weights(6, 6, interpolation, antialias), np.eye(6, dtype=np.float32)
    )


def test_aligned_corners_keep_the_corners() -> None:
    weights = axis_weights(5, 9, antialias=False, align_corners=True)
    np.testing.assert_array_equal(weights[[0, -1]], np.eye(5)[[0, -1]])


def test_prefix_tokens_are_not_resampled() -> None:
    pos = random(1, 5 + 16, 3)
    out = resample_abs_pos_embed(pos, (6, 7), num_prefix_tokens=5)
    assert out.shape == (1, 5 + 42, 3)
    np.testing.assert_array_equal(out[:, :5], pos[:, :5])


def test_rows_and_columns_are_not_mixed_up() -> None:
    """A grid that varies along its rows alone varies so afterwards."""
    column = np.arange(4, dtype=np.float32)[:, None, None]
    grid = np.broadcast_to(column, (4, 6, 2)).reshape(1, 24, 2)
    out = resample_abs_pos_embed(grid, (8, 3), (4, 6), num_prefix_tokens=0)
    out = out.reshape(8, 3, 2)
    np.testing.assert_allclose(out, out[:, :1, :1].repeat(3, 1).repeat(2, 2), atol=1e-6)
    assert np.all(np.diff(out[:, 0, 0]) > 0)


def test_a_square_grid_of_the_right_size_is_returned_as_it_is() -> None:
    pos = random(1, 17, 3)
    assert resample_abs_pos_embed(pos, (4, 4)) is pos


def test_a_tall_grid_is_resampled_to_a_wide_one_of_the_same_size() -> None:
    pos = random(1, 24, 3)
    out = resample_abs_pos_embed(pos, (6, 4), (4, 6), num_prefix_tokens=0)
    assert out.shape == pos.shape
    assert not np.allclose(out, pos)


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("new", [(3, 7), (9, 2), (5, 4)])
def test_the_gradient_of_resampling_is_its_adjoint(
    prefix: int, new: tuple[int, int]
) -> None:
    old, draw = (4, 6), np.random.default_rng(0)
    pos = draw.standard_normal((1, prefix + 24, 5)).astype(np.float32)
    gradient = draw.standard_normal((1, prefix + new[0] * new[1], 5))
    there = resample_abs_pos_embed(pos, new, old, prefix)
    back = pos_embed_gradient(gradient.astype(np.float32), new, old, prefix)
    assert back.shape == pos.shape
    np.testing.assert_allclose((there * gradient).sum(), (pos * back).sum(), rtol=1e-4)


def test_positions_that_fill_no_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fill a 4x4 grid"):
        resample_abs_pos_embed(random(1, 20, 3), (8, 8))
    with pytest.raises(ValueError, match="do not fill a 5x5 grid"):
        resample_abs_pos_embed(random(1, 20, 3), (8, 8), (5, 5))
    with pytest.raises(ValueError, match=r"shape \(1, N, C\)"):
        resample_abs_pos_embed(random(2, 17, 3), (8, 8))
    with pytest.raises(ValueError, match="'bicubic' or 'bilinear'"):
        resample_abs_pos_embed(random(1, 17, 3), (8, 8), interpolation="nearest")


@pytest.mark.parametrize(("interpolation", "antialias"), MODES)
@pytest.mark.parametrize("size", [(16, 16), (11, 20)])
def test_a_larger_patch_kernel_answers_as_the_old_one_does(
    size: tuple[int, int], interpolation: str, antialias: bool
) -> None:
    """FlexiViT: the new kernel on the enlarged patch is the old kernel on the patch."""
    kernel, patch = random(4, 3, 8, 9), random(3, 8, 9)[::-1]
    rows = axis_weights(8, size[0], interpolation, antialias)
    columns = axis_weights(9, size[1], interpolation, antialias)
    enlarged = rows @ patch @ columns.T
    new = resample_patch_embed(kernel, size, interpolation, antialias)
    assert new.shape == (4, 3, *size)
    assert new.dtype == np.float32
    want = np.einsum("oihw,ihw->o", kernel, patch)
    got = np.einsum("oihw,ihw->o", new, enlarged)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def test_a_patch_kernel_of_the_right_size_is_returned_as_it_is() -> None:
    kernel = random(2, 3, 8, 8)
    assert resample_patch_embed(kernel, (8, 8)) is kernel
    with pytest.raises(ValueError, match=r"shape \(O, I, h, w\)"):
        resample_patch_embed(kernel[0], (4, 4))
