# SPDX-License-Identifier: Apache-2.0
"""What a model is, as flat facts by path: of ours and of a torch module alike.

Both are walked by their modules, which are known by their attributes and by what they
do, so that a fork's classes tell as much as timm's. A part's fact is its kind, at its
path (`blocks.3.mlp.act`: 'gelu'); what it is like is below that (`blocks.3.norm1.eps`).
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ...model.parts import Module

Facts: TypeAlias = dict[str, Any]
Difference: TypeAlias = tuple[str, Any, Any]  # fact, the reference's, the candidate's
Shape: TypeAlias = tuple[int, ...]
# What a part gives for an array, as an array.
Run: TypeAlias = Callable[[Any, Any], Any]

# Attributes of the model itself.
_MODEL = (
    "global_pool",
    "num_classes",
    "num_features",
    "num_prefix_tokens",
    "no_embed_class",
    "pool_include_prefix",
    "dynamic_img_size",
)
# Attributes of any part: of attention, of an MLP with a gate, of attention pools, of
# what tells places from each other.
_PART = (
    "num_heads",
    "scale",
    "lambda_init",
    "num_parallel",
    "gate_last",
    "latent_len",
    "pool",
    "num_kv_heads",
    "rotate_half",
    "temperature",
    "grid_indexing",
    "grid_offset",
    "ref_feat_shape",
    "window_size",
    "mode",
)
# What forks call register tokens, and a norm's eps.
_REGISTERS = ("reg_token", "register_tokens")
_EPS = ("eps", "variance_epsilon", "epsilon")
# Words of the name of a class or of one of its bases, in lower case: kinds, and what
# gives at inference what it gets.
_KINDS = ("layernorm", "rmsnorm", "batchnorm", "groupnorm", "layerscale")
_NOTHING = ("identity", "drop")

_BLOCK = re.compile(r"(.*\bblocks)\.(\d+)\.(.+)")
_POINTS = np.linspace(-6, 6, 97, dtype=np.float32)


def facts_of(model: Any) -> Facts:
    """The facts of a vitpool model."""

    def run(part: Any, x: Any) -> Any:
        return part.forward(x)

    return _facts(model, dict(model.named_modules()), model.param_shapes(), run)


def facts_of_module(module: Any) -> Facts:
    """The facts of a torch module: timm's, a fork's, or another with `blocks`.

    What it has not is left out, and whatever its attributes hold, nothing is raised.
    Small parts are run on a few numbers, without the module's hooks.
    """
    torch = sys.modules["torch"]

    def run(part: Any, x: Any) -> Any:
        like = next(part.parameters(), torch.empty(0))
        with torch.no_grad():
            given = torch.tensor(x, dtype=like.dtype, device=like.device)
            return part.forward(given).float().cpu().numpy()

    parameters = module.named_parameters(remove_duplicate=False)
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters}
    modules = dict(module.named_modules(remove_duplicate=False))
    return _facts(module, modules, shapes, run)


def _facts(
    model: Any, modules: Mapping[str, Any], shapes: Mapping[str, Shape], run: Run
) -> Facts:
    facts = {name: _plain(_get(model, name)) for name in _MODEL}
    tokens = {name.removeprefix("embeds."): shape for name, shape in shapes.items()}
    facts["class_token"] = "cls_token" in tokens
    facts["reg_tokens"] = sum(tokens[n][1] for n in _REGISTERS if n in tokens)
    embed = _get(model, "patch_embed") or _get(model, "embeds")  # NaFlexVit's
    for name in ("img_size", "patch_size"):
        size = _plain(_get(embed, name))
        facts[name] = (size, size) if isinstance(size, int) else size
    channels = (_get(_get(embed, "proj"), "in_channels"), _get(embed, "in_chans"))
    facts["in_chans"] = next((n for n in map(_plain, channels) if n), None)
    blocks = _get(model, "blocks")
    facts["depth"] = len(blocks) if hasattr(blocks, "__len__") else None
    parents = {path.rpartition(".")[0] for path in modules}
    own: dict[str, dict[str, Shape]] = {path: {} for path in modules}
    for name, shape in shapes.items():
        path, _, last = name.rpartition(".")
        own[path][last] = shape
    for path, part in modules.items():
        if path:
            facts.update(_of_part(path, part, own[path], path not in parents, run))
    return {name: fact for name, fact in facts.items() if fact is not None}


def _of_part(
    path: str, part: Any, shapes: Mapping[str, Shape], leaf: bool, run: Run
) -> Iterator[tuple[str, Any]]:
    names = [cls.__name__.lower() for cls in type(part).__mro__]
    if any(word in name for name in names for word in _NOTHING):
        return
    if leaf:
        kind = (kind for kind in _KINDS if any(kind in name for name in names))
        yield path, next(kind, None) or _by_values(part, shapes, run)
        eps = (_plain(_get(part, name)) for name in _EPS)
        yield f"{path}.eps", next((e for e in eps if isinstance(e, float)), None)
    if len(shapes.get("weight", ())) > 1:
        yield f"{path}.bias", "bias" in shapes
    for name in _PART:
        yield f"{path}.{name}", _plain(_get(part, name))


def _by_values(part: Any, shapes: Mapping[str, Shape], run: Run) -> str | None:
    """What a part of another name computes, from a few numbers that are put into it: an
    activation, a norm or a scale; None: something else, or it does not run by itself.
    """
    lengths = set(shapes.values())
    try:
        if not lengths:
            return _activation(part, run)
        [[length]] = lengths
        return _norm_or_scale(part, length, run)
    except Exception:  # a part that takes no such numbers says so in its own way
        return None


def _activation(part: Any, run: Run) -> str | None:
    got = run(part, _POINTS)
    some = run(part, _POINTS[:40])
    if got.shape != _POINTS.shape or not _close(some, got[:40]):
        return None  # no function of each number
    if _close(got, _POINTS):
        return None
    for name, want in _activations():
        if _close(got, want):
            return name
    return type(part).__name__


def _close(one: Any, other: Any) -> bool:
    """Equal but for rounding, which may be another in each place of a row."""
    return bool(np.allclose(one, other, rtol=1e-5, atol=1e-6))


def _activations() -> Iterator[tuple[str, Any]]:
    x = _POINTS.astype(np.float64)
    erf = np.array([math.erf(number / math.sqrt(2)) for number in x])
    tanh = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    yield "gelu", x / 2 * (1 + erf)
    yield "gelu_tanh", x / 2 * (1 + tanh)
    yield "quick_gelu", x / (1 + np.exp(-1.702 * x))
    yield "silu", x / (1 + np.exp(-x))
    yield "relu", np.maximum(x, 0)


def _norm_or_scale(part: Any, length: int, run: Run) -> str | None:
    # rows of several sizes, for of size 1 a row is its own norm
    size = np.array([[3], [10], [30], [100]], np.float32)
    x = size * np.random.default_rng(0).standard_normal((4, length), np.float32)

    def alike(one: Any, other: Any) -> bool:
        return bool(np.allclose(one, other, rtol=0, atol=0.05 * np.abs(one).max()))

    y = run(part, x)
    if alike(y, x * run(part, np.ones_like(x))):
        return "layerscale"
    if alike(y, run(part, x + 3 * size)):
        return "layernorm"
    return "rmsnorm" if alike(y, run(part, 2 * x)) else None


def _get(thing: Any, name: str) -> Any:
    """An attribute; None where there is none, or a fork's property fails."""
    if isinstance(thing, Module) and not hasattr(type(thing), name):
        return None  # before a hint is made, which takes a while
    try:
        return getattr(thing, name, None)
    except Exception:  # whatever it raises
        return None


def _plain(value: Any) -> Any:
    """A value to compare and to write down; None for what is none.

    A float to seven digits: 1 / sqrt(8) and 8 ** -0.5 are not the same number.
    """
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return value if isinstance(value, (bool, int, str)) else None


def different(
    reference: Mapping[str, Any], candidate: Mapping[str, Any]
) -> tuple[Difference, ...]:
    """(fact, the reference's, the candidate's) of each that differs.

    A part that only one side has differs, and the other's is None. What is not told of
    a part or a model (an old fork that knows of no pool_include_prefix) does not.
    """
    names = [*reference, *(name for name in candidate if name not in reference)]
    found = []
    for name in names:
        ours, theirs = reference.get(name), candidate.get(name)
        unknown = ours is None or theirs is None
        if unknown and not isinstance(theirs if ours is None else ours, str):
            continue
        if _plain(ours) != _plain(theirs):
            found.append((name, ours, theirs))
    return tuple(found)


def folded(differences: Sequence[Difference]) -> list[Difference]:
    """The same with one line for what blocks have in common: blocks.0-11.norm1.eps."""
    blocks: dict[tuple[str, ...], list[int]] = {}
    lines: dict[tuple[str, ...], Difference] = {}
    for name, ours, theirs in differences:
        found = _BLOCK.fullmatch(name)
        where = (found[1], found[3]) if found else (name,)
        key = (*where, repr(ours), repr(theirs))
        lines.setdefault(key, (name, ours, theirs))
        if found:
            blocks.setdefault(key, []).append(int(found[2]))
    return [
        (f"{key[0]}.{_ranges(blocks[key])}.{key[1]}", ours, theirs)
        if key in blocks
        else (name, ours, theirs)
        for key, (name, ours, theirs) in lines.items()
    ]


def _ranges(numbers: Sequence[int]) -> str:
    """'0-3,7' of ascending numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(
        str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs
    )
