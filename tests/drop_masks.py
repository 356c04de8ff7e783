# SPDX-License-Identifier: Apache-2.0
"""Which numbers dropout keeps in training: csrc/base/drop.h once more, in NumPy.

Written from the formula's description and not from the core, so that a mask of the core
is compared with another one's. A mask depends on the seed of the step, a site of the
model, an image's place in the batch, and a number's place in the image.
"""

from __future__ import annotations

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Sites of a block; block i has these at 8 i, and what follows the blocks at 8 depth.
ATTN_DROP, PROJ_DROP, DROP_PATH1, MLP_DROP1, MLP_DROP2, DROP_PATH2 = range(6)
HEAD_DROP, POS_DROP, PATCH_DROP = range(3)


def site(block: int, place: int) -> int:
    """The number of a site: a block's or, with the depth, one of the last three."""
    return block * 8 + place


def mixed(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)), np.uint64)


def finalised(h: np.ndarray) -> np.ndarray:
    """MurmurHash3's 32-bit finaliser, without its last shift."""
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    return np.asarray((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35), np.uint32)


def bits(seed: int, at: int, image: int, count: int) -> np.ndarray:
    """uint32 (count,): 24 random bits for each number of one image at one site."""
    with np.errstate(over="ignore"):
        start = mixed(np.asarray(seed, np.uint64) + GOLDEN)
        stream = mixed(start + np.asarray(at + 1, np.uint64) * GOLDEN)
        key = mixed(stream + np.asarray(image + 1, np.uint64) * GOLDEN)
        low, high = key.astype(np.uint32), (key >> np.uint64(32)).astype(np.uint32)
        h = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) ^ low
        h = finalised(h)
        h = finalised(h ^ (h >> np.uint32(16)) ^ high)
    return np.asarray((h ^ (h >> np.uint32(16))) >> np.uint32(8), np.uint32)


def kept(rate: float, seed: int, at: int, images: range, count: int) -> np.ndarray:
    """bool (images, count): which numbers stay, of each image of a batch."""
    limit = np.uint32(float(np.float32(rate)) * 2.0**24)
    return np.stack([bits(seed, at, image, count) >= limit for image in images])


def kept_patches(
    rate: float, seed: int, at: int, images: range, patches: int
) -> np.ndarray:
    """int64 (images, kept): the patches with the smallest bits, in their own order."""
    keep = max(1, int(patches * (1 - rate)))
    rows = [bits(seed, at, image, patches) for image in images]
    first = [np.sort(np.argsort(row, kind="stable")[:keep]) for row in rows]
    return np.stack(first)
