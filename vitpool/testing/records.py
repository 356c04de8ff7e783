# SPDX-License-Identifier: Apache-2.0
"""Records in files, in two layouts that a test suite may have already.

Both hold the same arrays, under the names that timm gives them: `input`, `output`
(logits), `pre_logits` (what the head gets), `features` (what the pool gets), and stages
by their own names, as 'blocks.3'. The facts of a record are JSON beside them.

.npz: what pytest-regressions' `ndarrays_regression` keeps; the facts are one more
array, of text. `input` is left out where a seed gives it.
.safetensors: what timm's own repositories keep in test/, for its tests; the facts are
in the metadata, and a file without any, as timm's are, is read as well.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import StateDict, lazy_tensors, write_safetensors
from ..checkpoint.content import content_of
from ..checkpoint.npz_file import open_npz
from ..checkpoint.safetensors_file import metadata_of, open_safetensors
from ..files import replacing
from ..text import printable, some
from .comparison.side import Array, place
from .record import ROLES, Record, record_of
from .seeded import noise

FORMAT = 1
# The array, or the entry of the metadata, that holds the facts.
FACTS = "vitpool"
# How many numbers pictures may have of which a file has the seed alone.
MOST = 2**27


def arrays_of(record: Record) -> dict[str, Array]:
    """What a file has of a record but for its facts, by its name there."""
    arrays = {} if record.seed is not None else {"input": record.images}
    arrays |= {role: record.stored[stage] for role, stage in record.roles.items()}
    others = set(record.stored) - set(record.roles.values())
    return arrays | {stage: record.stored[stage] for stage in sorted(others, key=place)}


def facts_of(record: Record) -> str:
    """The facts of a record, as JSON."""
    pictures = {"seed": record.seed, "shape": record.images.shape}
    told = {"format": FORMAT, "roles": record.roles, "pictures": pictures}
    return json.dumps(told | {"made": record.made, "model": record.configuration})


def write_record(
    path: str | os.PathLike[str],
    model: Any,
    images: Any = None,
    *,
    intermediates: Iterable[int | str] = (),
) -> None:
    """Write a record of a model, or one that was opened in the other layout.

    path: ends in .npz or .safetensors, which is the layout. model: whatever `compare`
    takes. images: (B, C, H, W), or files; by default `testing.images` of the model.
    intermediates: blocks by index and stages by name that are kept too.
    Raises ValueError for another ending, a stage that the model has not, and for what
    timm's layout cannot do without.
    """
    path = Path(os.fspath(path))
    timm = path.suffix == ".safetensors"
    if not timm and path.suffix != ".npz":
        raise ValueError(f"{path}: a record is a .npz or a .safetensors file")
    if not isinstance(model, Record):
        from .comparison.opened import opened  # which opens records

        model = record_of(opened(model), images, intermediates, features=timm)
    elif images is not None or [*intermediates]:
        raise TypeError("a record has pictures and intermediates of its own")
    arrays: dict[str, Any] = arrays_of(model)
    if timm:
        arrays["input"] = model.images
        missing = [role for role in ROLES if role not in arrays]
        if missing:
            raise ValueError(
                f"{model.name} has no {', '.join(missing)}, which timm's layout needs"
            )
    with replacing(path) as file:
        if timm:
            write_safetensors(file, lazy_tensors(arrays), {FACTS: facts_of(model)})
        else:
            arrays[FACTS] = np.array(facts_of(model))
            np.savez_compressed(file, **arrays)


def open_record(path: str | os.PathLike[str]) -> Record:
    """Open a record of either layout, a side for `compare`.

    Raises FileNotFoundError or another OSError where it cannot be opened, and
    ValueError, naming the file, for content that is damaged or no record.
    """
    path = Path(os.fspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"no such record: {path}")
    try:
        return _read(path)
    except ValueError as error:
        raise ValueError(printable(f"{path}: {error}")) from None


def _read(path: Path) -> Record:
    content = content_of(path)
    if content == "npz":
        tensors = open_npz(path)
        text = str(tensors.pop(FACTS).read()) if FACTS in tensors else "{}"
    elif content == "safetensors":
        tensors = open_safetensors(path)
        text = metadata_of(path).get(FACTS, "{}")
    else:
        raise ValueError(
            f"not a record, which is .npz or .safetensors, but a {content}"
        )
    told = _told(text)
    pictures = told.get("pictures", {"seed": None})
    roles = told.get("roles", ROLES)
    if not told:  # another's file, of whose arrays we know these
        tensors = {k: v for k, v in tensors.items() if k == "input" or _is_known(k)}
    arrays = dict(StateDict(tensors))
    if "input" in arrays:
        images = arrays.pop("input")
    elif pictures["seed"] is not None:
        images = noise(pictures["shape"], pictures["seed"])
    else:
        raise ValueError("not a record: it has no 'input', the pictures")
    if images.ndim != 4 or not arrays:
        raise ValueError(
            f"not a record: 'input' {images.shape}, and {some(arrays) or 'nothing'}"
        )
    stored = {roles.get(name, name): array for name, array in arrays.items()}
    for name, array in stored.items():
        place(name)
        if array.shape[:1] != images.shape[:1]:
            raise ValueError(f"{name} {array.shape} is not of 'input' {images.shape}")
    return Record(
        path.name,
        images,
        stored,
        roles,
        told.get("model"),
        told.get("made"),
        pictures["seed"],
    )


def _is_known(name: str) -> bool:
    try:
        place(ROLES.get(name, name))
    except ValueError:
        return False
    return True


def _told(text: str) -> dict[str, Any]:
    """The facts of a record, of its JSON; ValueError where they are not that."""
    try:
        told = json.loads(text)
        later = bool(told) and told["format"] > FORMAT
        sound = not told or later or _is_sound(told)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        later = sound = False
    if later:
        raise ValueError("a later version of vitpool wrote this record")
    if not sound:
        raise ValueError("damaged: its facts are not those of a record")
    return dict(_tuples(told))


def _is_sound(told: Any) -> bool:
    shape, seed = told["pictures"]["shape"], told["pictures"]["seed"]
    return (
        isinstance(told["made"], dict)
        and isinstance(told["model"], dict)
        and all(role in ROLES for role in told["roles"])
        and all(isinstance(stage, str) for stage in told["roles"].values())
        and len(shape) == 4
        and all(type(n) is int and n > 0 for n in shape)
        and (seed is None or (type(seed) is int and math.prod(shape) <= MOST))
    )


def _tuples(value: Any) -> Any:
    """What JSON gives as a list is a tuple among facts."""
    if isinstance(value, dict):
        return {name: _tuples(each) for name, each in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
