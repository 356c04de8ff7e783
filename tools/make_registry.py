# SPDX-License-Identifier: Apache-2.0
"""Write vitpool/registry/registry.json from the timm installed (made with 1.0.31).

    python tools/make_registry.py [OUTPUT]

The table holds what the entry points of timm's plain Vision Transformers are, of the
modules of MODULES: the module and the class, the arguments each passes to the
constructor, its pretrained configurations by tag (the first tag is the default), and
the deprecated names. Classes and partials become the names that `vitpool.config` reads,
a NaFlexVitCfg the fields that are not its defaults. Values shared by most
configurations stand once, under "cfg_defaults".
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib
import json
import pathlib
import sys
from typing import Any

OUTPUT = pathlib.Path(__file__).parent.parent / "vitpool" / "registry" / "registry.json"

# timm's modules whose models are plain Vision Transformers; of one of them, the names.
MODULES = (
    *("vision_transformer", "deit", "beit", "eva", "vision_transformer_relpos"),
    *("naflexvit", "vision_transformer_hybrid"),
)
ONLY = {"vision_transformer_hybrid": ["vit_base_mci_224"]}

# Configuration keys that say where a value sits, not what it is: the reader adds them.
IMPLIED = {"architecture", "tag", "state_dict", "source"}

# Two deprecated names lead to a tag that timm has renamed since, where timm raises.
RENAMED = {"sam": "sam_in1k"}


def name_of(value: Any) -> Any:
    """The JSON form of one constructor argument: a class or partial by its name."""
    if isinstance(value, functools.partial):
        options = dict(value.keywords)
        if value.func.__name__ == "GluMlp" and options.pop("gate_last", True) is False:
            # Its act_layer, SiLU, is only a default: a block always hands one over.
            assert set(options) == {"act_layer"}, value
            return "SwiGLUPacked"
        if set(options) == {"eps"}:
            return [value.func.__name__.lower(), options["eps"]]
        raise ValueError(f"no name for {value}")
    if isinstance(value, type):
        if value.__name__ in ("RmsNorm", "LayerNorm", "SiLU"):
            return value.__name__.lower()
        return value.__name__
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [name_of(v) for v in value]
    raise ValueError(f"no name for {value!r}")


def stem_name(partial: Any, embed_dim: int) -> str:
    """'ConvStem' for vit_base_mci_224's embedding; ValueError for another."""
    backbone = partial.keywords["backbone"]
    convs = [stage.conv for stage in backbone]
    assert {*partial.keywords} == {"backbone", "proj"}, partial
    assert partial.keywords["proj"] is False, partial
    assert [conv.stride[0] for conv in convs] == [4, 2, 2], partial
    assert [conv.kernel_size[0] for conv in convs] == [4, 2, 2], partial
    wide = [embed_dim // 4, embed_dim // 4, embed_dim]
    assert [conv.out_channels for conv in convs] == wide, partial
    return type(backbone).__name__


def naflex_options(cfg: Any) -> dict[str, Any]:
    """The fields of a NaFlexVitCfg that are not as it has them by default."""
    plain = type(cfg)()
    values = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)}
    return {k: v for k, v in values.items() if v != getattr(plain, k)}


def captured(timm: Any, module_name: str, name: str) -> tuple[str, dict[str, Any]]:
    """The class that the entry point `name` builds, and what it hands to it."""
    module: Any = importlib.import_module(f"timm.models.{module_name}")
    caught: dict[str, Any] = {}
    classes: list[str] = []

    def build(cls: Any, variant: str, _pretrained: bool, **kwargs: Any) -> Any:
        assert variant == name, (variant, name)
        classes.append(cls.__name__)
        caught.update(kwargs)
        return type("Nothing", (), {})()

    original = module.build_model_with_cfg
    module.build_model_with_cfg = build
    try:
        timm.create_model(name)
    finally:
        module.build_model_with_cfg = original
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        assert caught.pop(key) is None
    assert caught.pop("feature_cfg") == {"out_indices": 3, "feature_cls": "getter"}
    # How a checkpoint is read follows from the class, the name and the pool:
    # vitpool.checkpoint.
    del caught["pretrained_filter_fn"]
    caught.pop("pretrained_strict", None)
    if "cfg" in caught:
        caught.update(naflex_options(caught.pop("cfg")))
    if "embed_layer" in caught:
        caught["embed_layer"] = stem_name(caught["embed_layer"], caught["embed_dim"])
        # Of the stem's pixels, 1; here of the picture's: all its strides.
        assert caught.pop("patch_size") == 1
    return classes[0], {k: name_of(v) for k, v in caught.items()}


def main(output: pathlib.Path) -> None:
    """Write the table to `output`."""
    timm: Any = importlib.import_module("import_timm").timm
    _registry: Any = importlib.import_module("timm.models._registry")
    PretrainedCfg: Any = importlib.import_module(
        "timm.models._pretrained"
    ).PretrainedCfg
    cfgs: dict[str, dict[str, dict[str, Any]]] = {}
    modules = {
        name: module
        for module in MODULES
        for name in timm.list_models(module=module)
        if name in ONLY.get(module, [name])
    }
    models = list(modules)  # as MODULES has them: VisionTransformer's own first
    for name in models:
        cfgs[name] = {}
        for tag in _registry._model_default_cfgs[name].tags:
            cfg = dataclasses.asdict(_registry._model_pretrained_cfgs[f"{name}.{tag}"])
            assert cfg["state_dict"] is cfg["source"] is None, (name, tag)
            if cfg["hf_hub_id"] == f"timm/{name}.{tag}":
                cfg["hf_hub_id"] = "timm/"  # as timm writes it: the reader completes it
            cfgs[name][tag] = {k: v for k, v in cfg.items() if k not in IMPLIED}

    defaults: dict[str, Any] = {}
    for field in dataclasses.fields(PretrainedCfg):
        if field.name not in IMPLIED:
            values = collections.Counter(
                json.dumps(cfg[field.name])
                for tags in cfgs.values()
                for cfg in tags.values()
            )
            defaults[field.name] = json.loads(values.most_common(1)[0][0])

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    # One line a configuration, so that a new timm reads well as a diff.
    text = ["{"]
    text.append(f' "timm": {line(timm.__version__)},')
    plain = {f.name: f.default for f in dataclasses.fields(PretrainedCfg)}
    plain = {k: v for k, v in plain.items() if k not in IMPLIED}
    text.append(f' "cfg_plain": {line(plain)},')
    text.append(f' "cfg_defaults": {line(defaults)},')
    text.append(' "models": {')
    for name in models:
        kind, args = captured(timm, modules[name], name)
        text.append(
            f'  {line(name)}: {{"module": {line(modules[name])}, '
            f'"class": {line(kind)}, "args": {line(args)},'
        )
        text.append('   "cfgs": {')
        for tag, cfg in cfgs[name].items():
            own = {k: v for k, v in cfg.items() if json.loads(line(v)) != defaults[k]}
            text.append(f"    {line(tag)}: {line(own)},")
        text[-1] = text[-1][:-1] + "}},"
    text[-1] = text[-1][:-1]
    deprecated = {}
    for module in MODULES:
        for old, current in _registry.get_deprecated_models(module).items():
            name, tag = _registry.split_model_name_tag(current)
            if name not in modules:
                assert module in ONLY, current
                continue
            deprecated[old] = f"{name}.{RENAMED.get(tag, tag)}"
            assert RENAMED.get(tag, tag) in cfgs[name], current
    text.append(f' }},\n "deprecated": {json.dumps(deprecated, indent=2)}\n}}\n')
    output.write_text("\n".join(text), encoding="utf-8")
    count = sum(map(len, cfgs.values()))
    print(
        f"{output}: {len(models)} models, {count} tags, {output.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT)
