# SPDX-License-Identifier: Apache-2.0
"""`vitpool attention`: draw what a model looks at."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .errors import OK, SOME_FAILED, UsageError
from .options import (
    load_model,
    make_transform,
    model_options,
    picture_options,
    size_options,
)
from .progress import batches, expand, print_text


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "attention",
        parents=[model_options(), size_options(), picture_options(1)],
        help="draw what a model looks at",
        description="Draw what a model looks at.",
        examples=[
            "vitpool attention photo.jpg -o seen.png",
            "vitpool attention a.jpg b.jpg --layer rollout -o seen.png",
            "vitpool attention photo.jpg -o heads.png --head all",
        ],
    )
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, or folders")
    sub.add_argument("-o", "--output", required=True, metavar="OUT.png", help="file")
    sub.add_argument(
        "--layer",
        default="auto",
        metavar="pool|N|rollout",
        help="the attention pool, block N (-1 the last), or all blocks "
        "multiplied (default the pool, else the last block)",
    )
    sub.add_argument(
        "--head",
        default="mean",
        metavar="mean|N|all",
        help="one head, or each in a column (default their mean)",
    )
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from .. import plot
    from ..labels import labels_for

    suffix = Path(args.output).suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UsageError(f"-o {args.output}: the name must end in .png, .jpg or .webp")
    model = load_model(args)
    transform = make_transform(args, model)
    labels = labels_for(model.pretrained_cfg or {}, max(model.num_classes, 0))
    rows, failed = [], 0
    for batch in batches(args, model, list(expand(args.images))):
        failed += len(batch.errors)
        for index, source in enumerate(batch.sources):
            if index not in batch.errors:
                rows.append(
                    plot.attention_row(
                        model,
                        transform,
                        source,
                        layer=args.layer,
                        head=args.head,
                        labels=labels,
                    )
                )
    if rows:
        plot.stack_rows(rows).save(args.output)
        print_text(args.output)
    return SOME_FAILED if failed else OK
