# SPDX-License-Identifier: Apache-2.0
"""Names, tags and sources of models: which there are, and what each stands for."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable
from typing import Any

from ..text import did_you_mean, natural_key, warn_user
from .sources import SOURCES, WEIGHT_SUFFIXES, split_prefix
from .table import (
    PACKAGED,
    architectures,
    complete,
    has_weights,
    module_of,
    registered_cfg,
    table,
    tags,
)


def _check_text(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, got {type(value).__name__}")


def current_name(name: str, warn: bool = False) -> tuple[str, str]:
    """(architecture, tag) of a registered name; a deprecated one is mapped.

    ValueError for a name that is not registered, with the nearest that are.
    """
    arch, tag = split_model_name_tag(name)
    current = table()["deprecated"].get(arch)
    if current is not None:
        if warn:
            text = f"Mapping deprecated model name {arch} to current {current}."
            warn_user(UserWarning(text))
        arch, current_tag = split_model_name_tag(current)
        tag = tag or current_tag
    elif arch not in PACKAGED and arch not in table()["models"]:
        hint = did_you_mean(arch, architectures(), most=3) or "; see list_models()"
        raise ValueError(f"unknown model {arch!r}{hint}")
    return arch, tag


def parse_source(name: str) -> tuple[str, str]:
    """(source, id) of 'hf-hub:org/name' and 'local-dir:path'; ('', name) of a name.

    A packaged model is the local-dir it lies in; so is a weights file that is there.
    """
    arch, tag = split_model_name_tag(name)
    if arch in PACKAGED and not tag:
        return "local-dir", str(PACKAGED[arch])
    source, rest = split_prefix(name)
    if not source and name.endswith(WEIGHT_SUFFIXES) and os.path.isfile(name):
        return "local-dir", name
    if not source:
        # Two characters or more: the C of C:\models is no source.
        other = re.match(r"[a-zA-Z][a-zA-Z0-9+.\-_]+(?=:)", name)
        if other:
            raise ValueError(
                f"unknown model source {other[0]!r} in {name!r}; known: "
                f"{', '.join(SOURCES)}"
            )
        if any(c in name for c in "/\\:"):
            raise ValueError(
                f"model name {name!r} looks like a path or a hub id; write "
                f"'local-dir:{name}' for a folder or 'hf-hub:{name}' for the hub"
            )
    return source, rest


def split_model_name_tag(model_name: str, no_tag: str = "") -> tuple[str, str]:
    """Split 'vit_tiny_patch16_224.augreg_in21k' into architecture and tag."""
    _check_text(model_name, "model name")
    arch, _, tag = model_name.partition(".")
    return arch, tag or no_tag


def get_arch_name(model_name: str) -> str:
    """The name without its tag."""
    return split_model_name_tag(model_name)[0]


def is_model(model_name: str) -> bool:
    """Whether a name, tag aside, is known to `create_model` (deprecated names are)."""
    arch = get_arch_name(model_name)
    return arch in architectures() or arch in table()["deprecated"]


def is_model_pretrained(model_name: str) -> bool:
    """Whether weights are registered for this name, with or without a tag."""
    arch, tag = split_model_name_tag(model_name)
    if arch not in architectures() or (tag and tag not in tags(arch)):
        return False
    return arch in PACKAGED or has_weights(registered_cfg(arch, tag))


def get_pretrained_cfg(model_name: str) -> dict[str, Any]:
    """The pretrained configuration of a name, of its default tag where it has none.

    Keys and values are timm's: input_size, mean, std, interpolation, crop_pct,
    crop_mode, num_classes, hf_hub_id, first_conv, classifier, license and others.
    Also takes 'hf-hub:org/name' and 'local-dir:path'. ValueError for an unknown
    model or tag.
    """
    source, rest = parse_source(model_name)
    if source:
        from . import folder

        arch, cfg, _ = folder.load_model_config(f"{source}:{rest}")
        return complete(cfg, arch)
    return registered_cfg(*current_name(rest))


def get_pretrained_cfg_value(model_name: str, cfg_key: str) -> Any:
    """One value of a name's pretrained configuration; None where it has no such key.

    ValueError for an unknown model or tag.
    """
    return get_pretrained_cfg(model_name).get(cfg_key)


def _texts(value: str | Iterable[str] | None, what: str) -> list[str]:
    """One text or several as a list, without the empty."""
    texts = [value] if isinstance(value, str) else list(value or ())
    for text in texts:
        _check_text(text, what)
    return [text for text in texts if text]


def _matching(names: Iterable[str], pattern: str, with_tags: bool) -> set[str]:
    """The names that a filter means: timm's, or else those that have it within."""
    wildcards = [pattern]
    if with_tags and not split_model_name_tag(pattern)[1]:
        wildcards.append(f"{pattern}.*")
    found = {n for n in names if any(fnmatch.fnmatch(n, w) for w in wildcards)}
    if not found and not any(c in pattern for c in "*?["):
        found = {n for n in names if pattern.casefold() in n.casefold()}
    return found


def list_models(
    filter: str | Iterable[str] = "",
    module: str | Iterable[str] = "",
    pretrained: bool = False,
    exclude_filters: str | Iterable[str] = "",
    name_matches_cfg: bool = False,
    include_tags: bool | None = None,
) -> list[str]:
    """Model names in natural order, without the deprecated.

    filter, exclude_filters: wildcards as in `fnmatch`, one or several; '' is all. One
    without a wildcard that no name is, as 'siglip', is for all names that have it
    within. module: only the names of timm's module of that name, as 'eva', or of one of
    several; list_modules() has those that are here. pretrained: only names with
    registered weights. name_matches_cfg: only names with a registered configuration.
    include_tags: 'name.tag' for each tag instead of the name; None means as
    `pretrained` says.
    """
    second: object = module  # which was `pretrained` in vitpool 0.1
    if isinstance(second, bool):
        raise TypeError("module must be a str, got bool; write pretrained=True by name")
    for what, flag in (
        ("pretrained", pretrained),
        ("name_matches_cfg", name_matches_cfg),
        ("include_tags", include_tags),
    ):
        if not isinstance(flag, (bool, type(None))):
            raise TypeError(f"{what} must be a bool, got {type(flag).__name__}")
    if include_tags is None:
        include_tags = pretrained
    modules = _texts(module, "module")
    names = [n for n in architectures() if not modules or module_of(n) in modules]
    if include_tags:
        names = [f"{arch}.{tag}".rstrip(".") for arch in names for tag in tags(arch)]
    wanted = set(names)
    include = _texts(filter, "filter")
    if include:
        wanted = set().union(*(_matching(names, p, include_tags) for p in include))
    for pattern in _texts(exclude_filters, "exclude_filters"):
        wanted -= _matching(names, pattern, include_tags)
    if pretrained:
        wanted = {name for name in wanted if is_model_pretrained(name)}
    if name_matches_cfg:
        wanted = {name for name in wanted if tags(get_arch_name(name))}
    return sorted(wanted, key=natural_key)


def list_pretrained(
    filter: str | Iterable[str] = "", exclude_filters: str | Iterable[str] = ""
) -> list[str]:
    """'name.tag' of every model with registered weights."""
    return list_models(
        filter, pretrained=True, exclude_filters=exclude_filters, include_tags=True
    )


def list_modules() -> list[str]:
    """timm's modules whose models are here, one of vision_transformer_hybrid's among
    them."""
    return sorted({module_of(arch) for arch in architectures()})


def is_model_in_modules(model_name: str, module_names: str | Iterable[str]) -> bool:
    """Whether a name, tag aside, is known and of one of timm's modules.

    A deprecated name is in its model's.
    """
    modules = _texts(module_names, "module_names")
    arch = get_arch_name(model_name)
    return is_model(arch) and module_of(current_name(arch)[0]) in modules
