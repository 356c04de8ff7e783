# SPDX-License-Identifier: Apache-2.0
"""timm's own lines after `sed s/timm/vitpool/`: a model's card, and what people write.

Each is run with timm and with vitpool, and the results are the same.
"""

from __future__ import annotations

import copy
import io
import urllib.request
from pathlib import Path
from typing import Any

import measure
import numpy as np
import pytest
import reference
import timm
import torch
from golden import recipe
from models import refused
from PIL import Image
from timm.models._features import FeatureGetterNet

import vitpool

PICTURE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (200, 240, 3), np.uint8)
)

# The three snippets of the card of each of timm's models on the hub, as they are there;
# in the third the loop prints. Their NAME is the model's, and their torch is imported
# by whoever runs them, as a reader has to.
START = """
from urllib.request import urlopen
from PIL import Image
import timm

img = Image.open(urlopen(
    'https://huggingface.co/datasets/huggingface/documentation-images/resolve/main/beignets-task-guide.png'
))
"""
TRANSFORM = """
model = model.eval()

# get model specific transforms (normalization, resize)
data_config = timm.data.resolve_model_data_config(model)
transforms = timm.data.create_transform(**data_config, is_training=False)
"""
CARD = {
    "classification": START
    + """
model = timm.create_model('NAME', pretrained=True)
"""
    + TRANSFORM
    + """
output = model(transforms(img).unsqueeze(0))  # unsqueeze single image into batch of 1

top5_probabilities, top5_class_indices = torch.topk(output.softmax(dim=1) * 100, k=5)
""",
    "embeddings": START
    + """
model = timm.create_model(
    'NAME',
    pretrained=True,
    num_classes=0,  # remove classifier nn.Linear
)
"""
    + TRANSFORM
    + """
output = model(transforms(img).unsqueeze(0))  # output is (batch_size, num_features) shaped tensor
pooled = output

# or equivalently (without needing to set num_classes=0)

output = model.forward_features(transforms(img).unsqueeze(0))
features = output
# output is unpooled, a (1, 197, 768) shaped tensor

output = model.forward_head(output, pre_logits=True)
# output is a (1, num_features) shaped tensor
""",  # noqa: E501
    "feature maps": START
    + """
model = timm.create_model(
    'NAME',
    pretrained=True,
    features_only=True,
)
"""
    + TRANSFORM
    + """
output = model(transforms(img).unsqueeze(0))  # unsqueeze single image into batch of 1

shapes = []
for o in output:
    # print shape of each feature map in output
    shapes.append(o.shape)
""",
}


def run(card: str, folder: Path) -> dict[str, Any]:
    """What the names of a snippet are after it has run."""
    names: dict[str, Any] = {"torch": torch}
    exec(card.replace("NAME", f"local-dir:{folder}"), names)
    return names


def alike(ours: Any, plain: Any, exact: Any, what: str) -> None:
    """Assert that ours is what timm gives; of numbers the measure says it."""
    if isinstance(plain, torch.nn.Module):
        assert type(ours).__name__ == type(plain).__name__
    elif isinstance(plain, torch.Tensor) and plain.is_floating_point():
        rough, double = reference.arrays(plain), reference.arrays(exact.double())
        timms = measure.error(rough, double)
        measure.check(np.asarray(ours), double, timms, what)
    elif isinstance(plain, torch.Tensor):
        np.testing.assert_array_equal(ours, plain)
    elif isinstance(plain, dict):
        assert ours.keys() == plain.keys()
        for key in plain:
            alike(ours[key], plain[key], exact[key], f"{what} {key}")
    elif isinstance(plain, (list, tuple)) and not isinstance(plain, torch.Size):
        assert len(ours) == len(plain)
        for mine, value, double in zip(ours, plain, exact, strict=True):
            alike(mine, value, double, what)
    else:
        assert ours == plain


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    """timm's small ViT with the recipe's weights, and ours with the same."""
    theirs = timm.create_model("test_vit").eval()
    ours = vitpool.create_model("test_vit")
    ours.load_state_dict(reference.fill(theirs))
    return ours, theirs


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture of the cards, without the network."""
    file = io.BytesIO()
    PICTURE.save(file, "png")
    monkeypatch.setattr(
        urllib.request, "urlopen", lambda url: io.BytesIO(file.getvalue())
    )


@pytest.mark.parametrize("name", CARD)
def test_the_card_runs_after_sed(
    name: str, models: tuple[Any, Any], tmp_path: Path, online: None
) -> None:
    card = CARD[name]
    models[0].save_pretrained(tmp_path)
    ours = run(card.replace("timm", "vitpool"), tmp_path)
    theirs = run(card, tmp_path)
    model = theirs["model"]
    x = theirs["transforms"](theirs["img"]).unsqueeze(0)
    np.testing.assert_array_equal(ours["transforms"](ours["img"]).unsqueeze(0), x)
    double = copy.deepcopy(model).double()
    with torch.no_grad(), reference.unrounded():
        exact = double(x.double())
        features = double.forward_features(x.double()) if name == "embeddings" else None
    plain = theirs["output"]
    kind = list if name == "feature maps" else torch.Tensor
    assert isinstance(ours["output"], kind)
    alike(ours["output"], plain, exact, name)
    if name == "classification":
        top = ours["top5_class_indices"]
        np.testing.assert_array_equal(top, theirs["top5_class_indices"])
        exact_top = torch.topk(exact.softmax(dim=1) * 100, k=5).values
        timms = theirs["top5_probabilities"]
        alike(ours["top5_probabilities"], timms, exact_top, name)
    elif name == "embeddings":
        alike(ours["pooled"], theirs["pooled"], exact, name)
        alike(ours["features"], theirs["features"], features, name)
    else:
        assert ours["shapes"] == theirs["shapes"]


# ----------------------------------------------------- what people write about a model

# From timm's README, documentation, cards and scripts, and from code that uses it.
ALIKE = [
    "model(x)",
    "model.eval()",
    "model.train(False).training",
    "model.to('cpu').requires_grad_(False)",
    "model.forward_features(x)",
    "model.forward_head(model.forward_features(x))",
    "model.forward_head(model.forward_features(x), pre_logits=True)",
    "torch.topk(model(x).softmax(dim=1) * 100, k=5)",
    "model.forward_intermediates(x, indices=[0, 2], norm=True)",
    "model.get_intermediate_layers(x, n=2, reshape=True)",
    "model.norm(model.blocks[1](model.forward_features(x)))",
    "model.blocks[0].attn.qkv.weight.shape",
    "len(model.blocks)",
    "[name for name, _ in model.named_parameters()]",
    "[name for name, _ in model.named_modules()]",
    "[list(p.shape) for p in model.parameters()]",
    "list(model.state_dict())",
    "tuple(model.load_state_dict(model.state_dict()))",
    "(model.num_classes, model.num_features, model.embed_dim, model.global_pool)",
    "(model.head.in_features, model.get_classifier().out_features)",
    "(model.patch_embed.num_patches, model.patch_embed.grid_size)",
    "(model.pos_embed.shape, model.cls_token.shape, model.num_prefix_tokens)",
    "(model.pretrained_cfg, model.default_cfg['mean'])",
    "(model.no_weight_decay(), model.group_matcher(), model.feature_info)",
    "(model.reset_classifier(5, 'avg'), model.head.weight.shape, model.num_classes)",
    "(model.set_input_size(img_size=(80, 64)), model.pos_embed)",
    "model.set_grad_checkpointing(False)",
    "timm.data.resolve_data_config({}, model=model)",
    "timm.data.create_transform(**timm.data.resolve_model_data_config(model))(img)[None]",
    "timm.create_model(model_name='test_vit', num_classes=0).head",
    "timm.create_model('test_vit', features_only=True).feature_info.channels()",
    "[m.shape for m in timm.create_model('test_vit', features_only=True, out_indices=(1, -1))(x)]",  # noqa: E501
    "timm.list_models('vit_*siglip*', module='vision_transformer', pretrained=True)",
    "(timm.is_model('vit_base_patch16_224'), timm.models.is_model_pretrained('vit'))",
]
NOT_ALIKE = [
    ("sum(p.numel() for p in model.parameters())", AttributeError, "numel"),
    ("model.half()", NotImplementedError, "float32"),
]


X = recipe.picture((2, 3, 160, 160))


def written(expression: str, model: Any, x: torch.Tensor) -> Any:
    names = {"timm": timm, "vitpool": vitpool, "torch": torch, "img": PICTURE}
    with torch.no_grad(), reference.unrounded():
        return eval(expression, {**names, "model": copy.deepcopy(model), "x": x})


@pytest.mark.filterwarnings("ignore::vitpool.model.UntrainedWarning")
@pytest.mark.parametrize("expression", ALIKE)
def test_what_people_write_gives_what_timm_gives(
    expression: str, models: tuple[Any, Any]
) -> None:
    ours, theirs = models
    x = torch.from_numpy(X)
    plain = written(expression, theirs, x)
    on_model = "create_model" not in expression and "transform" not in expression
    exact = plain
    if on_model:
        exact = written(expression, copy.deepcopy(theirs).double(), x.double())
    got = written(expression.replace("timm.", "vitpool."), ours, x)
    alike(got, plain, exact, expression)


@pytest.mark.parametrize(("expression", "error", "word"), NOT_ALIKE)
def test_the_others_are_refused_in_a_sentence(
    expression: str, error: type[Exception], word: str, models: tuple[Any, Any]
) -> None:
    ours, theirs = models
    written(expression, theirs, torch.from_numpy(X))
    with refused(error, word):
        written(expression, ours, torch.from_numpy(X))


def test_there_are_36_and_34_of_them_are_alike() -> None:
    assert (len(set(ALIKE)), len(NOT_ALIKE)) == (34, 2)


# ------------------------------------------------------------- torch's names and values


def test_torchs_devices_and_dtypes_are_known(models: tuple[Any, Any]) -> None:
    model, _ = models
    for taken in (torch.device("cpu"), torch.float32, torch.float, torch.zeros(1)):
        assert model.to(taken) is model
    assert model.to(device=torch.device("cpu"), dtype=torch.float32) is model
    assert model.to(memory_format=torch.channels_last) is model
    for other in (torch.device("cuda:1"), torch.float64, torch.zeros(1).double()):
        with refused(ValueError, "computes on the CPU"):
            model.to(other)
    for dtype in ("bfloat16", "float16", "int8"):
        given = getattr(torch, dtype)
        for one in (given, torch.zeros(1, dtype=given)):
            assert model.to(one).dtype == dtype


def test_a_transforms_tensors_are_its_arrays() -> None:
    transform = vitpool.data.create_transform(32)
    assert repr(transform).startswith("TensorTransform(")
    got = transform(PICTURE)
    assert type(got) is torch.Tensor
    np.testing.assert_array_equal(got, vitpool.create_transform(32)(PICTURE))
    plain = vitpool.data.create_transform(32, tensors=False)
    assert type(plain(PICTURE)) is np.ndarray
    batch = vitpool.transforms.preprocess([PICTURE], transform)
    assert type(batch) is np.ndarray


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"img_size": 64, "lr": 0.1},
        {"input_size": (3, 48, 32), "img_size": 64},
        {"mean": (0.1, 0.2, 0.3), "std": [0.5], "crop_pct": 0.7},
        {"crop_mode": "border", "interpolation": "bilinear", "mean": None},
        {"chans": 1, "img_size": 8, "mean": (0.5,), "std": (0.5,)},
        {"in_chans": 1, "chans": 3, "img_size": 8, "mean": (0.5,), "std": (0.5,)},
    ],
    ids=str,
)
@pytest.mark.parametrize("use_test_size", [False, True])
def test_arguments_mean_what_they_do_in_timm(
    args: dict[str, Any], use_test_size: bool
) -> None:
    name = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
    cfg = {**timm.get_pretrained_cfg(name).to_dict(), "test_input_size": (3, 288, 288)}
    theirs = timm.data.resolve_data_config(args, cfg, use_test_size=use_test_size)
    ours = vitpool.data.resolve_data_config(args, cfg, use_test_size=use_test_size)
    assert ours == theirs
    assert vitpool.data.resolve_data_config(args or {"lr": 1}) == (
        timm.data.resolve_data_config(args or {"lr": 1})
    )


def test_constants_are_timms() -> None:
    for name in vitpool.data.__all__:
        if name.isupper():
            assert getattr(vitpool.data, name) == getattr(timm.data, name)
    ours, theirs = vitpool.models.list_modules(), timm.list_modules()
    assert set(ours) < set(theirs)
    wanted = ["resnet", "vision_transformer"]
    for name in ("vit_base_patch16_224", "vit_base_patch16_224.augreg_in21k", "vit"):
        assert vitpool.models.is_model_in_modules(name, wanted) == (
            timm.models.is_model_in_modules(name, wanted)
        )
    for key in ("hf_hub_id", "mean", "nothing"):
        name = "vit_base_patch16_224.augreg_in21k"
        ours_value = vitpool.get_pretrained_cfg_value(name, key)
        assert ours_value == timm.get_pretrained_cfg_value(name, key)


# ------------------------------------------------------------------------ feature maps

CONFIGS: dict[str, dict[str, Any]] = {
    "token": {},
    "registers": {"reg_tokens": 2, "global_pool": "map"},
    "average": {"global_pool": "avg"},
    "no class token": {"global_pool": "avg", "class_token": False},
    "any size": {"dynamic_img_size": True, "patch_size": (16, 8)},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("norm", [False, True])
def test_feature_maps_are_timms(config: dict[str, Any], norm: bool) -> None:
    options = {"img_size": 32, "embed_dim": 32, "depth": 4, "num_heads": 2, **config}
    model = reference.build(options)
    ours = vitpool.VisionTransformer(**options)
    ours.load_state_dict(reference.fill(model))
    size = (48, 32) if config.get("dynamic_img_size") else (32, 32)
    x = recipe.picture((2, 3, *size))
    for number, indices in enumerate((1, 4, (0, 2), [-1, 1], (3,), (-4, -4))):
        output_fmt = ("NCHW", "NLC")[number % 2]
        how = {"out_indices": indices, "output_fmt": output_fmt, "norm": norm}
        theirs = FeatureGetterNet(copy.deepcopy(model), **how)
        net = vitpool.model.FeatureGetterNet(ours, **how)
        double = FeatureGetterNet(copy.deepcopy(model).double(), **how)
        exact = reference.exactly(double, lambda m, x: m(x), x)
        plain = reference.plainly(theirs, lambda m, x: m(x), x)
        reference.compare(net(x), exact, plain, str(how))
        assert list(net.out_indices) == list(theirs.out_indices)
        mine, info = net.feature_info, theirs.feature_info
        assert list(mine.out_indices) == list(info.out_indices)
        assert len(mine) == len(info)
        for idx in (None, 0, -1, [1, 2]):
            assert mine.channels(idx) == info.channels(idx)
            assert mine.reduction(idx) == info.reduction(idx)
            assert mine.module_name(idx) == info.module_name(idx)
            assert mine.get_dicts(idx=idx) == info.get_dicts(idx=idx)
        assert list(net.state_dict()) == list(theirs.state_dict())
        names = [name for name, _ in theirs.named_modules()]
        assert [name for name, _ in net.named_modules()] == names


@pytest.mark.parametrize("indices", [0, 7, (6,), (-7, 0), [2, 6]])
def test_blocks_that_timm_refuses_are_refused(indices: Any) -> None:
    options = {"features_only": True, "out_indices": indices}
    with pytest.raises(AssertionError, match="out of range"):
        timm.create_model("test_vit", **options)
    with refused(ValueError, "indices"):
        vitpool.create_model("test_vit", **options)


def test_create_models_own_net_is_timms() -> None:
    for options in ({}, {"out_indices": None}, {"out_indices": [1, 4], "in_chans": 1}):
        theirs = timm.create_model("test_vit", features_only=True, **options)
        ours = vitpool.create_model("test_vit", features_only=True, **options)
        assert list(ours.out_indices) == list(theirs.out_indices)
        assert ours.pretrained_cfg == theirs.pretrained_cfg
        assert ours.default_cfg == theirs.default_cfg
        assert list(ours.state_dict()) == list(theirs.state_dict())
