# SPDX-License-Identifier: Apache-2.0
"""Where a model comes from: the prefix of its name, or a folder."""

from __future__ import annotations

import os

SOURCES = ("hf-hub", "local-dir")
WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".pth.tar", ".bin")


def split_prefix(text: str) -> tuple[str, str]:
    """(source, rest) of 'hf-hub:rest' or 'local-dir:rest'; ('', text) of any other.

    The prefix may be in capitals, and have '_' for '-'. ValueError where nothing
    follows it.
    """
    prefix, colon, rest = text.partition(":")
    source = prefix.lower().replace("_", "-")
    if not colon or source not in SOURCES:
        return "", text
    if not rest:
        raise ValueError(f"model source {text!r} has nothing after '{source}:'")
    return source, rest


def split_source(source: str | os.PathLike[str]) -> tuple[str, str]:
    """Split a source into ('hf-hub' | 'local-dir', rest); a plain path is a local-dir.

    Raises ValueError for another prefix or an empty rest.
    """
    text = os.fspath(source)
    kind, rest = split_prefix(text)
    if kind:
        return kind, rest
    if os.path.exists(text):
        return "local-dir", text
    raise ValueError(
        f"model source: {text!r}, allowed are 'hf-hub:org/name[@revision]', "
        "'local-dir:/path' and the path of a folder or a weights file"
    )
