# SPDX-License-Identifier: Apache-2.0
"""`vitpool convert`: a model as a folder that vitpool and timm load."""

from __future__ import annotations

import argparse
from typing import Any

from .errors import OK
from .options import load_model, model_options, size_options
from .progress import print_text


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "convert",
        parents=[model_options(), size_options()],
        help="write a model as a folder that vitpool and timm load",
    )
    sub.add_argument("-o", "--output", required=True, metavar="DIR")
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from ..registry.folder import save_pretrained

    model = load_model(args)
    save_pretrained(model, args.output)
    print_text(args.output)
    return OK
