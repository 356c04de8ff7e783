# SPDX-License-Identifier: Apache-2.0
"""`from_timm(..., like_timm=True)`: a copy of timm's classes, after both have run."""

from __future__ import annotations

import inspect
import types
from typing import Any

import numpy as np
import pytest
import reference
import torch
from test_from_timm import SMALL, TOLERANCE, Subclass, picture, randomise, small
from timm.models import vision_transformer as vit

from vitpool import from_timm


def vendored(*change: str) -> Any:
    """timm's file as a module of somebody else's, with one text replaced by another."""
    source = inspect.getsource(vit)
    source = source[: source.index("@register_model")]
    if change:
        assert change[0] in source
        source = source.replace(*change)
    module = types.ModuleType("vendored.vision_transformer")
    module.__package__ = "timm.models"  # of its relative imports
    exec(compile(source, "vision_transformer.py", "exec"), vars(module))
    return module


def built(module: Any, **options: Any) -> Any:
    made = module.VisionTransformer(**reference.timm_options(SMALL | options))
    return randomise(made.eval())


@pytest.mark.parametrize(
    "options",
    [{}, {"global_pool": "map", "class_token": False}, {"init_values": 1e-5}],
    ids=str,
)
def test_a_copy_of_timms_class_is_taken_after_both_have_run(
    options: dict[str, Any],
) -> None:
    copied = built(vendored(), **options)
    assert type(copied) is not vit.VisionTransformer
    copied.train().half()
    with pytest.raises(TypeError, match=r"got vendored.*; like_timm=True takes a copy"):
        from_timm(copied)
    ours = from_timm(copied, like_timm=True)
    assert copied.training
    assert copied.head.weight.dtype == torch.float16
    x = picture(copied)
    with torch.inference_mode():
        want = copied.float().eval()(x).numpy()
    assert np.abs(ours(x.numpy()) - want).max() <= TOLERANCE * np.abs(want).max()


def test_a_subclass_and_copied_layers_are_taken() -> None:
    assert from_timm(randomise(Subclass(**SMALL)), like_timm=True).embed_dim == 32
    mixed = small()
    mixed.blocks[0] = built(vendored()).blocks[0]
    with pytest.raises(ValueError, match=r"blocks\.0: vendored.*; like_timm=True"):
        from_timm(mixed)
    assert from_timm(mixed, like_timm=True).embed_dim == 32


@pytest.mark.parametrize("like_timm", [False, True])
def test_timms_own_is_taken_either_way(like_timm: bool) -> None:
    assert from_timm(small(), like_timm=like_timm).embed_dim == 32


CHANGED = {
    "a residual": (
        "x = x + self.drop_path2(self.ls2(",
        "x = x - self.drop_path2(self.ls2(",
    ),
    "the class token": ("x = self.norm(x)", "x = self.norm(x.flip(1))"),
    "a shape": ("x = self.forward_head(x)", "x = self.forward_head(x)[:, 1:]"),
}


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("init_values", [None, 1e-5])
def test_a_copy_that_computes_something_else_is_refused(
    name: str, init_values: float | None
) -> None:
    """Be it hidden behind LayerScale and a head of zeros."""
    copied = built(vendored(*CHANGED[name]), init_values=init_values)
    if init_values:
        with torch.no_grad():
            copied.head.weight.zero_()
            for block in copied.blocks:
                block.ls1.gamma.fill_(init_values)
                block.ls2.gamma.fill_(init_values)
    with pytest.raises(ValueError, match="not timm's function"):
        from_timm(copied, like_timm=True)


def test_a_copy_without_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="from_timm: cls_token: a meta tensor"):
        from_timm(built(vendored()).to("meta"), like_timm=True)


def test_a_copy_built_otherwise_is_refused() -> None:
    """As of an older timm, whose attribute was of another name."""
    copied = built(vendored())
    del copied.no_embed_class
    with pytest.raises(ValueError, match=r"not built as timm's is: .*no_embed_class"):
        from_timm(copied, like_timm=True)


def test_a_class_of_that_name_of_other_parts_is_refused() -> None:
    from torchvision.models import vit_b_16

    with torch.device("meta"):
        model = vit_b_16()
    with pytest.raises(TypeError, match="like_timm=True takes a copy"):
        from_timm(model)
    with pytest.raises(ValueError, match="patch_embed: no module"):
        from_timm(model, like_timm=True)
