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
        description="Write a model, configuration and weights, as a folder that "
        "vitpool and timm load.",
        examples=[
            "vitpool convert -m vit_base_patch16_siglip_224 -o siglip",
            "vitpool convert -m vit.npz --arch vit_base_patch16_224 -o folder",
            "vitpool convert --num-classes 5 --new-head -o new",
        ],
    )
    sub.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="folder to write"
    )
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from ..registry.folder import save_pretrained

    model = load_model(args)
    save_pretrained(model, args.output)
    print_text(args.output)
    return OK
