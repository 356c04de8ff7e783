# SPDX-License-Identifier: Apache-2.0
"""Models from anywhere: a folder in timm's hub layout, or one on the hub.

A source is `hf-hub:org/name[@revision]`, `local-dir:/path` or the path of a folder that
holds config.json (timm's, flat as before 2022 or with `pretrained_cfg` inside; or
transformers', with its preprocessor_config.json) and the weights; or the path of a
weights file with such a config.json beside it.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import (
    FAMILIES,
    PARAM_DTYPES,
    all_arguments_of,
    as_int,
    defaults_of,
    resolve,
)
from ..files import sync
from ..text import printable, some, warn_user
from .hub import HubUnreachableError, download
from .sources import WEIGHT_SUFFIXES, split_source
from .table import PACKAGED, class_of, table, tuples
from .transformers_config import is_transformers, parse_transformers, unwrapped

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
# Where weights lie is for the caller to say. A config.json that could say it would
# choose which of the user's own files are read.
_PLACES = ("file", "url", "state_dict", "hf_hub_id", "source")
# What only we read in a config.json: timm and transformers pass over a key unknown.
_OURS = "vitpool"
# Values of a config that are sequences, or None: JSON has lists for timm's tuples.
_SEQUENCES = {
    *("input_size", "test_input_size", "min_input_size", "mean", "std"),
    *("pool_size", "test_pool_size"),
}


def parse_config(
    config: Mapping[str, Any], name: str
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """timm's config.json to (architecture, pretrained_cfg, model_args).

    name is what an error calls the file. Whatever the config says of where weights lie
    is left out, but for the name of a file beside it. What save_pretrained adds to
    timm's, the dtypes of the weights that are not float32, is pretrained_cfg's
    'dtypes'. Raises ValueError where it is none of timm's.
    """
    named = isinstance(config, Mapping) and config.get("architecture")
    if not isinstance(named, str):
        raise ValueError(f"{name}: no 'architecture', so this is no config of timm's")
    config = dict(config)
    dtypes = _dtypes(config.pop(_OURS, None), name)
    if "pretrained_cfg" in config:
        if not isinstance(config["pretrained_cfg"], Mapping):
            raise ValueError(f"{name}: 'pretrained_cfg' is not an object")
        cfg = dict(config["pretrained_cfg"])
        for key in ("num_classes", "label_names", "label_descriptions"):
            if key in config:
                cfg[key] = config[key]
        model_args = config.get("model_args") or {}
    else:  # the form of before 2022, without a pretrained_cfg inside
        cfg, model_args = config, config.pop("model_args", None) or {}
        cfg.pop("num_features", None)
        if "labels" in cfg:
            cfg["label_names"] = cfg.pop("labels")
    if not isinstance(model_args, Mapping):
        raise ValueError(f"{name}: 'model_args' is not an object")
    family = _class_of(named)
    known = {*defaults_of(family), "use_naflex"}
    if model_args.get("use_naflex"):
        known |= set(defaults_of("NaFlexVit"))
    unknown = [k for k in model_args if k not in known]
    if unknown:
        raise ValueError(
            f"{name}: 'model_args' has {some(map(repr, unknown))}, which is no "
            f"argument of timm's {family}"
        )
    model_args = {k: tuples(v) for k, v in model_args.items()}
    cfg = {k: v for k, v in cfg.items() if k not in (*_PLACES, "dtypes", "naflex")}
    if dtypes is not None:
        cfg["dtypes"] = dtypes
    filename = cfg.get("hf_hub_filename")
    if filename is not None and not _is_beside(filename):
        raise ValueError(
            f"{name}: 'hf_hub_filename' is {filename!r:.100}, not the name of a file "
            "beside it"
        )
    cfg["architecture"] = named
    try:
        if cfg.get("num_classes") is not None:
            cfg["num_classes"] = as_int(cfg["num_classes"], "num_classes")
        for key in _SEQUENCES & cfg.keys():
            cfg[key] = None if cfg[key] is None else tuple(cfg[key])
        channels, *size = cfg.get("input_size") or (3, 224, 224)
        # The arguments describe the saved weights; the rest of the config may describe
        # the model that these were made from.
        channels = int(model_args.get("in_chans", channels))
        if model_args.get("img_size") is not None and not model_args.get(
            "dynamic_img_size"
        ):
            given = model_args["img_size"]
            size = [given, given] if isinstance(given, int) else list(given)
        height, width = (int(v) for v in size)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{name}: a size is not as timm writes it ({error})"
        ) from error
    if min(channels, height, width) < 1:
        raise ValueError(
            f"{name}: a size is not as timm writes it ({channels} channels of "
            f"{height} x {width})"
        )
    cfg["input_size"] = (channels, height, width)
    return named, cfg, model_args


def _class_of(architecture: str) -> str:
    """The class of an architecture, deprecated or not; of one that is unknown, which
    whoever builds it says, VisionTransformer."""
    current = table()["deprecated"].get(architecture, architecture).partition(".")[0]
    known = current in table()["models"] or current in PACKAGED
    return class_of(current) if known else "VisionTransformer"


def _dtypes(ours: Any, name: str) -> dict[str, str] | None:
    """The dtypes in what config.json holds for us; None where it holds nothing."""
    if ours is None:
        return None
    dtypes = ours.get("dtypes") if isinstance(ours, Mapping) else None
    if not isinstance(dtypes, Mapping):
        raise ValueError(f"{name}: {_OURS!r} has no object 'dtypes'")
    for key, dtype in dtypes.items():
        if dtype not in PARAM_DTYPES:
            known = ", ".join(map(repr, PARAM_DTYPES))
            raise ValueError(
                printable(
                    f"{name}: {key!r:.100} is of dtype {dtype!r:.100}, allowed are "
                    f"{known}"
                )
            )
    return {key: dtype for key, dtype in dtypes.items() if dtype != "float32"}


def _is_beside(filename: object) -> bool:
    """Is it the name of a file, without a path?"""
    return (
        isinstance(filename, str)
        and filename not in ("", ".", "..")
        and not any(c in filename for c in "/\\\0")
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


def load_model_config(
    source: str | os.PathLike[str], *, cache_dir: str | None = None
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Read config.json of a source: (architecture, pretrained_cfg, model_args).

    Raises FileNotFoundError for a folder without config.json, ValueError for one that
    is neither timm's nor transformers', HubUnreachableError or HubError for the hub.
    """
    kind, rest = split_source(source)
    if kind == "hf-hub":
        path = Path(download(rest, "config.json", cache_dir=cache_dir))
        extra: dict[str, Any] = {"hf_hub_id": rest, "source": "hf-hub"}
    else:
        one = Path(rest).is_file()
        path = (Path(rest).parent if one else Path(rest)) / "config.json"
        extra = {"file": rest, "source": "local-dir"}
        if not path.is_file():
            what = "no config.json" if path.parent.is_dir() else "no such folder"
            raise FileNotFoundError(f"{rest}: {what}{' beside it' if one else ''}")
    config = _read_json(path)
    if is_transformers(config):
        asked = rest if kind == "hf-hub" else ""
        processor = _processor(path.parent, asked, cache_dir)
        architecture, cfg, model_args = parse_transformers(config, processor, str(path))
    else:
        architecture, cfg, model_args = parse_config(unwrapped(config), str(path))
    return architecture, {**cfg, **extra}, model_args


def _processor(
    folder: Path, repo: str, cache_dir: str | None
) -> Mapping[str, Any] | None:
    """What transformers' image processor is told beside config.json, if anything.

    repo: of the hub, '' for a folder of this machine.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if repo:
            try:
                path = Path(download(repo, name, cache_dir=cache_dir))
            except FileNotFoundError:
                continue
            except HubUnreachableError as error:
                text = f"pictures are prepared as for other models of its kind: {error}"
                warn_user(UserWarning(f"hf-hub:{repo}: {text}"))
                return None
        elif not path.is_file():
            continue
        content = _read_json(path)
        if isinstance(content, Mapping):
            # A processor of pictures and text has one for each.
            content = content.get("image_processor", content)
        if not isinstance(content, Mapping):
            raise ValueError(f"{path}: not an object")
        if name.startswith("pre") or "image_processor_type" in content:
            return content
    return None


def weights_path(
    source: str | os.PathLike[str],
    *,
    filename: str | None = None,
    cache_dir: str | None = None,
) -> str:
    """Local path of a source's weights file, fetched from the hub if need be.

    filename: this file and no other. Else timm's order: model.safetensors first (or the
    index of several), then pickles, then in a folder whatever file has the suffix of
    weights, by name. Raises FileNotFoundError where there are none.
    """
    from ..checkpoint import shard_names

    kind, rest = split_source(source)
    names = (filename,) if filename else WEIGHT_FILES
    if kind == "hf-hub":
        for name in names:
            try:
                path = download(rest, name, cache_dir=cache_dir)
            except FileNotFoundError:
                continue
            for shard in shard_names(path) if name.endswith(".index.json") else ():
                download(rest, shard, cache_dir=cache_dir)
            return path
    else:
        folder = Path(rest)
        if folder.is_file():
            return rest
        for name in names:
            if (folder / name).is_file():
                return str(folder / name)
        for suffix in () if filename else WEIGHT_SUFFIXES:
            found = sorted(folder.glob(f"*{suffix}"))
            if found:
                return str(found[0])
    wanted = filename or "weights (model.safetensors)"
    raise FileNotFoundError(f"{os.fspath(source)}: has no {wanted}")


# timm's JSON has no words for these: classes, a norm with its eps, and None, which timm
# takes for "not said". They can only come with an architecture that has them.
_UNSAYABLE = {
    *("block_fn", "mlp_layer", "attn_layer", "embed_layer", "embed_norm_layer"),
    "norm_layer",
}
# Classes of timm's that take no name for a layer, and always have a norm at the end.
_WITHOUT_NAMES = ("Eva", "Beit", "VisionTransformerRelPos")
_ONLY_OURS = {*_UNSAYABLE, "act_layer", "final_norm"}
# Where timm takes an init_values of 0 for None.
_FALSY_SCALE = ("Beit", "VisionTransformerRelPos")
# Where norms stand has a default that depends on the pool.
_ALWAYS = (
    *("num_classes", "global_pool", "fc_norm", "use_fc_norm"),
    "use_post_transformer_norm",
)
# Where they are not said they follow from others, which a folder may say anew.
_FOLLOWING = ("attn_pool_num_heads", "attn_pool_mlp_ratio")


def _said(family: str, key: str, value: Any) -> Any:
    """A constructor argument as timm's JSON has it; None where it has no way."""
    if family in _WITHOUT_NAMES and key in _ONLY_OURS:
        return None
    if key == "init_values" and family in _FALSY_SCALE:
        return value or 0.0
    if key == "norm_layer" and value[1] == 1e-6:
        return value[0]
    if family == "NaFlexVit" and key == "embed_norm_layer" and value:
        return value[0] if value[1] == 1e-6 else None  # a name there, too
    if key in _UNSAYABLE:
        return None
    return list(value) if isinstance(value, tuple) else value


def _kv_heads(wanted: Mapping[str, Any]) -> Any:
    """num_kv_heads as a number or a list; None where the blocks take no such option."""
    if wanted["num_kv_heads"] is not None:
        return _said("Eva", "num_kv_heads", wanted["num_kv_heads"])
    return None if wanted["use_post_norm"] else wanted["num_heads"]


def _model_args(model: Any) -> tuple[str, dict[str, Any]]:
    """An architecture of timm's and what to add to it to rebuild the model.

    The model's own architecture where possible, else the first that can be told the
    difference. Raises ValueError where there is none.
    """
    known, family = table()["models"], model._family
    own = (model.pretrained_cfg or {}).get("architecture")
    wanted = all_arguments_of(model._options())
    missing: list[str] = []
    for architecture in dict.fromkeys([own, "vit_base_patch16_224", *known]):
        if architecture not in known or class_of(architecture) != family:
            continue
        standard = all_arguments_of(resolve(known[architecture]["args"], family))
        differ = {k: v for k, v in wanted.items() if v != standard.get(k)}
        args = {k: _said(family, k, v) for k, v in differ.items()}
        if "num_kv_heads" in known[architecture]["args"]:
            # Its list of one number for each block would stay, of as many as it has.
            args.setdefault("num_kv_heads", _kv_heads(wanted))
        unsaid = [k for k, v in args.items() if v is None]
        if not unsaid:
            # Written even where they are the default, or as in the architecture.
            follows = FAMILIES[family].implied(wanted)
            moved = [k for k in _FOLLOWING if wanted.get(k) != follows.get(k)]
            args |= {k: wanted[k] for k in (*_ALWAYS, *moved) if k in wanted}
            return architecture, args
        missing = missing or unsaid
    instead = ""
    if missing == ["norm_layer"] and wanted["norm_layer"][0] == "layernorm":
        # As transformers' ViT has 1e-12, where timm's of the same weights has 1e-6.
        instead = (
            "; it can say norm_layer=('layernorm', 1e-06): build the model with it"
        )
    raise ValueError(
        "timm's config.json cannot say "
        + ", ".join(f"{k}={wanted[k]!r}" for k in missing)
        + f" for a model of no architecture that has it{instead}"
    )


def config_of(
    model: Any,
    label_names: Any = None,
    label_descriptions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """timm's config.json of a model, as `save_pretrained` writes it.

    Raises ValueError for a model that timm cannot rebuild from JSON.
    """
    from ..transforms import resolve_data_config

    cfg = dict(model.pretrained_cfg or {})
    same = cfg.get("num_classes") in (None, model.num_classes)
    label_names = label_names or (cfg.get("label_names") if same else None)
    if label_descriptions is None and same:
        label_descriptions = cfg.get("label_descriptions")
    if label_names is not None and len(label_names) > model.num_classes:
        raise ValueError(
            f"label_names: {len(label_names)} names for {model.num_classes} classes"
        )
    architecture, args = _model_args(model)

    for key in (*_PLACES, "dtypes", "hf_hub_filename", "architecture", "label_names",
                "label_descriptions", "label_offset", "tag"):  # fmt: skip
        cfg.pop(key, None)
    cfg.update(resolve_data_config(model), num_classes=model.num_classes)
    embed = "embeds" if model._family == "NaFlexVit" else "patch_embed"
    cfg.setdefault("first_conv", f"{embed}.proj")
    heads = model._heads
    cfg.setdefault("classifier", heads[0] if len(heads) == 1 else heads)
    cfg["custom_load"] = False
    if model.config.get("dynamic_img_size"):
        cfg["fixed_input_size"] = False
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": model.global_pool,
    }
    if label_names:
        config["label_names"] = label_names
    if label_descriptions:
        config["label_descriptions"] = dict(label_descriptions)
    config["model_args"] = args
    config["pretrained_cfg"] = {k: v for k, v in cfg.items() if v is not None}
    dtypes = {k: v for k, v in model._dtypes().items() if v != "float32"}
    if dtypes:
        config[_OURS] = {"dtypes": dtypes}
    return config


def save_pretrained(
    model: Any,
    directory: str | os.PathLike[str],
    *,
    label_names: Any = None,
    label_descriptions: Mapping[str, str] | None = None,
) -> None:
    """Write config.json and model.safetensors, as timm's `local-dir:` loads them.

    label_names: a name for each class (list, or dict index -> name); default those the
    model came with. Raises ValueError for a model that timm cannot rebuild from JSON.

    Each weight is written as the model keeps it: float32, bfloat16 or float16, and
    8-bit integers as NAME (I8, (n, ...)) beside NAME_scale (F32, (n,)). Where one is
    not float32, config.json has it in 'vitpool': {'dtypes': {NAME: dtype}}, a key that
    timm and transformers pass over; `create_model` builds the same model of it again,
    to the bit, and never holds its integers as floats. timm reads a folder in bfloat16
    or float16, as float32. A folder of integers it refuses, as vitpool before it had
    them does, for the names in '_scale': model.to('float32') is what to save for them.

    What the folder held stays as it was until both files are written whole. They are
    then put in place one after the other, and in between the folder has no config.json:
    at no moment, and after no crash, does it hold halves of two models.
    """
    from ..checkpoint import stored, write_safetensors

    model = copy.copy(model)  # one state of it for both files
    config = config_of(model, label_names, label_descriptions)
    folder = Path(directory)
    text = json.dumps(config, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        if (folder / name).is_dir():
            raise IsADirectoryError(f"{folder / name} is a folder")
    new = [folder / f".{name}.{os.getpid()}.tmp" for name in ("config", "model", "old")]
    told, weights, old = new
    try:
        told.write_text(text, encoding="utf-8")
        with open(weights, "wb") as file:
            write_safetensors(file, stored(model), {"format": "pt"})
        for path in (told, weights):
            sync(path)
        _swap(folder, told, weights, old)
    finally:
        for path in new:
            path.unlink(missing_ok=True)


def _swap(folder: Path, told: Path, weights: Path, old: Path) -> None:
    """Put both files in place; as before where that fails."""
    config = folder / "config.json"
    had = config.exists()
    if had:
        os.replace(config, old)
        sync(folder)
    try:
        os.replace(weights, folder / "model.safetensors")
    except BaseException:
        if had:
            os.replace(old, config)
        raise
    os.replace(told, config)
    sync(folder)
