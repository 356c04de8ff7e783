# SPDX-License-Identifier: Apache-2.0
"""Every part computes what timm's module of its path does, and prints as it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from dice import Dice, examples
from golden import recipe
from models import BASE
from test_random_configs import configuration, models, whole_patches
from test_tree import by_default, timms_text

import vitpool


def inputs_of(model: Any, x: Any) -> dict[str, Any]:
    """What goes into each module that runs in a pass, by path; the first if several."""
    given: dict[str, Any] = {}

    def keep(path: str, args: tuple[Any, ...]) -> None:
        if args:  # Beit's RelativePositionBias takes nothing
            given.setdefault(path, args[0].clone())

    hooks = [
        module.register_forward_pre_hook(lambda _, args, path=path: keep(path, args))
        for path, module in model.named_modules()
        if path
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return given


@pytest.mark.parametrize("example", examples(40))
def test_every_part_of_a_random_configuration_computes_as_timms(example: int) -> None:
    """On what it is given within a pass, and its text is timm's."""
    options = configuration(Dice("parts", example))
    ours, model = models(options)
    size = whole_patches(options)
    x = torch.from_numpy(recipe.picture((2, options["in_chans"], *size)))
    given = inputs_of(model, x)
    assert "patch_embed.proj" in given
    for path, value in given.items():
        part, module = ours.get_submodule(path), model.get_submodule(path)
        reference.check(part, module, lambda m, x: m(x), value.numpy(), what=path)
    for path, module in model.named_modules():
        shown = repr(ours.get_submodule(path))
        assert shown == by_default(timms_text(module)), path


def written_out(model: Any, x: Any) -> Any:
    """timm's forward, as people write it out to change it."""
    x = model._pos_embed(model.patch_embed(x))
    x = model.norm_pre(model.patch_drop(x))
    for block in model.blocks[: len(model.blocks) // 2]:
        x = block(x)
    x = model.blocks[len(model.blocks) // 2 :](x)
    return model.forward_head(model.norm(x))


@pytest.mark.parametrize("example", examples(30))
def test_a_forward_that_is_written_out_agrees(example: int) -> None:
    options = configuration(Dice("written out", example))
    ours, model = models(options)
    size = options["img_size"]
    if "dynamic_img_size" in options:
        patch = options["patch_size"]
        size = tuple((s // p + 1) * p for s, p in zip(size, patch, strict=True))
    x = recipe.picture((2, options["in_chans"], *size))
    reference.check(ours, model, written_out, x)


MASKS = ["bool", "additive"]


@pytest.mark.parametrize("kind", [*MASKS, "causal"])
@pytest.mark.parametrize("attn_layer", ["attn", "diff"])
def test_attention_and_blocks_take_a_mask_as_timms(kind: str, attn_layer: str) -> None:
    ours, model = models(BASE | {"attn_layer": attn_layer})
    tokens = recipe.picture((2, 5, 32))
    how: dict[str, Any] = {"is_causal": True}
    if kind != "causal":
        how = {"attn_mask": recipe.mask(kind, (2, 1, 5, 5))}
    theirs = {k: reference.tensor(v) for k, v in how.items()}
    for path in ("blocks.0", "blocks.0.attn"):
        with torch.no_grad():
            want = model.get_submodule(path)(torch.from_numpy(tokens), **theirs)
        got = ours.get_submodule(path)(tokens, **how)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)


def test_a_tensor_gives_a_tensor_and_an_array_an_array() -> None:
    ours, model = models(BASE | {"depth": 3})
    x = torch.from_numpy(recipe.picture((2, 3, 32, 32)))
    tokens = model.patch_embed(x).detach()
    calls = [
        lambda m: m.patch_embed(x),
        lambda m: m.patch_embed.proj(x),
        lambda m: m.blocks[1:](tokens),
        lambda m: m.blocks[0].attn(tokens),
        lambda m: m.norm(tokens),
        lambda m: m.head_drop(tokens),
        lambda m: m.head(tokens[0, 0]),
    ]
    for call in calls:
        got, want = call(ours), call(model).detach()
        assert type(got) is torch.Tensor
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert type(ours.norm(tokens.numpy())) is np.ndarray


@pytest.mark.parametrize("block", ["Block", "ParallelThingsBlock", "ResPostBlock"])
def test_ways_through_the_tree_are_torchs(block: str) -> None:
    ours, model = models(BASE | {"depth": 4, "block_fn": block, "global_pool": "map"})
    pairs = [(ours, model)]
    pairs += [(ours.get_submodule(p), m) for p, m in model.named_modules() if p]
    pairs += [(ours.blocks[i], model.blocks[i]) for i in (-1, slice(1, 3))]
    pairs += [(ours.blocks[1:][::2], model.blocks[1:][::2])]
    for part, module in pairs:
        for way in ("named_modules", "named_children", "named_parameters"):
            names = [name for name, _ in getattr(part, way)()]
            assert names == [name for name, _ in getattr(module, way)()], way
        assert list(part.state_dict()) == list(module.state_dict())
        assert list(part.state_dict(prefix="a.")) == list(
            module.state_dict(prefix="a.")
        )
        for recurse in (False, True):
            names = [n for n, _ in part.named_parameters("x", recurse=recurse)]
            assert names == [
                n for n, _ in module.named_parameters("x", recurse=recurse)
            ]
        assert [type(m).__name__ for m in part.modules()] == [
            type(m).__name__ for m in module.modules()
        ]
        assert [p.shape for p in part.parameters()] == [
            tuple(p.shape) for p in module.parameters()
        ]
    # A slice of torch's Sequential keeps the names, which a ModuleList's text has not.
    want = timms_text(model.blocks[1:3]).replace("(0-1): 2 x", "(1-2): 2 x", 1)
    assert repr(ours.blocks[1:3]) == by_default(want)


FACTS = {
    "Linear": ["in_features", "out_features"],
    "Conv2d": ["in_channels", "out_channels", "kernel_size", "stride"],
    "LayerNorm": ["normalized_shape", "eps", "elementwise_affine"],
    "RmsNorm": ["normalized_shape", "eps", "elementwise_affine"],
    "LayerScale": ["init_values"],
    "Dropout": ["p"],
    "Attention": ["num_heads", "head_dim", "scale", "attn_dim"],
    "DiffAttention": ["num_heads", "head_dim", "scale", "lambda_init"],
    "GluMlp": ["gate_last"],
    "PatchEmbed": [
        "img_size",
        "patch_size",
        "grid_size",
        "num_patches",
        "strict_img_size",
        "dynamic_img_pad",
        "flatten",
    ],
    "AttentionPoolLatent": [
        "num_heads",
        "head_dim",
        "scale",
        "latent_len",
        "latent_dim",
        "out_features",
        "pool",
    ],
    "AttentionPoolPrr": ["num_heads", "head_dim", "scale", "out_features", "pool"],
    "ParallelScalingBlock": ["num_heads", "head_dim", "scale", "in_split"],
    "DiffParallelScalingBlock": ["num_heads", "head_dim", "scale", "lambda_init"],
    "ParallelThingsBlock": ["num_parallel"],
}


@pytest.mark.parametrize("example", examples(40))
def test_attributes_of_a_random_configuration_are_timms(example: int) -> None:
    """Facts, parameters and parts of each module; timm's None is None or no name."""
    options = configuration(Dice("attributes", example))
    ours, model = models(options)
    for path, module in model.named_modules():
        if not path:
            continue
        part = ours.get_submodule(path)
        for name in FACTS.get(type(module).__name__, ()):
            want = getattr(module, name)
            # timm itself has a list, where it is given one
            assert getattr(part, name) == (
                pytest.approx(want) if isinstance(want, float) else want
            ), (path, name)
        for name, parameter in module._parameters.items():
            got = getattr(part, name)
            assert (got is None) == (parameter is None), (path, name)
            if got is not None:
                np.testing.assert_array_equal(got, parameter.detach().numpy())
            assert name in dir(part)
        for name, child in module.named_children():
            if not name.isdigit():
                assert type(getattr(part, name)).__name__ == type(child).__name__
                assert name in dir(part)


def test_the_names_are_importable() -> None:
    ours, model = models(BASE | {"global_pool": "map"})
    for path, module in model.named_modules():
        if path:
            kind = getattr(vitpool.model, type(module).__name__)
            assert type(ours.get_submodule(path)) is kind
