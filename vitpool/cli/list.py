# SPDX-License-Identifier: Apache-2.0
"""`vitpool list`: the names of models, and what they are."""

from __future__ import annotations

import argparse
from typing import Any

from .errors import NOTHING_FOUND, OK, say
from .options import AS_JSON
from .progress import print_json, print_text

# registry.list_modules(), which reads the table of models.
MODULES = (
    *("beit", "deit", "eva", "naflexvit", "vision_transformer"),
    *("vision_transformer_hybrid", "vision_transformer_relpos"),
)


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "list",
        help="list the models",
        description="List the models.",
        examples=[
            "vitpool list 'vit_base*'",
            "vitpool list -l --pretrained '*siglip*'",
            "vitpool list --module eva '*dinov3*'",
        ],
    )
    sub.add_argument(
        "filter", nargs="?", default="", metavar="PATTERN", help="as in 'vit_base*'"
    )
    sub.add_argument(
        "--module",
        default="",
        choices=MODULES,
        metavar="NAME",
        help=f"those of timm's module of this name: {', '.join(MODULES)}",
    )
    sub.add_argument(
        "--pretrained", action="store_true", help="those with weights, by tag"
    )
    sub.add_argument(
        "-l",
        "--long",
        action="store_true",
        help="with parameters, picture size, pool, classes and licence of the weights",
    )
    sub.add_argument("--json", **AS_JSON)
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from ..registry import list_models

    names = list_models(args.filter, args.module, pretrained=args.pretrained)
    if args.long:
        models = [describe(name) for name in names]
        if args.json:
            print_json(models)
        elif models:
            for line in _columns(models):
                print_text(line)
    elif args.json:
        print_json(names)
    else:
        for name in names:
            print_text(name)
    if not names:
        what = f"no model matches {args.filter!r}" if args.filter else "no model"
        if args.module:
            what += f" in timm's module {args.module!r}"
        say(what)
        return NOTHING_FOUND
    return OK


def describe(name: str) -> dict[str, Any]:
    """A model by its name and configuration; nothing of it is made."""
    from ..checkpoint.spec import Spec
    from ..model import num_parameters
    from ..registry.create import plan_model

    plan = plan_model(name)
    spec = Spec.from_options(plan.options, plan.cfg, plan.arch, family=plan.family)
    return {
        "name": name,
        "parameters": num_parameters(spec.shapes),
        "img_size": list(spec.options["img_size"]),
        "global_pool": spec.options["global_pool"],
        "num_classes": spec.options["num_classes"],
        "license": plan.cfg.get("license"),
    }


def _columns(models: list[dict[str, Any]]) -> list[str]:
    """A table for eyes; numbers to the right."""
    rows = [("name", "parameters", "size", "pool", "classes", "licence")]
    for model in models:
        millions = f"{model['parameters'] / 1e6:.1f} M"
        size = "x".join(str(side) for side in model["img_size"])
        pool, classes = model["global_pool"] or "-", str(model["num_classes"] or "-")
        row = (model["name"], millions, size, pool, classes, model["license"] or "-")
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = (1, 2, 4)
    return [
        "  ".join(
            text.rjust(width) if place in right else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
