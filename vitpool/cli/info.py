# SPDX-License-Identifier: Apache-2.0
"""`vitpool info`: tell about a model, or about this build."""

from __future__ import annotations

import argparse
from typing import Any

from .errors import OK
from .options import AS_JSON, describe_model, model_options, size_options
from .progress import print_json, print_text


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "info",
        parents=[model_options(), size_options()],
        help="tell about a model, or about this build",
        description="Tell about a model, without downloading its weights, or about "
        "this build.",
        examples=[
            "vitpool info -m vit_base_patch16_siglip_224",
            "vitpool info --build --json",
        ],
    )
    sub.add_argument("--json", **AS_JSON)
    sub.add_argument("--build", action="store_true", help="about this build only")
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from .. import __version__, show_config

    about: dict[str, Any] = {"version": __version__, **show_config()}
    if not args.build:
        from ..model import num_parameters
        from ..model.parts import grid_of
        from ..transforms import resolve_data_config

        model = describe_model(args)
        cfg, options = model.pretrained_cfg or {}, model._options()
        shapes = model.param_shapes()
        about = {
            "model": args.model,
            "architecture": cfg.get("architecture"),
            "class": options["family"],
            "parameters": num_parameters(shapes),
            "memory_bytes": model.memory_bytes()["weights"],
            "dtype": str(model.dtype),
            "num_classes": model.num_classes,
            "global_pool": model.global_pool,
            "embed_dim": model.embed_dim,
            "depth": len(model.blocks),
            "num_prefix_tokens": model.num_prefix_tokens,
            "grid_size": list(grid_of(options)),
            "license": cfg.get("license"),
            "weights": cfg.get("hf_hub_id") or cfg.get("file") or cfg.get("url"),
            "input": resolve_data_config(model),
            "build": about,
        }
    if args.json:
        print_json(about)
    else:
        for key, value in about.items():
            if isinstance(value, dict):
                print_text(f"{key}:")
                for inner, text in value.items():
                    print_text(f"  {inner}: {text}")
            else:
                print_text(f"{key}: {value}")
    return OK
