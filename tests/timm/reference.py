# SPDX-License-Identifier: Apache-2.0
"""timm as the reference: built from vitpool's option names, run in both precisions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import measure
import numpy as np
import prepare  # noqa: F401
import torch
from golden import recipe
from timm import layers
from timm.layers import patch_embed
from timm.models import vision_transformer as vit
from timm.models import vision_transformer_relpos as relpos

NORMS = {"layernorm": layers.LayerNorm, "rmsnorm": layers.RmsNorm}


def norm_class(spec: Any) -> Any:
    """timm's class (or partial) for vitpool's way of naming a norm."""
    if spec is None:
        return None
    if isinstance(spec, str):
        return NORMS[spec.lower()]
    name, eps = spec
    return partial(NORMS[name.lower()], eps=eps)


def timm_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """timm's constructor arguments for vitpool's: classes where vitpool has names."""
    out = dict(options)
    for key in ("norm_layer", "embed_norm_layer"):
        if key in out:
            out[key] = norm_class(out[key])
    for key in ("mlp_layer", "block_fn"):
        if key in out:
            name = out[key]
            homes = [home for home in (vit, relpos, layers) if hasattr(home, name)]
            out[key] = getattr(homes[0], name)
    for key in ("img_size", "patch_size"):
        if isinstance(out.get(key), list):
            out[key] = tuple(out[key])
    return out


def build(options: Mapping[str, Any]) -> vit.VisionTransformer:
    """timm's model in evaluation mode, with timm's own initialisation."""
    model: vit.VisionTransformer = vit.VisionTransformer(**timm_options(options))
    return model.eval()


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The state dict as NumPy arrays."""
    return {key: value.detach().numpy() for key, value in model.state_dict().items()}


def fill(model: torch.nn.Module, seed: int = 0) -> dict[str, np.ndarray]:
    """Give a timm model the recipe's weights; returns them."""
    weights = recipe.weights(shapes(model), seed)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    return weights


@contextmanager
def unrounded() -> Iterator[None]:
    """Let float64 stay float64 where timm says `.float()`.

    timm resamples position and patch embeddings in float32 and rounds differential
    attention's lambda to it, whatever the model's dtype. The exact answer does not.
    """
    plain = torch.Tensor.float

    def keep(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        double = tensor.dtype == torch.float64
        return tensor if double else plain(tensor, *args, **kwargs)

    with mock.patch.object(torch.Tensor, "float", keep):
        with mock.patch.object(patch_embed, "DTYPE_INTERMEDIATE", torch.float64):
            yield


def tensor(value: Any, double: bool = False) -> Any:
    """NumPy to torch; floating arrays to float64 on request."""
    if not isinstance(value, np.ndarray):
        return value
    out = torch.from_numpy(value)
    return out.double() if double and out.is_floating_point() else out


def arrays(value: Any) -> Any:
    """Torch to NumPy, through lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    if isinstance(value, (list, tuple)):
        return [arrays(item) for item in value]
    if isinstance(value, dict):
        return {key: arrays(item) for key, item in value.items()}
    return value


Call = Callable[..., Any]


def plainly(model: vit.VisionTransformer, call: Call, *args: Any) -> Any:
    """`call(model, *args)` as NumPy."""
    with torch.no_grad():
        return arrays(call(model, *(tensor(a) for a in args)))


def exactly(double: vit.VisionTransformer, call: Call, *args: Any) -> Any:
    """The same in float64, of a model that is."""
    with torch.no_grad(), unrounded():
        return arrays(call(double, *(tensor(a, double=True) for a in args)))


def both(model: vit.VisionTransformer, call: Call, *args: Any) -> tuple[Any, Any]:
    """`call(model, *args)` in float64 and in float32, as NumPy."""
    double = copy.deepcopy(model).double()
    return exactly(double, call, *args), plainly(model, call, *args)


def compare(ours: Any, exact: Any, plain: Any, what: str = "") -> list[float]:
    """Assert that ours agrees with timm's float64 by the measure, array by array.

    Returns our errors over those of timm's float32.
    """
    got, want = dict(recipe.flat(ours)), dict(recipe.flat(exact))
    rough = dict(recipe.flat(plain))
    if got.keys() != want.keys():
        raise AssertionError(f"{what}: vitpool has {list(got)}, timm {list(want)}")
    ratios = []
    for path, value in want.items():
        timm = measure.error(rough[path], value)
        ratios.append(measure.check(got[path], value, timm, f"{what} {path}"))
    return ratios


# The error of one small output is luck, timm's as much as ours. So a call is compared
# for this many versions of its input, which differ by a thousandth: the function is as
# well or as badly conditioned at each of them, and every number is rounded anew.
VERSIONS = 8


def versions(x: np.ndarray, count: int = VERSIONS) -> list[np.ndarray]:
    """x, and x with each number changed by a thousandth at most."""
    out = [x]
    for number in range(1, count):
        change = 1e-3 * recipe.uniform(x.shape, f"version {number}")
        out.append((x * (1 + change)).astype(np.float32))
    return out


def stacked(results: list[Any]) -> dict[str, np.ndarray]:
    """The arrays of several results of one form, by path, on a new first axis."""
    flat = [dict(recipe.flat(result)) for result in results]
    return {path: np.stack([one[path] for one in flat]) for path in flat[0]}


def check(
    ours: Any,
    model: vit.VisionTransformer,
    call: Call,
    x: np.ndarray,
    *args: Any,
    what: str = "",
    count: int = VERSIONS,
) -> list[float]:
    """Assert that `call(either, x, *args)` agrees, over so many versions of x.

    Returns our errors over those of timm's float32.
    """
    double = copy.deepcopy(model).double()
    given = [(near, *args) for near in versions(x, count)]
    got = stacked([call(ours, *inputs) for inputs in given])
    plain = stacked([plainly(model, call, *inputs) for inputs in given])
    exact = stacked([exactly(double, call, *inputs) for inputs in given])
    return compare(got, exact, plain, what)


def views(model: Any, x: Any, **how: Any) -> dict[str, Any]:
    """forward, forward_features and pre_logits of either model."""
    tokens = model.forward_features(x, **how)
    return {
        "forward_features": tokens,
        "pre_logits": model.forward_head(tokens, pre_logits=True),
        "forward": model(x, **how),
    }


def agree(
    ours: Any, model: vit.VisionTransformer, x: np.ndarray, count: int = VERSIONS
) -> list[float]:
    """Assert that keys, shapes and the three views agree; returns the error ratios."""
    expected = list(shapes(model).items())
    found = [(k, tuple(v)) for k, v in ours.param_shapes().items()]
    if found != expected:
        raise AssertionError(f"vitpool has {found}, timm {expected}")
    return check(ours, model, views, x, count=count)
