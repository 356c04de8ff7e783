# SPDX-License-Identifier: Apache-2.0
"""timm, torch and transformers on folders of ours in bfloat16, float16 and integers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from timm.models import save_for_hf

import vitpool

QKV = "blocks.0.attn.qkv.weight"


def ours(dtype: str) -> Any:
    options = {"img_size": 32, "depth": 2, "num_classes": 5}
    return vitpool.create_model("vit_tiny_patch16_224", seed=0, dtype=dtype, **options)


def tensors(model: Any) -> dict[str, torch.Tensor]:
    """What the model keeps, as torch has it."""
    out = {}
    for name, array in model.state_dict(dequantize=False).items():
        if array.dtype.name == "bfloat16":
            bits = torch.from_numpy(array.view(np.int16))
            out[name] = bits.view(torch.bfloat16)
        else:
            out[name] = torch.from_numpy(array)
    return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_timm_reads_a_folder_of_floats_as_float32(tmp_path, dtype) -> None:
    model = ours(dtype)
    model.save_pretrained(tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    for name, parameter in theirs.named_parameters():
        assert parameter.dtype == torch.float32
        want = model.get_parameter(name)
        np.testing.assert_array_equal(parameter.detach().numpy(), want)


def test_timm_refuses_a_folder_of_integers_by_the_scales(tmp_path) -> None:
    """And takes its numbers as floats."""
    model = ours("int8")
    model.save_pretrained(tmp_path / "low")
    with pytest.raises(RuntimeError, match=f"Unexpected key.*{QKV}_scale"):
        timm.create_model(f"local-dir:{tmp_path / 'low'}", pretrained=True)
    model.to("float32").save_pretrained(tmp_path / "wide")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'wide'}", pretrained=True)
    for name, parameter in theirs.named_parameters():
        want = model.get_parameter(name)
        np.testing.assert_array_equal(parameter.detach().numpy(), want)


def test_transformers_passes_over_our_key(tmp_path) -> None:
    model = ours("bfloat16")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "vitpool" in config
    del config["model_args"]["num_classes"]  # which transformers gives beside them
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path, dtype=torch.float32
    )
    weight = theirs.state_dict()[f"timm_model.{QKV}"]
    np.testing.assert_array_equal(weight.numpy(), model.get_parameter(QKV))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_folder_that_timm_wrote_in_low_precision(tmp_path, dtype) -> None:
    """float32, unless the dtype is asked for: then its very numbers."""
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
    theirs = theirs.to(getattr(torch, dtype))
    args = {"img_size": 32, "depth": 2}
    save_for_hf(theirs, tmp_path, model_args=args, safe_serialization=True)
    weights = theirs.float().state_dict()
    for asked in (None, dtype):
        model = vitpool.create_model(f"local-dir:{tmp_path}", True, dtype=asked)
        assert model.dtype == (asked or "float32")
        for name, want in weights.items():
            np.testing.assert_array_equal(model.get_parameter(name), want.numpy())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_a_file_of_torchs_holds_a_state_dict_of_any_dtype(tmp_path, dtype) -> None:
    model = ours(dtype)
    file = tmp_path / "model.pth"
    torch.save(tensors(model), file)
    read = vitpool.open_state_dict(file)
    assert read.shapes() == model.param_shapes()
    for name in read:
        np.testing.assert_array_equal(read[name], model.get_parameter(name))
    other = vitpool.VisionTransformer(**model.config, seed=9)
    other._replace(None, {}, (), model._dtypes())
    vitpool.load_checkpoint(other, file)
    for name, kept in model._dtypes().items():
        if kept.startswith("int8"):
            both = other._integers(name), model._integers(name)
            for one, two in zip(*both, strict=True):
                np.testing.assert_array_equal(one, two)


def test_a_state_dict_of_torchs_integers_is_converted() -> None:
    from vitpool.checkpoint import Spec, convert_state_dict

    model = ours("int8")
    converted = convert_state_dict(tensors(model), Spec.from_model(model))
    assert converted.shapes() == model.param_shapes()
    np.testing.assert_array_equal(converted[QKV], model.get_parameter(QKV))
    q, scale = converted.kept()[QKV]
    np.testing.assert_array_equal(q, model._integers(QKV)[0])
    np.testing.assert_array_equal(scale, model._integers(QKV)[1])
