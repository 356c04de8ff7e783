# SPDX-License-Identifier: Apache-2.0
"""`vitpool list`: the names of models."""

from __future__ import annotations

import argparse
from typing import Any

from .errors import NOTHING_FOUND, OK, say
from .options import AS_JSON
from .progress import print_json, print_text


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser("list", help="list the models")
    sub.add_argument("filter", nargs="?", default="", help="a pattern: 'vit_base*'")
    sub.add_argument(
        "--pretrained", action="store_true", help="those with weights, by tag"
    )
    sub.add_argument("--json", **AS_JSON)
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from ..registry import list_models

    names = list_models(args.filter, pretrained=args.pretrained)
    if args.json:
        print_json(names)
    else:
        for name in names:
            print_text(name)
    if not names:
        say(f"no model matches {args.filter!r}")
        return NOTHING_FOUND
    return OK
