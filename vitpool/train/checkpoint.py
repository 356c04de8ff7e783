# SPDX-License-Identifier: Apache-2.0
"""A run's state in one file: safetensors with what tells the run from another."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint import lazy_tensors, write_safetensors
from ..checkpoint.safetensors_file import metadata_of, open_safetensors
from ..files import replacing, sync
from ..model import Float32
from ..text import some

FORMAT = 1
_KEY = "vitpool.train"


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Float32],
    facts: Mapping[str, Any],
) -> None:
    """Writes float32 arrays and facts (JSON); the file is there whole or as it was."""
    place = Path(path)
    told = json.dumps({"format": FORMAT, **facts})
    with replacing(place) as file:
        write_safetensors(file, lazy_tensors(arrays), {_KEY: told})
    sync(place.absolute().parent)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Float32], dict[str, Any]]:
    """(arrays, facts) of a file that `write` has made.

    OSError: it cannot be read. ValueError: it is something else, or cut off.
    """
    place = Path(path)
    try:
        tensors = open_safetensors(place)
        told = metadata_of(place).get(_KEY)
        arrays = {} if told is None else {k: t.read() for k, t in tensors.items()}
    except ValueError as error:
        raise ValueError(
            f"{place} is no whole checkpoint of vitpool.train: {error}"
        ) from error
    if told is None:
        raise ValueError(f"{place} is a safetensors file, but none of vitpool.train")
    facts: dict[str, Any] = json.loads(told)
    if facts["format"] != FORMAT:
        raise ValueError(
            f"{place} is a checkpoint of format {facts['format']}; this vitpool reads "
            f"{FORMAT}"
        )
    return arrays, facts


def refuse_other(
    path: str | os.PathLike[str], stored: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """ValueError: the file is of another run; the message says what differs.

    stored, now: facts in groups: {group: {name: value}}.
    """
    differ = []
    for group, facts in now.items():
        there = stored.get(group) or {}
        for name in sorted({*there, *facts}):
            a, b = there.get(name), facts.get(name)
            if a != b:
                differ.append(f"{group} {name} (there {_short(a)}, here {_short(b)})")
    if differ:
        raise ValueError(
            f"{os.fspath(path)} is the checkpoint of another run, which had another "
            f"{some(differ)}; another path, or the file removed, begins anew"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
