# SPDX-License-Identifier: Apache-2.0
"""`vitpool search`: the embedded pictures that are nearest to others."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .errors import OK, SOME_FAILED, StrictError, UsageError, say
from .options import (
    AS_JSON,
    add_inputs,
    count,
    load_model,
    model_options,
    size_options,
    use_threads,
)
from .progress import expand, print_json, print_text


def add(commands: Any) -> None:
    """The command's own arguments."""
    models = model_options(None, "the one that VECTORS names")
    sub = commands.add_parser(
        "search",
        parents=[models, size_options()],
        help="find the embedded pictures that are nearest to others",
        description="Find the pictures nearest to others among those that `vitpool "
        "embed` wrote the vectors of, by the cosine of the angle: 1 is the same "
        "direction. The model and the way pictures are prepared must be those of the "
        "vectors.",
        examples=[
            "vitpool search vectors photo.jpg -k 5",
            "vitpool search vectors photo.jpg other.jpg --pool map --html found.html",
        ],
    )
    sub.add_argument("vectors", metavar="VECTORS", help="folder that `embed` wrote")
    add_inputs(sub, "images", "QUERY")
    sub.add_argument(
        "-k",
        "--topk",
        type=count(1),
        default=10,
        metavar="K",
        help="pictures to find for each (default 10)",
    )
    sub.add_argument("--pool", metavar="POOL", help="which vectors, where several are")
    sub.add_argument(
        "--index",
        action="store_true",
        help="search an index, built in VECTORS where it is not there (needs usearch): "
        "for many searches of many vectors; may miss some",
    )
    sub.add_argument("--html", metavar="FILE", help="write a page with the pictures")
    sub.add_argument(
        "--strict", action="store_true", help="stop at an unreadable QUERY"
    )
    sub.add_argument("--json", **AS_JSON)
    sub.set_defaults(run=run)


# What is about a model that -m names.
_ABOUT = (
    *("arch", "checkpoint", "pretrained", "num_classes", "new_head", "global_pool"),
    *("in_chans", "model_kwargs", "dtype", "img_size", "input_size"),
)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from .. import embed
    from ..transforms import ImageError

    embed.need_pyarrow()
    if not args.chosen and any(getattr(args, name) for name in _ABOUT):
        raise UsageError("options of the model need -m; without it VECTORS names one")
    folder = embed.open_folder(args.vectors)
    folder.pool(args.pool)
    images = list(expand(args.images, null=args.null))
    use_threads(args)
    model = load_model(args) if args.chosen else embed.rebuild(folder)
    try:
        found = embed.search(
            args.vectors,
            images,
            args.topk,
            pool=args.pool,
            model=model,
            errors="raise" if args.strict else "skip",
            index=args.index,
        )
    except ImageError as error:
        raise StrictError(str(error)) from error
    for query, matches in found:
        if args.json:
            near = [match._asdict() for match in matches]
            print_json({"file": query, "matches": near}, indent=None)
            continue
        if len(images) > 1:
            print_text(query)
        indent = "  " if len(images) > 1 else ""
        for match in matches:
            print_text(f"{indent}{match.score:7.4f}  {match.path}")
    if args.html:
        Path(args.html).write_text(embed.page(found), encoding="utf-8")
        say(f"see {args.html}")
    return OK if len(found) == len(images) else SOME_FAILED
