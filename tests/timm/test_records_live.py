# SPDX-License-Identifier: Apache-2.0
"""Records of timm's own models, and those that timm's own test would take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import vitpool
import vitpool.testing.plugin  # else pytester forgets it, and has a class of ours twice
from vitpool.testing import assert_models_close, compare, open_record, write_record
from vitpool.testing.comparison.opened import opened
from vitpool.testing.record import record_of

pytest_plugins = ["pytester"]

SMALL: dict[str, Any] = {"img_size": 32, "embed_dim": 64, "depth": 2, "num_heads": 2}
MODELS = {
    "vit_tiny_patch16_224": SMALL,
    "vit_small_patch14_reg4_dinov2": SMALL | {"img_size": 28, "num_classes": 0},
    "vit_base_patch16_siglip_224": SMALL | {"num_classes": 7},
    "vit_base_patch32_clip_224": SMALL | {"img_size": 64},
    "vit_base_patch16_gap_224": SMALL | {"num_classes": 3, "fc_norm": True},
}


@pytest.fixture(params=MODELS, scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A model of timm's, and vitpool's of the same weights."""
    torch.manual_seed(0)
    module = timm.create_model(request.param, **MODELS[request.param]).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.endswith("weight"):
                parameter.normal_(std=0.25)
    return module, vitpool.from_timm(module)


def check_as_timm_does(module: Any, file: Path) -> None:
    """What timm's test_model_inference asks of a file of its repositories."""
    tensors = load_file(file)
    with torch.inference_mode():
        features = module.forward_features(tensors["input"])
        found = {
            "output": module(tensors["input"]),
            "features": features,
            "pre_logits": module.forward_head(features, pre_logits=True),
        }
    for name, tensor in found.items():
        assert torch.allclose(tensor, tensors[name], rtol=1e-3, atol=1e-4), name


def test_timms_own_test_takes_our_records(pair, tmp_path: Path) -> None:
    module, model = pair
    for number, written in enumerate(pair):
        write_record(tmp_path / f"{number}.safetensors", written)
        check_as_timm_does(module, tmp_path / f"{number}.safetensors")
    # and one that was made for the other suite first
    write_record(tmp_path / "a.npz", model, intermediates=[0, "features"])
    write_record(tmp_path / "b.safetensors", open_record(tmp_path / "a.npz"))
    check_as_timm_does(module, tmp_path / "b.safetensors")


def test_timms_records_hold_our_models(pair, tmp_path: Path) -> None:
    module, model = pair
    size = opened(module).input_size
    x = torch.randn(2, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features = module.forward_features(x)
        tensors = {
            "input": x,
            "output": module(x),
            "features": features,
            "pre_logits": module.forward_head(features, pre_logits=True),
        }
    path = tmp_path / "rand_tensors.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    for side in (model, module):
        assert_models_close(side, path)
        assert [row.name for row in compare(path, side).stages] == [
            *("norm", "fc_norm", "head")
        ]
    broken = vitpool.from_timm(module)
    key = "blocks.1.mlp.fc2.bias"
    bias = np.array(broken.get_parameter(key))
    bias[0] += 0.1
    broken.load_state_dict({key: bias}, strict=False)
    with pytest.raises(AssertionError, match="part at norm"):
        assert_models_close(broken, path)


def test_a_record_of_either_holds_the_other(pair, tmp_path: Path) -> None:
    for number, (one, other) in enumerate((pair, pair[::-1])):
        path = tmp_path / f"{number}.npz"
        write_record(path, one, intermediates=[0, 1, "features"])
        comparison = compare(path, other)
        assert comparison.ok, comparison
        changed = {name for name, *_ in comparison.configuration}
        assert changed == {"target", "torch"}  # not the weights: their digest is one


def test_the_dtype_of_a_module_is_among_the_facts(pair) -> None:
    module, _ = pair
    record = record_of(opened(module))
    assert record.made["dtype"] == "float32"
    assert record.made["torch"] == torch.__version__
    half = record_of(opened(timm.create_model("vit_tiny_patch16_224", **SMALL).half()))
    assert half.made["dtype"] == "float16"
    assert all(array.dtype == np.float32 for array in half.stored.values())


def test_a_record_leaves_the_module_as_it_was(pair, tmp_path: Path) -> None:
    module = timm.create_model("vit_tiny_patch16_224", **SMALL).train()
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    write_record(tmp_path / "a.npz", module)
    assert all(part.training for part in module.modules())
    assert all(torch.equal(module.state_dict()[key], t) for key, t in before.items())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_the_fixture_takes_a_module(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import import_timm, timm, torch

        def test_pinned(model_regression):
            torch.manual_seed(0)
            options = dict(img_size=32, embed_dim=32, depth=1, num_heads=2)
            module = timm.create_model("vit_tiny_patch16_224", **options)
            model_regression.check(module, intermediates=[0])
        """
    )
    assert pytester.runpytest().parseoutcomes()["failed"] == 1
    assert pytester.runpytest().parseoutcomes()["passed"] == 1
