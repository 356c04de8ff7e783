# SPDX-License-Identifier: Apache-2.0
"""A torch tensor in gives torch tensors out, of the numbers that NumPy gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from models import X, refused, small

TOKENS = small().forward_features(X)

# Whatever a model computes of x: the call, x, and options of the model.
Case = tuple[Callable[[Any, Any], Any], np.ndarray, dict[str, Any]]
CASES: dict[str, Case] = {
    "call": (lambda m, x: m(x), X, {}),
    "forward": (lambda m, x: m.forward(x, is_causal=True), X, {}),
    "any size": (lambda m, x: m(x), X, {"dynamic_img_size": True}),
    "attention": (lambda m, x: m(x, return_attn=[0]), X, {}),
    "features": (lambda m, x: m.forward_features(x), X, {}),
    "some blocks": (lambda m, x: m.forward_blocks(x, 0, 1), TOKENS, {}),
    "no blocks": (lambda m, x: m.forward_blocks(x, 1), TOKENS, {}),
    "head": (lambda m, x: m.forward_head(x), TOKENS, {}),
    "pre_logits": (lambda m, x: m.forward_head(x, pre_logits=True), TOKENS, {}),
    "pool": (lambda m, x: m.pool(x), TOKENS, {}),
    "no pool": (lambda m, x: m.pool(x, ""), TOKENS, {}),
    "intermediates": (lambda m, x: m.forward_intermediates(x), X, {}),
    "prefix": (
        lambda m, x: m.forward_intermediates(x, return_prefix_tokens=True),
        X,
        {"reg_tokens": 2},
    ),
    "dict": (lambda m, x: m.forward_intermediates(x, output_dict=True), X, {}),
    "maps": (lambda m, x: m.get_intermediate_layers(x, reshape=True), X, {}),
    "patch_embed": (lambda m, x: m.patch_embed(x), X, {}),
    "block": (lambda m, x: m.blocks[0](x), TOKENS, {}),
    "attention alone": (lambda m, x: m.blocks[0].attn(x), TOKENS, {}),
    "blocks": (lambda m, x: m.blocks(x), TOKENS, {}),
    "norm": (lambda m, x: m.norm(x), TOKENS, {}),
    "identity": (lambda m, x: m.norm_pre(x), TOKENS, {}),
    "linear": (lambda m, x: m.head(x), TOKENS[:, 0], {}),
}

every_call = pytest.mark.parametrize(
    ("call", "x", "options"), CASES.values(), ids=CASES
)


def arrays(answer: Any) -> list[Any]:
    """The arrays and tensors in an answer, in order."""
    if isinstance(answer, dict):
        return [array for value in answer.values() for array in arrays(value)]
    if isinstance(answer, (tuple, list)):
        return [array for value in answer for array in arrays(value)]
    return [answer]


def shape(answer: Any) -> Any:
    """The answer with each array's place marked."""
    if isinstance(answer, dict):
        return {key: shape(value) for key, value in answer.items()}
    if isinstance(answer, (tuple, list)):
        return type(answer)(shape(value) for value in answer)
    return "array"


@every_call
def test_a_tensor_gives_tensors_and_an_array_gives_arrays(
    call: Any, x: np.ndarray, options: dict[str, Any]
) -> None:
    model = small(**options)
    want, got = call(model, x), call(model, torch.from_numpy(x.copy()))
    assert shape(got) == shape(want)
    for ours, array in zip(arrays(got), arrays(want), strict=True):
        assert type(array) is np.ndarray
        assert type(ours) is torch.Tensor
        assert ours.dtype == torch.float32
        assert not ours.requires_grad
        np.testing.assert_array_equal(ours.numpy(), array)
        ours.add_(1)  # memory of the caller's own


@every_call
def test_a_gradient_that_nobody_computes_is_refused(
    call: Any, x: np.ndarray, options: dict[str, Any]
) -> None:
    model = small(**options)
    given = torch.from_numpy(x.copy()).requires_grad_()
    with refused(ValueError, "gradient", "no_grad", "detach", model=model):
        call(model, given)
    want = arrays(call(model, x))
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            got = arrays(call(model, given))
        for ours, array in zip(got, want, strict=True):
            np.testing.assert_array_equal(ours.numpy(), array)
    assert isinstance(arrays(call(model, given.detach()))[0], torch.Tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_answer_is_float32_whatever_the_tensor_is(dtype: torch.dtype) -> None:
    model = small()
    given = torch.from_numpy(X).to(dtype)
    got = model(given)
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy(), model(given.float().numpy()))


def test_a_mask_of_torch_leaves_an_array_an_array() -> None:
    assert type(small()(X, attn_mask=torch.ones(5, 5))) is np.ndarray


def test_a_tensor_elsewhere_is_refused() -> None:
    model = small()
    with refused(TypeError, "x", "meta device", model=model):
        model(torch.from_numpy(X).to("meta"))


def test_a_tensor_trains_what_follows_the_model() -> None:
    """A frozen tower below a head of torch's, as people use one."""
    model = small(num_classes=0)
    head = torch.nn.Linear(32, 3)
    head(model(torch.from_numpy(X))).sum().backward()
    assert head.weight.grad is not None
