# SPDX-License-Identifier: Apache-2.0
"""Model names, their pretrained configurations, and `create_model`.

The names are the 163 of timm 1.0.31's `vision_transformer.py` and our own `vit_digits`.
What each stands for is data: `registry.json`, written from timm by
`tools/make_registry.py` and read at the first question.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .model import VisionTransformer

__all__ = [
    "create_model",
    "get_arch_name",
    "get_pretrained_cfg",
    "is_model",
    "is_model_pretrained",
    "list_models",
    "list_pretrained",
    "model_entrypoint",
    "split_model_name_tag",
]

# Models in the package: a folder each, in timm's hub layout, read as `local-dir:`.
PACKAGED = {"vit_digits": Path(__file__).with_name("models") / "vit_digits"}

# Keys that a configuration keeps although they are None (as timm's `to_dict` does).
_KEPT_NULL = ("pool_size", "first_conv", "classifier")
# Keys that say where weights lie, for `custom_load` describes what lies there.
_WEIGHT_SOURCES = ("file", "url", "hf_hub_id", "hf_hub_filename")
_SOURCES = ("hf-hub", "local-dir")


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that timm has."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


@functools.cache
def _table() -> dict[str, Any]:
    """`registry.json`: timm, cfg_plain, cfg_defaults, models, deprecated."""
    text = Path(__file__).with_name("registry.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def _architectures() -> list[str]:
    return [*_table()["models"], *PACKAGED]


def _tags(arch: str) -> list[str]:
    """The tags of an architecture, its default first; [''] where it has none."""
    return [""] if arch in PACKAGED else list(_table()["models"][arch]["cfgs"])


def _clean(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as timm's `to_dict` gives it: tuples, and no needless None."""
    return {
        key: _tuples(value)
        for key, value in cfg.items()
        if value is not None or key in _KEPT_NULL
    }


def _has_weights(cfg: Mapping[str, Any]) -> bool:
    return any(cfg.get(key) for key in ("url", "file", "hf_hub_id"))


def _registered_cfg(arch: str, tag: str) -> dict[str, Any]:
    """The pretrained configuration of one architecture and tag ('' is the default)."""
    tags = _tags(arch)
    if tag and tag not in tags:
        known = ", ".join(filter(None, tags)) or "none"
        raise ValueError(f"{arch} has no pretrained tag {tag!r}; its tags: {known}")
    tag = tag or tags[0]
    cfg = {**_table()["cfg_defaults"], **_table()["models"][arch]["cfgs"][tag]}
    if cfg["hf_hub_id"] == "timm/":
        cfg["hf_hub_id"] = f"timm/{arch}.{tag}"
    return _clean({**cfg, "architecture": arch, "tag": tag})


def _check_text(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, got {type(value).__name__}")


def _current_name(name: str, warn: bool = False) -> tuple[str, str]:
    """(architecture, tag) of a registered name; a deprecated one is mapped.

    ValueError for a name that is not registered, with the nearest that are.
    """
    arch, tag = split_model_name_tag(name)
    current = _table()["deprecated"].get(arch)
    if current is not None:
        if warn:
            text = f"Mapping deprecated model name {arch} to current {current}."
            # The caller of create_model: three calls up from here.
            warnings.warn(text, UserWarning, stacklevel=4)
        arch, current_tag = split_model_name_tag(current)
        tag = tag or current_tag
    elif arch not in PACKAGED and arch not in _table()["models"]:
        import difflib

        near = difflib.get_close_matches(arch, _architectures(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see list_models()"
        raise ValueError(f"unknown model {arch!r}; {hint}")
    return arch, tag


def _parse_source(name: str) -> tuple[str, str]:
    """(source, id) of 'hf-hub:org/name' and 'local-dir:path'; ('', name) of a name.

    A packaged model is the local-dir it lies in.
    """
    arch, tag = split_model_name_tag(name)
    if arch in PACKAGED and not tag:
        return "local-dir", str(PACKAGED[arch])
    source, colon, rest = name.partition(":")
    # Two characters or more: the C of C:\models is no source.
    if not colon or not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9+.\-_]+", source):
        if any(c in name for c in "/\\:"):
            raise ValueError(
                f"model name {name!r} looks like a path or a hub id; write "
                f"'local-dir:{name}' for a folder or 'hf-hub:{name}' for the hub"
            )
        return "", name
    source = source.lower().replace("_", "-")
    if source not in _SOURCES:
        raise ValueError(
            f"unknown model source {source!r} in {name!r}; known: {', '.join(_SOURCES)}"
        )
    if not rest:
        raise ValueError(f"model name {name!r} has nothing after '{source}:'")
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
    table = _table()
    return arch in table["models"] or arch in PACKAGED or arch in table["deprecated"]


def is_model_pretrained(model_name: str) -> bool:
    """Whether weights are registered for this name, with or without a tag."""
    arch, tag = split_model_name_tag(model_name)
    if arch not in _architectures() or (tag and tag not in _tags(arch)):
        return False
    return arch in PACKAGED or _has_weights(_registered_cfg(arch, tag))


def get_pretrained_cfg(model_name: str) -> dict[str, Any]:
    """The pretrained configuration of a name, of its default tag where it has none.

    Keys and values are timm's: input_size, mean, std, interpolation, crop_pct,
    crop_mode, num_classes, hf_hub_id, first_conv, classifier, license and others.
    Also takes 'hf-hub:org/name' and 'local-dir:path'. ValueError for an unknown
    model or tag.
    """
    source, rest = _parse_source(model_name)
    if source:
        from . import hub

        arch, cfg, _ = hub.load_model_config(f"{source}:{rest}")
        return _complete(cfg, arch)
    return _registered_cfg(*_current_name(rest))


def _natural_key(text: str) -> list[Any]:
    """Sorts vit_x_9 before vit_x_10."""
    parts = re.split(r"(\d+)", text.lower())
    return [int(part) if part.isdigit() else part for part in parts]


def _patterns(value: str | Iterable[str], tags: bool, what: str) -> list[str]:
    """The wildcards of a filter; with tags, one without a tag matches any tag."""
    out = [value] if isinstance(value, str) else list(value)
    for pattern in out:
        _check_text(pattern, what)
    out = [pattern for pattern in out if pattern]
    if tags:
        out += [f"{p}.*" for p in out if not split_model_name_tag(p)[1]]
    return out


def list_models(
    filter: str | Iterable[str] = "",
    pretrained: bool = False,
    exclude_filters: str | Iterable[str] = "",
    include_tags: bool | None = None,
) -> list[str]:
    """Model names in natural order, without the deprecated.

    filter, exclude_filters: wildcards as in `fnmatch`, one or several; '' is all.
    pretrained: only names with registered weights. include_tags: 'name.tag' for each
    tag instead of the name; None means as `pretrained` says.
    """
    for what, flag in (("pretrained", pretrained), ("include_tags", include_tags)):
        if not isinstance(flag, (bool, type(None))):
            raise TypeError(f"{what} must be a bool, got {type(flag).__name__}")
    if include_tags is None:
        include_tags = pretrained
    names = _architectures()
    if include_tags:
        names = [f"{arch}.{tag}".rstrip(".") for arch in names for tag in _tags(arch)]
    include = _patterns(filter, include_tags, "filter")
    exclude = _patterns(exclude_filters, include_tags, "exclude_filters")

    def wanted(name: str) -> bool:
        if include and not any(fnmatch.fnmatch(name, p) for p in include):
            return False
        if any(fnmatch.fnmatch(name, p) for p in exclude):
            return False
        return not pretrained or is_model_pretrained(name)

    return sorted(set(names) & {n for n in names if wanted(n)}, key=_natural_key)


def list_pretrained(
    filter: str | Iterable[str] = "", exclude_filters: str | Iterable[str] = ""
) -> list[str]:
    """'name.tag' of every model with registered weights."""
    return list_models(filter, True, exclude_filters, include_tags=True)


def model_entrypoint(model_name: str) -> Callable[..., VisionTransformer]:
    """A function (pretrained=False, **kwargs) that creates the model, the tag aside.

    ValueError for an unknown name, with the nearest known ones.
    """
    arch = get_arch_name(model_name)
    _current_name(arch)

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
        return create_model(arch, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = arch
    return entrypoint


def _complete(
    given: Mapping[str, Any], arch: str, overlay: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A configuration that was handed over, filled up with timm's plain values."""
    out = {**_table()["cfg_plain"], **given}
    out["architecture"] = out.get("architecture") or arch
    changes = dict(overlay or {})
    if any(changes.get(key) for key in _WEIGHT_SOURCES):
        # custom_load describes the registered file: another one is not of that kind.
        changes.setdefault("custom_load", False)
    return _clean({**out, **changes})


class _Plan(NamedTuple):
    """What `create_model` is about to build."""

    arch: str
    options: dict[str, Any]  # for VisionTransformer
    cfg: dict[str, Any]  # becomes model.pretrained_cfg
    source_size: Any  # img_size of the stored weights, where the folder says it


def _cfg_keys(cfg: object, what: str) -> None:
    """Refuse what is no configuration: not a mapping, or with a key timm has not."""
    if not isinstance(cfg, Mapping):
        raise TypeError(f"{what} must be a dict, got {type(cfg).__name__}")
    known = {*_table()["cfg_plain"], "architecture", "tag", "source"}
    unknown = [str(key) for key in cfg if key not in known]
    if unknown:
        raise ValueError(
            f"{what} has unknown keys {', '.join(sorted(unknown))}; "
            f"known: {', '.join(sorted(known))}"
        )


def _plan(
    name: str,
    pretrained_cfg: str | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: str | None = None,
    **kwargs: Any,
) -> _Plan:
    """The constructor's options and the configuration, exactly as timm finds them."""
    source, rest = _parse_source(name)
    source_args: dict[str, Any] = {}
    if source:
        if pretrained_cfg:
            raise ValueError(f"{name} brings its own pretrained_cfg, got another")
        from . import hub

        where = f"{source}:{rest}"
        arch, cfg, source_args = hub.load_model_config(where, cache_dir=cache_dir)
        arch, _ = _current_name(arch)
    else:
        arch, tag = _current_name(rest, warn=True)
        if isinstance(pretrained_cfg, str):
            tag = pretrained_cfg or tag
        if pretrained_cfg and not isinstance(pretrained_cfg, str):
            _cfg_keys(pretrained_cfg, "pretrained_cfg")
            cfg = dict(pretrained_cfg)
        else:
            cfg = _registered_cfg(arch, tag)
    if pretrained_cfg_overlay is not None:
        _cfg_keys(pretrained_cfg_overlay, "pretrained_cfg_overlay")
    cfg = _complete(cfg, arch, pretrained_cfg_overlay)

    args = {} if arch in PACKAGED else _table()["models"][arch]["args"]
    options = {key: _tuples(value) for key, value in {**args, **source_args}.items()}
    options.update((key, value) for key, value in kwargs.items() if value is not None)
    # What the configuration says of the model where nothing else does.
    if cfg.get("input_size"):
        options.setdefault("in_chans", cfg["input_size"][0])
        if cfg["fixed_input_size"]:
            options.setdefault("img_size", cfg["input_size"][1:])
    if cfg.get("num_classes", -1) >= 0:
        options.setdefault("num_classes", cfg["num_classes"])
    return _Plan(arch, options, cfg, source_args.get("img_size"))


# What timm's create_model takes and we do not, with what to do in its place.
_REFUSED = {
    "features_only": "use forward_intermediates or get_intermediate_layers",
    "use_naflex": "there is no NaFlexVit here",
    "pruned": "there are no pruned Vision Transformers",
    "embed_layer": "PatchEmbed is the only one",
    "pretrained_tag": "write the tag after the name, or as pretrained_cfg",
}
# What timm's create_model takes and has no meaning here: TorchScript, and the choice of
# features_only, which timm too ignores without it.
_INERT = ("scriptable", "exportable", "no_jit", "out_indices")


def _weights_file(cfg: Mapping[str, Any], name: str, cache_dir: str | None) -> str:
    """The file that a configuration's weights are in, fetched if need be."""
    from . import hub

    if cfg.get("source") == "local-dir":
        return hub.weights_path(f"local-dir:{cfg['file']}")
    if cfg.get("file"):
        return str(cfg["file"])
    if cfg.get("hf_hub_id"):
        source, filename = f"hf-hub:{cfg['hf_hub_id']}", cfg.get("hf_hub_filename")
        return hub.weights_path(source, filename=filename, cache_dir=cache_dir)
    if cfg.get("url"):
        raise ValueError(
            f"the weights of {name} are not on the hub; download {cfg['url']} and pass "
            "it as checkpoint_path"
        )
    arch = get_arch_name(name)
    others = [n for n in list_pretrained() if get_arch_name(n) == arch]
    raise ValueError(
        f"no pretrained weights are registered for {name}; registered: "
        f"{', '.join(others) or 'none'}; pretrained=False gives random ones"
    )


def create_model(
    name: str,
    pretrained: bool = False,
    num_classes: int | None = None,
    global_pool: str | None = None,
    checkpoint_path: str | Path | None = None,
    dtype: str = "float32",
    seed: int | None = None,
    *,
    pretrained_cfg: str | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: str | None = None,
    **kwargs: Any,
) -> VisionTransformer:
    """Create a model by its name in timm.

    name: 'vit_base_patch16_224', with a tag 'vit_base_patch16_224.augreg_in21k',
        'vit_digits' (ours, in the package), 'hf-hub:org/name[@revision]' or
        'local-dir:path' (a folder in timm's hub layout).
    pretrained: load the registered weights, from the hub or the folder.
    num_classes, global_pool: the head; None is what the configuration says.
    checkpoint_path: a weights file to load.
    dtype: of the weights in memory. seed: of the random weights, where any are made.
    pretrained_cfg: a tag, or a configuration in place of the registered one;
        pretrained_cfg_overlay replaces single keys of it.
    cache_dir: the hub's cache, where it is not the usual one.
    kwargs: VisionTransformer's options; None leaves an option at the model's own value.

    TypeError for a wrong type, ValueError for an unknown name (with near matches), tag
    or option, and for weights that do not fit.
    """
    if not isinstance(pretrained, bool):
        raise TypeError(f"pretrained must be a bool, got {type(pretrained).__name__}")
    for key in _INERT:
        kwargs.pop(key, None)
    for key, instead in _REFUSED.items():
        if kwargs.pop(key, None):
            raise ValueError(f"create_model does not take {key}: {instead}")
    device = kwargs.pop("device", None)
    if device is not None and str(device) != "cpu":
        raise ValueError(f"device must be 'cpu', got {str(device)!r}")
    plan = _plan(
        name,
        pretrained_cfg,
        pretrained_cfg_overlay,
        cache_dir,
        num_classes=num_classes,
        global_pool=global_pool,
        **kwargs,
    )
    model: VisionTransformer
    if pretrained or checkpoint_path:
        from . import checkpoint

        cfg = dict(plan.cfg)
        if pretrained:
            path: str | Path = _weights_file(cfg, name, cache_dir)
            if plan.source_size is not None:
                # The size for which the folder's positions were made.
                size = plan.source_size
                size = (size, size) if isinstance(size, int) else tuple(size)
                cfg["input_size"] = (*cfg.get("input_size", (3,))[:1], *size)
        else:
            path = checkpoint_path or ""
            # A file that the user names has the head that the user wants, or does not
            # fit: no head is left out for being the configuration's.
            cfg["num_classes"] = plan.options.get("num_classes", 1000)
        model = checkpoint.build_with_checkpoint(
            plan.options, cfg, path, variant=plan.arch, dtype=dtype, seed=seed
        )
        if pretrained and checkpoint_path:
            checkpoint.load_checkpoint(model, checkpoint_path)
    else:
        from .model import VisionTransformer

        model = VisionTransformer(**plan.options, dtype=dtype, seed=seed)
    model.pretrained_cfg = model.default_cfg = plan.cfg
    return model
