# SPDX-License-Identifier: Apache-2.0
"""The table of models, `registry.json`, and the configurations that it holds."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Models in the package: a folder each, in timm's hub layout, read as `local-dir:`.
PACKAGED = {"vit_digits": Path(__file__).parents[1] / "models" / "vit_digits"}

# Keys that a configuration keeps although they are None (as timm's `to_dict` does).
_KEPT_NULL = ("pool_size", "first_conv", "classifier")
# Keys that say where weights lie, for `custom_load` describes what lies there.
_WEIGHT_SOURCES = ("file", "url", "hf_hub_id", "hf_hub_filename")


def tuples(value: Any) -> Any:
    """JSON's lists as the tuples that timm has."""
    return tuple(tuples(v) for v in value) if isinstance(value, list) else value


@functools.cache
def table() -> dict[str, Any]:
    """`registry.json`: timm, cfg_plain, cfg_defaults, models, deprecated."""
    text = Path(__file__).with_name("registry.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def architectures() -> list[str]:
    """Every name without a tag, the deprecated aside."""
    return [*table()["models"], *PACKAGED]


def module_of(arch: str) -> str:
    """timm's module of an architecture; for one of ours that of its class."""
    if arch in PACKAGED:
        return "vision_transformer"
    return str(table()["models"][arch]["module"])


def class_of(arch: str) -> str:
    """The name of the class that an architecture is a model of."""
    if arch in PACKAGED:
        return "VisionTransformer"
    return str(table()["models"][arch]["class"])


def tags(arch: str) -> list[str]:
    """The tags of an architecture, its default first; [''] where it has none."""
    return [""] if arch in PACKAGED else list(table()["models"][arch]["cfgs"])


def clean(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as timm's `to_dict` gives it: tuples, and no needless None."""
    return {
        key: tuples(value)
        for key, value in cfg.items()
        if value is not None or key in _KEPT_NULL
    }


def complete(
    given: Mapping[str, Any], arch: str, overlay: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A configuration that was handed over, filled up with timm's plain values."""
    out = {**table()["cfg_plain"], **given}
    out["architecture"] = out.get("architecture") or arch
    changes = dict(overlay or {})
    if any(changes.get(key) for key in _WEIGHT_SOURCES):
        # Other weights than the source's. custom_load describes the registered file:
        # another one is not of that kind.
        of_source = {"custom_load": False, "source": None, "file": None, "dtypes": None}
        changes = {**of_source, **changes}
    return clean({**out, **changes})


def registered_cfg(arch: str, tag: str) -> dict[str, Any]:
    """The pretrained configuration of one architecture and tag ('' is the default)."""
    own = tags(arch)
    if tag and tag not in own:
        known = ", ".join(filter(None, own)) or "none"
        raise ValueError(f"{arch} has no pretrained tag {tag!r}; its tags: {known}")
    tag = tag or own[0]
    cfg = {**table()["cfg_defaults"], **table()["models"][arch]["cfgs"][tag]}
    if cfg["hf_hub_id"] == "timm/":
        cfg["hf_hub_id"] = f"timm/{arch}.{tag}"
    return clean({**cfg, "architecture": arch, "tag": tag})


def has_weights(cfg: Mapping[str, Any]) -> bool:
    """Whether a configuration says where its weights are."""
    return any(cfg.get(key) for key in ("url", "file", "hf_hub_id"))


def check_cfg(cfg: object, what: str) -> None:
    """Refuse what is no configuration: not a mapping, or with a key timm has not."""
    if not isinstance(cfg, Mapping):
        raise TypeError(f"{what} must be a dict, got {type(cfg).__name__}")
    known = {*table()["cfg_plain"], "architecture", "tag", "source"}
    unknown = [str(key) for key in cfg if key not in known]
    if unknown:
        raise ValueError(
            f"{what} has unknown keys {', '.join(sorted(unknown))}; "
            f"known: {', '.join(sorted(known))}"
        )
