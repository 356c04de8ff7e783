# SPDX-License-Identifier: Apache-2.0
"""`create_model`: a name to a plan, a plan to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from ..config import Dtype, ModelOptions, Pool, as_bool, as_dtype, defaults_of
from .names import current_name, get_arch_name, list_pretrained, parse_source
from .table import (
    PACKAGED,
    check_cfg,
    class_of,
    complete,
    registered_cfg,
    table,
    tuples,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..model import FeatureGetterNet, PlainViT


class Plan(NamedTuple):
    """What `create_model` is about to build."""

    arch: str
    family: str  # the name of its class
    options: dict[str, Any]  # for the class
    cfg: dict[str, Any]  # becomes model.pretrained_cfg
    source_size: Any  # img_size of the stored weights, where the folder says it
    stored_pool: str  # the global_pool that they were trained with
    dtypes: Mapping[str, str] | None  # of the stored weights, as the folder says them


def plan_model(
    model_name: str,
    pretrained_cfg: str | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: str | None = None,
    **kwargs: Any,
) -> Plan:
    """The constructor's options and the configuration, exactly as timm finds them."""
    source, rest = parse_source(model_name)
    source_args: dict[str, Any] = {}
    if source:
        if pretrained_cfg:
            raise ValueError(f"{model_name} brings its own pretrained_cfg, got another")
        from . import folder

        where = f"{source}:{rest}"
        arch, cfg, source_args = folder.load_model_config(where, cache_dir=cache_dir)
        arch, _ = current_name(arch)
    else:
        arch, tag = current_name(rest, warn=True)
        if isinstance(pretrained_cfg, str):
            tag = pretrained_cfg or tag
        if pretrained_cfg and not isinstance(pretrained_cfg, str):
            check_cfg(pretrained_cfg, "pretrained_cfg")
            cfg = dict(pretrained_cfg)
        else:
            cfg = registered_cfg(arch, tag)
    if pretrained_cfg_overlay is not None:
        check_cfg(pretrained_cfg_overlay, "pretrained_cfg_overlay")
    cfg = complete(cfg, arch, pretrained_cfg_overlay)
    dtypes = cfg.pop("dtypes", None)  # of these weights, not of the model
    naflex = cfg.pop("naflex", None) or {}  # options of a NaFlexVit alone

    args = {} if arch in PACKAGED else table()["models"][arch]["args"]
    options = {key: tuples(value) for key, value in {**args, **source_args}.items()}
    options.update((key, value) for key, value in kwargs.items() if value is not None)
    # What the configuration says of the model where nothing else does.
    if cfg.get("input_size"):
        options.setdefault("in_chans", cfg["input_size"][0])
        if cfg["fixed_input_size"]:
            options.setdefault("img_size", cfg["input_size"][1:])
    if cfg.get("num_classes", -1) >= 0:
        options.setdefault("num_classes", cfg["num_classes"])
    family = class_of(arch)
    plain_pool = defaults_of(family)["global_pool"]
    stored_pool = {**args, **source_args}.get("global_pool", plain_pool)
    size = source_args.get("img_size")
    if as_bool(options.pop("use_naflex", False), "use_naflex"):
        from .naflex import naflex_options

        options = naflex_options(family, naflex | options, arch)
        family = "NaFlexVit"
    return Plan(arch, family, options, cfg, size, stored_pool, dtypes)


# What timm's create_model takes and we do not, with what to do in its place.
_REFUSED = {
    "pruned": "there are no pruned Vision Transformers",
    "pretrained_tag": "write the tag after the name, or as pretrained_cfg",
}
# What timm's create_model takes and has no meaning here: TorchScript.
_INERT = ("scriptable", "exportable", "no_jit")


class _Keywords(ModelOptions, total=False):
    """The other keywords of create_model that a type checker lets pass."""

    device: Any
    use_naflex: bool | None
    scriptable: bool
    exportable: bool
    no_jit: bool
    feature_cls: str | None


class _Given(_Keywords, total=False):
    """These and the keywords that create_model has by name, for its overloads."""

    pretrained_cfg: str | Mapping[str, Any] | None
    pretrained_cfg_overlay: Mapping[str, Any] | None
    cache_dir: str | None
    out_indices: int | Sequence[int] | None


def _weights_file(cfg: Mapping[str, Any], name: str, cache_dir: str | None) -> str:
    """The file that a configuration's weights are in, fetched if need be."""
    from . import folder

    if cfg.get("source") == "local-dir":
        return folder.weights_path(f"local-dir:{cfg['file']}")
    if cfg.get("file") and cfg.get("source") != "hf-hub":  # as timm's sources go
        return str(cfg["file"])
    if cfg.get("hf_hub_id"):
        source, filename = f"hf-hub:{cfg['hf_hub_id']}", cfg.get("hf_hub_filename")
        return folder.weights_path(source, filename=filename, cache_dir=cache_dir)
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


@overload
def create_model(
    model_name: str,
    pretrained: bool = ...,
    num_classes: int | None = ...,
    global_pool: Pool | None = ...,
    checkpoint_path: str | Path | None = ...,
    dtype: Dtype | None = ...,
    seed: int | None = ...,
    *,
    features_only: Literal[True],
    **kwargs: Unpack[_Given],
) -> FeatureGetterNet: ...
@overload
def create_model(
    model_name: str,
    pretrained: bool = ...,
    num_classes: int | None = ...,
    global_pool: Pool | None = ...,
    checkpoint_path: str | Path | None = ...,
    dtype: Dtype | None = ...,
    seed: int | None = ...,
    *,
    features_only: Literal[False] | None = ...,
    **kwargs: Unpack[_Given],
) -> PlainViT: ...
def create_model(
    model_name: str | None = None,
    pretrained: bool = False,
    num_classes: int | None = None,
    global_pool: Pool | None = None,
    checkpoint_path: str | Path | None = None,
    dtype: Dtype | None = None,
    seed: int | None = None,
    *,
    pretrained_cfg: str | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: str | None = None,
    features_only: bool | None = False,
    out_indices: int | Sequence[int] | None = None,
    **kwargs: Unpack[_Keywords],
) -> PlainViT | FeatureGetterNet:
    """Create a model by its name in timm.

    model_name: 'vit_base_patch16_224', with a tag 'vit_base_patch16_224.augreg_in21k',
        'vit_digits' (ours, in the package), 'hf-hub:org/name[@revision]' or
        'local-dir:path' (a folder in timm's hub layout, or of transformers'), or the
        path of a weights file with the config.json of such a folder beside it.
    pretrained: load the registered weights, from the hub or the folder.
    num_classes, global_pool: the head; None is what the configuration says.
    checkpoint_path: a weights file to load.
    dtype: 'float32', 'bfloat16', 'float16' or 'int8', as for model.to; None: what a
        folder says that its weights are in, else float32.
    seed: of the random weights, where any are made.
    pretrained_cfg: a tag, or a configuration in place of the registered one;
        pretrained_cfg_overlay replaces single keys of it.
    cache_dir: the hub's cache, where it is not the usual one.
    features_only: a model whose call gives the list of the outputs of some blocks, as
        maps (B, C, rows, columns), and whose feature_info says what they are.
        out_indices: these blocks, or the last so many; None: the last three.
    use_naflex: a NaFlexVit, which takes any size, of a VisionTransformer's or an Eva's
        name and weights.
    kwargs: options of the model's class; None leaves an option at its own value.

    TypeError for a wrong type, ValueError for an unknown name (with near matches), tag
    or option, and for weights that do not fit.
    """
    if not isinstance(pretrained, bool):
        raise TypeError(f"pretrained must be a bool, got {type(pretrained).__name__}")
    if not isinstance(features_only, (bool, type(None))):
        raise TypeError(
            f"features_only must be a bool, got {type(features_only).__name__}"
        )
    if dtype is not None:
        dtype = as_dtype(dtype)
    options: dict[str, Any] = {**kwargs}
    for key in _INERT:
        options.pop(key, None)
    feature_cls = options.pop("feature_cls", None) or "getter"
    if features_only and feature_cls != "getter":
        raise ValueError(f"feature_cls must be 'getter', got {feature_cls!r}")
    for key, instead in _REFUSED.items():
        if options.pop(key, None):
            raise ValueError(f"create_model does not take {key}: {instead}")
    device = options.pop("device", None)
    if device is not None and str(device) != "cpu":
        raise ValueError(f"device must be 'cpu', got {str(device)!r}")
    if "name" in options:  # as model_name was called in vitpool 0.1.0
        if model_name is not None:
            raise TypeError("model_name is given twice, once as name")
        model_name = options.pop("name")
    if not isinstance(model_name, str):
        raise TypeError(f"model_name must be a str, got {type(model_name).__name__}")
    plan = plan_model(
        model_name,
        pretrained_cfg,
        pretrained_cfg_overlay,
        cache_dir,
        num_classes=num_classes,
        global_pool=global_pool,
        **options,
    )
    model: PlainViT
    if pretrained or checkpoint_path:
        from ..checkpoint import build_with_checkpoint, load_checkpoint

        cfg = dict(plan.cfg)
        if pretrained:
            path: str | Path = _weights_file(cfg, model_name, cache_dir)
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
        model = build_with_checkpoint(
            plan.options,
            cfg,
            path,
            variant=plan.arch,
            dtype=dtype,
            dtypes=plan.dtypes if pretrained else None,
            seed=seed,
            family=plan.family,
            # Of a file that the user names nobody tells it.
            stored_pool=plan.stored_pool if pretrained else "",
        )
        if pretrained and checkpoint_path:
            load_checkpoint(model, checkpoint_path)
    else:
        from ..model import CLASSES

        model = CLASSES[plan.family](**plan.options, dtype=dtype, seed=seed)
    model.pretrained_cfg = model.default_cfg = plan.cfg
    if features_only:
        from ..model import FeatureGetterNet

        return FeatureGetterNet(model, 3 if out_indices is None else out_indices)
    return model


def model_entrypoint(model_name: str) -> Callable[..., PlainViT]:
    """A function (pretrained=False, **kwargs) that creates the model, the tag aside.

    ValueError for an unknown name, with the nearest known ones.
    """
    arch = get_arch_name(model_name)
    current_name(arch)

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> PlainViT:
        return create_model(arch, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = arch
    return entrypoint
