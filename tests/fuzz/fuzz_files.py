# SPDX-License-Identifier: Apache-2.0
"""atheris: what comes from files and the command line, as any bytes.

usage: fuzz_files.py {config,safetensors,mapping,arguments} [OPTION... CORPUS...]
Only the errors that the documentation names may come out.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

os.environ["HF_HUB_OFFLINE"] = "1"
with atheris.instrument_imports(include=["vitpool"]):
    import numpy as np

    import vitpool
    import vitpool.checkpoint.adapt
    import vitpool.checkpoint.embeddings
    import vitpool.checkpoint.fit
    import vitpool.checkpoint.formats.transformers
    import vitpool.checkpoint.load
    import vitpool.checkpoint.safetensors_file
    import vitpool.cli
    import vitpool.config
    import vitpool.hub
    import vitpool.registry
    import vitpool.transforms
    from vitpool.checkpoint import Spec, StateDict, convert_state_dict, open_state_dict
    from vitpool.checkpoint.fit import Fit
    from vitpool.checkpoint.lazy import LazyTensor

FOLDER = Path(tempfile.mkdtemp(prefix="vitpool-fuzz-"))
logging.disable(logging.CRITICAL)
TINY = {"embed_dim": 8, "depth": 2, "num_heads": 2, "img_size": 32, "num_classes": 3}
VIT = "VisionTransformer"
EVA_ROPE = {"attn_type": "rope", "use_rot_pos_emb": True, "init_values": 1.0}
SPECS = [
    Spec.from_options(TINY | more, {"num_classes": 3}, family=family)
    for family, more in (
        (VIT, {}),
        (VIT, {"class_token": False, "global_pool": "map"}),
        (VIT, {"reg_tokens": 2, "no_embed_class": True}),
        (VIT, {"global_pool": "avg", "patch_size": 8, "in_chans": 1}),
        (VIT, {"embed_layer": "ConvStem", "img_size": 64}),
        ("VisionTransformerDistilled", {}),
        ("Eva", {"num_reg_tokens": 2, "swiglu_mlp": True, "scale_mlp": True}),
        ("Eva", {"qkv_fused": False, "use_abs_pos_emb": False}),
        ("Eva", EVA_ROPE | {"global_pool": "map", "use_pre_transformer_norm": True}),
        ("Beit", {"use_rel_pos_bias": True, "init_values": 1.0}),
        ("Beit", {"use_shared_rel_pos_bias": True, "img_size": (48, 16)}),
        ("VisionTransformerRelPos", {"rel_pos_type": "bias", "class_token": True}),
        ("NaFlexVit", {"class_token": True, "pos_embed_grid_size": (2, 3)}),
    )
]


def odd(bytes_of: Any, depth: int = 0) -> Any:
    """Some value that JSON can hold."""
    kind = bytes_of.ConsumeIntInRange(0, 11 if depth < 2 else 8)
    if kind < 4:
        values = (None, True, False, 0, -1, 1, 3, 16, 1e400, -1e400, 1e-9, 10**400)
        return values[bytes_of.ConsumeIntInRange(0, len(values) - 1)]
    if kind == 4:
        return bytes_of.ConsumeInt(8)
    if kind < 7:
        return WORDS[bytes_of.ConsumeIntInRange(0, len(WORDS) - 1)]
    if kind < 9:
        return bytes_of.ConsumeUnicodeNoSurrogates(6)
    count = bytes_of.ConsumeIntInRange(0, 4)
    if kind < 11:
        return [odd(bytes_of, depth + 1) for _ in range(count)]
    return {f"k{i}": odd(bytes_of, depth + 1) for i in range(count)}


WORDS = [
    *("avg", "map", "prr", "token", "layernorm", "rmsnorm", "gelu", "silu", "Block"),
    *("SwiGLU", "diff", "learn", "none", "bicubic", "center", "squash", "jax", "vit"),
    *("vit_tiny_patch16_224", "", "\ud800", "1e5", "0", "head"),
]
CFG = [
    *("input_size", "test_input_size", "mean", "std", "crop_pct", "test_crop_pct"),
    *("crop_mode", "interpolation", "num_classes", "label_names", "pool_size", "file"),
]
ARGS = list(vitpool.config.DEFAULTS)


def config(data: bytes) -> None:
    """config.json: to an architecture, a configuration and constructor options."""
    if data[:1] == b"{":  # as it would lie in a file; else made up from the bytes
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            return
    else:
        bytes_of = atheris.FuzzedDataProvider(data)

        def some(names: list[str]) -> dict[str, Any]:
            count = bytes_of.ConsumeIntInRange(0, 4)
            picked = [
                names[bytes_of.ConsumeIntInRange(0, len(names) - 1)]
                for _ in range(count)
            ]
            return {name: odd(bytes_of) for name in picked}

        content = {"architecture": "vit_tiny_patch16_224"}
        content["pretrained_cfg"] = some(CFG)
        content["model_args"] = some(ARGS)
        content |= some(["architecture", "labels", "num_classes", *content])
    with contextlib.suppress(ValueError, TypeError):
        _, cfg, options = vitpool.hub.parse_config(content, "config.json")
        with contextlib.suppress(ValueError, TypeError, MemoryError):
            vitpool.transforms.resolve_data_config(cfg)
        # No model is built from it: fuzz_model does that, and some are too large.
        vitpool.config.resolve(dict(vitpool.config.DEFAULTS) | options)


def safetensors(data: bytes) -> None:
    """A weights file of these bytes, and every tensor of it."""
    path = FOLDER / "model.safetensors"
    path.write_bytes(data)
    with contextlib.suppress(ValueError):
        weights = open_state_dict(path)
        for key, shape in weights.shapes().items():
            if np.prod(shape, dtype=float) < 1e6:
                assert weights[key].shape == shape


def keys() -> list[str]:
    """Keys that some layout knows."""
    names = {name for spec in SPECS for name in spec.shapes}
    for layout in Path(vitpool.__file__).parent.glob("checkpoint/formats/*.py"):
        words = layout.read_text().split('"')[1::2]
        names |= {w for w in words if "." in w and " " not in w}
    return sorted(names)


KEYS = keys()


def mapping(data: bytes) -> None:
    """Weights of known and other keys, of any shapes."""
    bytes_of = atheris.FuzzedDataProvider(data)
    spec = SPECS[bytes_of.ConsumeIntInRange(0, len(SPECS) - 1)]
    shapes: dict[str, tuple[int, ...]] = {}
    if bytes_of.ConsumeBool():
        shapes |= spec.shapes
    for _ in range(bytes_of.ConsumeIntInRange(0, 12)):
        key = KEYS[bytes_of.ConsumeIntInRange(0, len(KEYS) - 1)]
        if bytes_of.ConsumeIntInRange(0, 9) == 0:
            key = bytes_of.ConsumeUnicode(20)
        rank = bytes_of.ConsumeIntInRange(0, 5)
        sizes = (0, 1, 2, 3, 5, 8, 16, 24, 49)
        shape = tuple(sizes[bytes_of.ConsumeIntInRange(0, 8)] for _ in range(rank))
        if bytes_of.ConsumeBool():
            shapes[key] = shape
        else:
            shapes.pop(key, None)
    shapes = {k: s for k, s in shapes.items() if np.prod(s, dtype=float) < 1e5}
    tensors = {
        key: LazyTensor(shape, lambda shape=shape: np.zeros(shape, np.float32))
        for key, shape in shapes.items()
    }
    with contextlib.suppress(ValueError):
        weights = convert_state_dict(StateDict(tensors, "a file"), spec)
        Fit.of(weights, spec).check(weights, spec, strict=True)
        for key in weights:
            assert weights[key].shape == spec.shapes[key]


def words_of(parser: Any) -> list[str]:
    """Every command and option of a parser, and values for them."""
    words = [
        "",
        "-",
        "--",
        "0",
        "-1",
        "1e400",
        "nan",
        "224",
        "0x10",
        "a=b",
        "=",
        "x" * 99,
    ]
    for action in parser._actions:
        words += action.option_strings
        words += [str(choice) for choice in action.choices or ()]
        for inner in getattr(action, "choices", None) or ():
            if hasattr(action.choices, "values"):
                words += words_of(action.choices[inner])
    return sorted(set(words))


COMMANDS = ["classify", "embed", "attention", "info", "list", "convert", "benchmark"]
PARSER = vitpool.cli.build_parser()
LINE = words_of(PARSER)


def arguments(data: bytes) -> None:
    """A command line: parsed, and what it asks of model and transform worked out."""
    bytes_of = atheris.FuzzedDataProvider(data)
    commands = (
        "classify",
        "embed",
        "attention",
        "info",
        "list",
        "convert",
        "benchmark",
    )
    argv = [commands[bytes_of.ConsumeIntInRange(0, len(commands) - 1)]]
    for _ in range(bytes_of.ConsumeIntInRange(0, 8)):
        word = LINE[bytes_of.ConsumeIntInRange(0, len(LINE) - 1)]
        if bytes_of.ConsumeIntInRange(0, 4) == 0:
            word = bytes_of.ConsumeUnicodeNoSurrogates(8)
        argv.append(word)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            args: Any = PARSER.parse_args(argv)
        except SystemExit:
            return
        if args.run.__name__ == "_list":
            vitpool.cli.main(argv)
            return
        with contextlib.suppress(ValueError, TypeError, OSError, ImportError):
            if hasattr(args, "crop_pct"):
                vitpool.cli.transform_arguments(args)
            if hasattr(args, "model") and ":" not in str(args.model):
                vitpool.cli.model_arguments(args)


TARGETS = {f.__name__: f for f in (config, safetensors, mapping, arguments)}

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
