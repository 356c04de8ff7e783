# SPDX-License-Identifier: Apache-2.0
"""The weights, pictures and masks of the goldens, as a recipe instead of files.

Each number follows from a seed, the array's name and the position in it, by integer
arithmetic (splitmix64) and one rounding, so that it is the same on every machine and
with every version of NumPy.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def uniform(shape: Sequence[int], name: str, seed: int = 0) -> np.ndarray:
    """Float64 array in [-1, 1), in steps of 2**-23."""
    start = zlib.crc32(f"{seed}:{name}".encode()) << 24
    z = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) + np.uint64(start)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    unit = (z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0
    return unit.reshape(tuple(shape))


def scaled(key: str, u: np.ndarray) -> np.ndarray:
    """Numbers in [-1, 1) as the weight `key`, so large that activations stay alive."""
    last = key.rsplit(".", 1)[-1]
    if last == "weight" and u.ndim > 1:
        u = u * math.sqrt(3.0 / math.prod(u.shape[1:]))
    elif last == "weight":
        u = 1.0 + 0.25 * u
    elif last == "gamma":
        u = 0.5 + 0.5 * u
    elif last in ("bias", "mlp_bias"):
        u = 0.25 * u
    elif last == "running_var":
        u = 1.0 + 0.5 * u
    elif last.startswith("lambda_"):
        u = 0.5 * u
    return u.astype(np.float32, copy=False)


def weight(key: str, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Float32 weight for a state-dict key."""
    return scaled(key, uniform(shape, key, seed))


def weights(
    shapes: Mapping[str, Sequence[int]], seed: int = 0
) -> dict[str, np.ndarray]:
    """A whole state dict for `shapes`."""
    return {key: weight(key, shape, seed) for key, shape in shapes.items()}


def picture(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Float32 input (B, C, H, W) in [-2, 2)."""
    return (2.0 * uniform(shape, "picture", seed)).astype(np.float32)


def mask(kind: str, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Attention mask (..., N, N): `bool`, `additive`, or `bool_empty_row`.

    Every query may see itself, except query 1 of `bool_empty_row`, which sees nobody.
    """
    u = uniform(shape, "mask", seed)
    tokens = np.arange(shape[-1])
    if kind == "additive":
        u[u < -0.5] = -np.inf
        u[..., tokens, tokens] = 0.25
        return u.astype(np.float32)
    seen = u > -0.2
    seen[..., tokens, tokens] = True
    if kind == "bool_empty_row":
        seen[..., 1, :] = False
    return seen


def inputs(spec: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What goes into a golden case: `x`, and `mask` where it has one."""
    options = spec["options"]
    size = options["img_size"]
    height, width = size if isinstance(size, Sequence) else (size, size)
    x = picture(spec.get("shape", (2, options.get("in_chans", 3), height, width)))
    spoil = spec.get("spoil")
    if spoil == "huge":
        x[1] *= np.float32(1e15)
    elif spoil == "tiny":
        x[1] *= np.float32(1e-30)
    elif spoil:
        x[1, 2, 5, 7] = float(spoil)
    out = {"x": x}
    if "mask" in spec:
        out["mask"] = mask(spec["mask"]["kind"], spec["mask"]["shape"])
    return out


VIEWS = [["forward", {}], ["forward_features", {}], ["pre_logits", {}]]


def run(model: Any, spec: dict[str, Any], data: dict[str, np.ndarray]) -> Any:
    """The outputs that a case asks for, as name -> nested arrays."""
    how: dict[str, Any] = {}
    if "mask" in data:
        how["attn_mask"] = data["mask"]
    if spec.get("is_causal"):
        how["is_causal"] = True
    out = {}
    for name, given in spec.get("views", VIEWS):
        if name == "pre_logits":
            tokens = model.forward_features(data["x"], **how)
            out[name] = model.forward_head(tokens, pre_logits=True)
        else:
            out[name] = getattr(model, name)(data["x"], **how, **given)
    return out


def flat(value: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every array in nested lists, tuples and dicts, with its path."""
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from flat(item, f"{path}[{i}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}".lstrip("."))
    else:
        yield path, value


def cases() -> list[dict[str, Any]]:
    """The records of cases.json, with tuples for pairs and shapes."""
    records = json.loads((Path(__file__).parent / "cases.json").read_text())
    for record in records:
        for group in ("options", "parameters"):
            pairs = record[group].items()
            record[group] = {k: tuple(v) if type(v) is list else v for k, v in pairs}
        for output in record["outputs"].values():
            output["shape"] = tuple(output["shape"])
    return list(records)


def outputs(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """timm's float64 outputs of one case, by path."""
    with np.load(Path(__file__).parent / "outputs.npz") as stored:
        values = stored[record["name"]]
    out, start = {}, 0
    for path, output in record["outputs"].items():
        end = start + math.prod(output["shape"])
        out[path] = values[start:end].reshape(output["shape"])
        start = end
    return out
