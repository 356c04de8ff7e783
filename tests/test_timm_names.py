# SPDX-License-Identifier: Apache-2.0
"""timm's own lines by vitpool's name, without torch: vitpool.data, vitpool.models,
create_model's arguments, features_only.

tests/timm/test_card.py has them with torch, and compared with timm.
"""

from __future__ import annotations

import copy
import logging
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import X, refused, small
from PIL import Image

import vitpool
from vitpool.model import FeatureGetterNet, FeatureInfo

PICTURE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
)
CFG = {"input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "crop_pct": 0.9}


@pytest.fixture(scope="module")
def model() -> Any:
    return vitpool.create_model("vit_digits", pretrained=True)


# ------------------------------------------------------------------ the data's config


def test_a_model_is_taken_by_any_of_its_places(model: Any) -> None:
    want = vitpool.resolve_data_config(model)
    assert want["input_size"] == (3, *model.img_size)
    assert vitpool.resolve_data_config({}, model=model) == want
    assert vitpool.resolve_data_config(None, None, model) == want
    assert vitpool.resolve_data_config(model=model) == want
    assert vitpool.resolve_model_data_config(model) == want
    assert vitpool.data.resolve_model_data_config(model) == want


def test_arguments_go_before_the_configuration(model: Any) -> None:
    args = {"crop_pct": 0.5, "mean": None, "lr": 0.1, "model": "vit_digits"}
    want = vitpool.resolve_data_config(model, crop_pct=0.5)
    assert vitpool.resolve_data_config(args, model=model) == want
    assert vitpool.resolve_model_data_config(model, args) == want
    assert vitpool.resolve_data_config(args, model=model, crop_pct=0.75) == (
        vitpool.resolve_data_config(model, crop_pct=0.75)
    )
    given = vitpool.resolve_data_config({"img_size": 16}, pretrained_cfg=CFG)
    assert (given["input_size"], given["crop_pct"]) == ((3, 16, 16), 0.9)
    alone = {"img_size": 16, **CFG, "input_size": None}
    assert vitpool.resolve_data_config(alone) == given
    assert vitpool.resolve_data_config({**CFG, "img_size": 16}) == (
        vitpool.resolve_data_config(CFG)
    )
    grey = vitpool.resolve_data_config({"chans": 1})
    assert (grey["input_size"], len(grey["mean"])) == ((1, 224, 224), 1)


def test_a_configuration_is_taken_in_place_of_the_models(model: Any) -> None:
    got = vitpool.resolve_data_config({}, CFG | {"input_size": (1, 9, 9)}, model)
    assert got["crop_pct"] == 0.9
    assert got["input_size"] == (3, *model.img_size)  # which it was built for


def test_what_is_no_configuration_is_refused(model: Any) -> None:
    with refused(TypeError, "mapping"):
        vitpool.resolve_data_config(model, model=model)
    with refused(TypeError, "pretrained_cfg"):
        vitpool.resolve_data_config({}, CFG, CFG)
    with refused(TypeError, "crop"):
        vitpool.resolve_data_config({}, model=model, crop=0.5)


def test_verbose_logs_the_result(model: Any, caplog: Any) -> None:
    with caplog.at_level(logging.INFO, "vitpool"):
        vitpool.resolve_data_config({}, model=model)
        assert not caplog.text
        vitpool.resolve_data_config({}, model=model, verbose=True)
    assert "crop_pct" in caplog.text


# ---------------------------------------------------------------------- the transform


def test_timms_arguments_for_training_are_ignored_in_evaluation() -> None:
    want = vitpool.create_transform(32, crop_pct=0.9)(PICTURE)
    transform = vitpool.create_transform(
        32, crop_pct=0.9, is_training=False, hflip=0.5, color_jitter=None, re_prob=0.2
    )
    np.testing.assert_array_equal(transform(PICTURE), want)
    other = {"normalize": True, "use_prefetcher": False, "tf_preprocessing": False}
    transform = vitpool.create_transform(32, crop_pct=0.9, separate=None, **other)
    np.testing.assert_array_equal(transform(PICTURE), want)


@pytest.mark.parametrize(
    ("option", "value", "instead"),
    [
        ("is_training", True, "inference only"),
        ("use_prefetcher", True, "pixels"),
        ("normalize", False, "pixels"),
        ("separate", True, "training"),
        ("crop_border_pixels", 4, "crop_pct"),
        ("tf_preprocessing", True, "torchvision"),
        ("patchify", True, "naflex=True"),
        ("patchify_flatten", False, "reshape"),
    ],
)
def test_another_evaluation_is_refused_by_name(
    option: str, value: Any, instead: str
) -> None:
    with refused(ValueError, option, value, instead):
        vitpool.create_transform(32, **{option: value})
    with refused(ValueError, option, value, instead):
        vitpool.data.create_transform(32, **{option: value})


def test_an_unknown_option_is_a_type_error_with_the_nearest() -> None:
    with refused(TypeError, "crop_pctt", "crop_pct"):
        vitpool.create_transform(32, crop_pctt=0.5)


def test_tensors_without_torch_are_refused_and_arrays_given() -> None:
    assert "torch" not in sys.modules
    with refused(ImportError, "torch"):
        vitpool.create_transform(32, tensors=True)
    transform = vitpool.data.create_transform(32)
    assert type(transform(PICTURE)) is np.ndarray
    assert repr(transform).startswith("Transform(")


CARD = """
from PIL import Image
import vitpool

img = Image.new('RGB', (40, 40))
model = vitpool.create_model('vit_digits', pretrained=True)
model = model.eval()
data_config = vitpool.data.resolve_model_data_config(model)
transforms = vitpool.data.create_transform(**data_config, is_training=False)
output = model(transforms(img)[None])
assert output.shape == (1, 10)
names = vitpool.models.list_models('siglip')
assert names and 'torch' not in __import__('sys').modules
"""


def test_a_card_runs_without_torch_and_with_none_in_place_of_unsqueeze() -> None:
    subprocess.run([sys.executable, "-c", CARD], check=True)


def test_timms_modules_are_there_as_soon_as_the_package_is() -> None:
    script = """
import sys, vitpool
assert not {"vitpool.data", "vitpool.models"} & set(sys.modules)
assert {"data", "models"} <= set(dir(vitpool))
assert vitpool.data.IMAGENET_DEFAULT_MEAN == (0.485, 0.456, 0.406)
assert vitpool.models.create_model is vitpool.create_model
assert all(getattr(vitpool.models, n) is c for n, c in vitpool.model.CLASSES.items())
"""
    subprocess.run([sys.executable, "-c", script], check=True)


# ------------------------------------------------------------------------ create_model


def test_the_name_is_model_name_as_in_timm() -> None:
    model = vitpool.create_model(model_name="vit_digits", pretrained=True)
    assert model.num_classes == 10
    old: dict[str, Any] = {"name": "vit_digits"}  # as 0.1.0 has it
    assert vitpool.create_model(**old).num_classes == 10
    with refused(TypeError, "twice"):
        vitpool.create_model("vit_digits", **old)
    with refused(TypeError, "model_name"):
        vitpool.create_model(pretrained=True)  # type: ignore[call-overload]
    assert vitpool.get_pretrained_cfg_value("test_vit", "input_size") == (3, 160, 160)
    assert vitpool.get_pretrained_cfg_value("test_vit", "no such key") is None


# ----------------------------------------------------------------------- feature maps


@pytest.mark.parametrize("indices", [1, 3, (0, 2), [-1, 0], (2, 2), (-3,)])
@pytest.mark.parametrize("output_fmt", ["NCHW", "NLC"])
@pytest.mark.parametrize("norm", [False, True])
def test_maps_are_the_intermediates_of_the_whole_model(
    indices: Any, output_fmt: str, norm: bool
) -> None:
    model = small(depth=4, reg_tokens=1, global_pool="map")
    net = FeatureGetterNet(model, indices, output_fmt=output_fmt, norm=norm)
    want = model.forward_intermediates(
        X, indices, norm=norm, output_fmt=output_fmt, intermediates_only=True
    )
    got = net(X)
    assert len(got) == len(want)
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert model.num_classes == 10  # the one that was given is as it was
    assert len(model.blocks) == 4


def test_what_no_map_needs_is_left_out() -> None:
    model = small(depth=4)
    net = FeatureGetterNet(model, (0, -3))
    names = [name for name, _ in net.named_parameters()]
    assert names
    assert all(name.startswith("model.") for name in names)
    assert not any(name.startswith(("model.norm.", "model.head.")) for name in names)
    assert (len(net.model.blocks), net.out_indices) == (2, [0, 1])
    assert len(FeatureGetterNet(model, (0, -3), prune=False).model.blocks) == 4
    assert any(
        name.startswith("model.norm.")
        for name, _ in FeatureGetterNet(model, 1, norm=True).named_parameters()
    )


def test_feature_info_says_what_the_maps_are() -> None:
    net = FeatureGetterNet(small(depth=4), (1, -1))
    info = net.feature_info
    assert (len(info), info.out_indices) == (4, (1, 3))
    assert info.channels() == [32, 32]
    assert info.reduction() == [16, 16]
    assert info.module_name() == ["blocks.1", "blocks.3"]
    assert (info.channels(0), info.module_name([0, -1])) == (
        32,
        ["blocks.0", "blocks.3"],
    )
    assert info.get_dicts(["index"]) == [{"index": 1}, {"index": 3}]
    assert info[2]["module"] == "blocks.2"
    with refused(IndexError):
        info.channels(4)


def test_create_model_gives_the_last_three_maps_or_those_asked_for() -> None:
    options: dict[str, Any] = {"features_only": True, "seed": 0, "in_chans": 1}
    x = recipe.picture((1, 1, 160, 160))
    net = vitpool.create_model("test_vit", **options)
    assert isinstance(net, FeatureGetterNet)
    assert [m.shape for m in net(x)] == [(1, 64, 10, 10)] * 3
    assert net.out_indices == [3, 4, 5]
    one = vitpool.create_model("test_vit", out_indices=(-2,), **options)
    (single,) = one(x)
    np.testing.assert_array_equal(single, net(x)[1])
    assert vitpool.resolve_model_data_config(one)["input_size"] == (1, 160, 160)
    assert "num_classes" not in one.pretrained_cfg


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"out_indices": 7}, ValueError, "6"),
        ({"out_indices": (0, 6)}, ValueError, "6"),
        ({"out_indices": (-7,)}, ValueError, "-7"),
        ({"out_indices": 0}, ValueError, "0"),
        ({"out_indices": ()}, ValueError, "at least one"),
        ({"out_indices": "last"}, TypeError, "str"),
        ({"out_indices": (0.5,)}, TypeError, "float"),
        ({"feature_cls": "hook"}, ValueError, "getter"),
        ({"features_only": 1}, TypeError, "features_only"),
    ],
    ids=str,
)
def test_wrong_blocks_are_refused(
    options: dict[str, Any], error: type[Exception], word: str
) -> None:
    with refused(error, word):
        vitpool.create_model("test_vit", **{"features_only": True, **options})


def test_a_net_of_maps_is_copied_pickled_and_switched_as_a_model() -> None:
    net = FeatureGetterNet(small(depth=2), 1)
    (want,) = net(X)
    for other in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(other.eval().to("cpu")(X)[0], want)
        assert other.feature_info.channels() == [32]
    with refused(NotImplementedError, "inference only"):
        net.train()
    assert [name for name, _ in net.named_modules()][:3] == [
        "",
        "model",
        "model.patch_embed",
    ]
    assert net.get_submodule("model.blocks.0") is net.model.blocks[0]
    assert repr(net).startswith("FeatureGetterNet(")
    assert repr(FeatureInfo(net.model.feature_info, 1)).startswith("FeatureInfo(")
