# SPDX-License-Identifier: Apache-2.0
"""What the formats share: finding, taking and renaming the keys of a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from ..lazy import LazyTensor, concatenate

Tensors = dict[str, LazyTensor]

# The classes whose weights are published in a layout: a format's FAMILIES.
VITS = frozenset({"VisionTransformer", "NaFlexVit"})
DISTILLED = frozenset({"VisionTransformerDistilled"})
EVA = frozenset({"Eva", "NaFlexVit"})  # which has Eva's blocks too
BEIT = frozenset({"Beit"})
ALL = VITS | DISTILLED | EVA | BEIT | {"VisionTransformerRelPos"}

# A pattern: the parts of a language model that sees, beside its vision tower.
BESIDE_A_TOWER = r"(language_model|multi_modal_projector|lm_head)\.|image_newline$"


def prefixes_of(tensors: Iterable[str], anchor: str) -> set[str]:
    """The prefixes, '' among them, below which a key `anchor` is."""
    end = "." + anchor
    return {
        key[: -len(anchor)] for key in tensors if key == anchor or key.endswith(end)
    }


def ancestors(prefix: str) -> list[str]:
    """'a.b.' to ['a.b.', 'a.', '']: the prefix and those around it."""
    ends = [match.end() for match in re.finditer("[./]", prefix)]
    return [prefix[:end] for end in reversed(ends)] + [""]


def below(tensors: Iterable[str], prefix: str) -> list[str]:
    """The keys below `prefix`, without it."""
    at = len(prefix)
    return [key[at:] for key in tensors if key.startswith(prefix)]


def take_below(tensors: Tensors, prefix: str) -> Tensors:
    """Take out what is below `prefix`, under its name there."""
    at = len(prefix)
    keys = [key for key in tensors if key.startswith(prefix)]
    return {key[at:]: tensors.pop(key) for key in keys}


def take_beside(tensors: Tensors, prefix: str, name: str) -> LazyTensor | None:
    """Take out `name`, which stands in one of the modules around `prefix`."""
    for around in ancestors(prefix):
        if around + name in tensors:
            return tensors.pop(around + name)
    return None


Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def renamed(tensors: Tensors, rules: Sequence[Rule]) -> Tensors:
    """The tensors under new keys: each rule, in order, replaces a pattern in a key."""
    out: Tensors = {}
    for key, tensor in tensors.items():
        new = key
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in out:
            raise ValueError(f"two of its keys are {new!r}, {key!r} among them")
        out[new] = tensor
    return out


def fuse_qkv(tensors: Tensors, pattern: str) -> Tensors:
    """Join separate query, key and value layers as `qkv`.

    `pattern` matches a whole key, with the groups: path, one that starts with q, k or
    v, and weight or bias. Incomplete triples stay as they are.
    """
    triples: dict[str, dict[str, str]] = {}
    for key in tensors:
        if match := re.fullmatch(pattern, key):
            path, which, kind = match.groups()
            triples.setdefault(f"{path}qkv.{kind}", {})[which[0]] = key
    out = dict(tensors)
    for joint, keys in triples.items():
        if len(keys) == 3:
            out[joint] = concatenate([out.pop(keys[which]) for which in "qkv"])
    return out
