# SPDX-License-Identifier: Apache-2.0
"""Pictures for a budget of patches: the same sizes, pixels and dicts as timm's."""

from __future__ import annotations

import numpy as np
import prepare  # noqa: F401
import pytest
import timm.data
import torch
from dice import Dice, examples
from golden import recipe
from PIL import Image
from timm.data import naflex_dataset, naflex_transforms
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

import vitpool
from vitpool.transforms import (
    create_transform,
    get_image_size_for_seq,
    patchify,
    preprocess,
)

TINY = {"patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = recipe.uniform((height, width, 3), f"picture {seed}")
    return Image.fromarray((127 + 127 * pixels).astype(np.uint8))


@pytest.mark.parametrize("example", examples(300))
def test_sizes_are_timms(example: int) -> None:
    dice = Dice("sizes", example)
    size = dice.integer(1, 3000), dice.integer(1, 3000)
    patch = dice.pick(16, 14, (8, 32))
    most = dice.integer(1, 2000)
    how = {"divisible_by_patch": dice.pick(True, False)}
    how["max_ratio"] = dice.pick(None, 1.0, 0.3)
    print(size, patch, most, how)
    expected = naflex_transforms.get_image_size_for_seq(size, patch, most, **how)
    assert get_image_size_for_seq(size, patch, most, **how) == expected


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(60, 200), (333, 47), (512, 512), (5, 5), (1, 300)])
def test_a_pictures_dict_is_timms(
    size: tuple[int, int], interpolation: str, last: bool
) -> None:
    how = {
        "input_size": (3, 224, 224),
        "interpolation": interpolation,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.5, 0.6, 0.7),
        "naflex": True,
        "patch_size": 16,
        "max_seq_len": 50,
        "patchify": True,
        "patchify_channels_last": last,
    }
    image = picture(*size)
    ours, theirs = create_transform(**how), timm.data.create_transform(**how)
    got, wanted = ours(image), theirs(image)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].dtype == value.numpy().dtype, name
        assert np.allclose(got[name], value.numpy(), rtol=0, atol=1e-6), name
    how["patchify"] = False
    plain = create_transform(**how)(image)
    expected = timm.data.create_transform(**how)(image).numpy()
    assert np.allclose(plain, expected, rtol=0, atol=1e-6)
    assert ours.options == create_transform(**ours.options).options
    tensors = create_transform(**how | {"patchify": True}, tensors=True)(image)
    assert all(isinstance(value, torch.Tensor) for value in tensors.values())


def test_a_batch_is_what_timms_collator_gives() -> None:
    images = [picture(60, 200, 1), picture(333, 47, 2), picture(90, 90, 3)]
    cfg = NaFlexVitCfg(**TINY)
    model = NaFlexVit(cfg, num_classes=5).eval()
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    ours = vitpool.NaFlexVit(cfg, num_classes=5, weights=state)
    given = ours.preprocess(images, max_seq_len=40)
    transform = timm.data.create_transform(
        input_size=(3, 32, 32), interpolation="bicubic", naflex=True, patch_size=8,
        max_seq_len=40, patchify=True,
    )  # fmt: skip
    collate = naflex_dataset.NaFlexCollator(max_seq_len=40)
    wanted, _ = collate([(transform(image), 0) for image in images])
    length = given["patches"].shape[1]
    assert length == wanted["patch_valid"].sum(1).max()
    for name in ("patches", "patch_coord", "patch_valid"):
        value = wanted[name].numpy()
        assert np.allclose(given[name], value[:, :length], rtol=0, atol=1e-6), name
        assert not value[:, length:].any()
    with torch.no_grad():
        expected = model(wanted).numpy()
    assert np.allclose(ours(given), expected, rtol=1e-3, atol=1e-4)
    # timm's own dict, of tensors and with its seq_len
    with torch.no_grad():
        assert torch.allclose(ours(wanted), torch.from_numpy(ours(given)), atol=1e-4)


def test_images_are_cut_as_timm_cuts_them() -> None:
    images = [recipe.picture((3, 20, 37), 1), recipe.picture((3, 16, 8), 2)]
    for last in (True, False):
        given = patchify(images, 8, channels_last=last)
        for index, image in enumerate(images):
            parts, coord, valid = naflex_transforms.patchify_image(
                torch.from_numpy(image), (8, 8), channels_last=last
            )
            count = len(valid)
            assert np.array_equal(given["patches"][index, :count], parts.numpy())
            assert np.array_equal(given["patch_coord"][index, :count], coord.numpy())
            assert given["patch_valid"][index].sum() == count
            assert not given["patches"][index, count:].any()


def test_embed_and_classify_take_pictures_of_their_own_shape() -> None:
    images = [picture(60, 200, 1), picture(333, 47, 2), picture(90, 90, 3)]
    model = vitpool.NaFlexVit(**TINY, num_classes=5, seed=1, class_token=True)
    transform = create_transform(
        input_size=(3, 32, 32), naflex=True, patch_size=8, max_seq_len=40, patchify=True
    )
    given = preprocess(images, transform)
    model.load_state_dict(model.state_dict())  # no longer drawn
    one = model.embed(images, transform=transform)
    several = model.embed(images, "map,avg,token", transform=transform)
    wanted = copy_without_head(model)(given)
    assert np.allclose(one.vectors, wanted, rtol=1e-5, atol=1e-6)
    assert np.allclose(several.pools["map"], wanted, rtol=1e-5, atol=1e-6)
    tokens = model.forward_features(given)["patches"]
    first = [tokens[i, 1 : 1 + n] for i, n in enumerate(given["patch_valid"].sum(1))]
    means = np.stack([rows.mean(0) for rows in first])
    assert np.allclose(several.pools["avg"], means, rtol=1e-4, atol=1e-5)
    assert np.allclose(several.pools["token"], tokens[:, 0], rtol=1e-5, atol=1e-6)


def copy_without_head(model: vitpool.NaFlexVit) -> vitpool.NaFlexVit:
    from copy import copy

    other = copy(model)
    other.reset_classifier(0)
    return other
