# SPDX-License-Identifier: Apache-2.0
"""`vitpool quantize`: a model in another dtype as a folder, and what that costs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .errors import OK, SOME_FAILED, UsageError
from .options import (
    AS_JSON,
    count,
    load_model,
    model_options,
    number,
    picture_options,
    size_options,
)
from .progress import batches, expand, print_json, print_text

DTYPES = ("int8", "bfloat16", "float16")


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "quantize",
        parents=[model_options(place=True), size_options(), picture_options(16)],
        help="write a model in another dtype, and tell what that costs",
        description="Write a model in another dtype as a folder that vitpool loads, "
        "and print what that costs on your pictures: cosine and error of features "
        "and logits, the matrices that make the most noise, bytes, and time.",
        examples=[
            "vitpool quantize vit_base_patch16_224 --images photos -o int8",
            "vitpool quantize vit_digits --images photos --target-cosine 0.999 -o int8",
            "vitpool quantize vit_digits --keep 'blocks.2' --keep '*.fc2' -o int8",
            "vitpool quantize vit_digits --dtype bfloat16 -o half",
        ],
    )
    sub.add_argument(
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help="what the matrices become (default int8)",
    )
    sub.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="pictures to choose and to measure on (default: a few generated ones); "
        "folders of them; - for paths on stdin, one a line",
    )
    sub.add_argument(
        "-z",
        "--null",
        action="store_true",
        help="paths in a list end in a NUL byte, as `find -print0` writes them",
    )
    sub.add_argument(
        "--limit", type=count(1), metavar="N", help="take the first N pictures"
    )
    sub.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="PATTERN",
        help="a parameter or module that stays float32, as 'blocks.11.*'; more than "
        "once for more",
    )
    sub.add_argument(
        "--target-cosine",
        type=number,
        metavar="X",
        help="make the noisiest matrices wider until the features of every picture "
        "have this cosine with the model's own",
    )
    sub.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="folder to write"
    )
    sub.add_argument(
        "--overwrite", action="store_true", help="replace what is in the folder"
    )
    sub.add_argument("--json", **AS_JSON)
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from ..registry.folder import save_pretrained
    from ..testing.comparison.quantized import checked, quantized

    dtype, target = checked(args.dtype, args.target_cosine)
    _check_output(args)
    paths = _paths(args)
    # as it is stored: --dtype is what it becomes
    model = load_model(argparse.Namespace(**vars(args) | {"dtype": None}))
    images, names, failed = _read(args, model, paths)
    found = quantized(model, dtype, images, names, args.keep, target)
    save_pretrained(found.model, args.output)
    if args.json:
        print_json({"output": args.output, **found.report.to_dict()})
    else:
        for line in found.report.lines():
            print_text(line)
        print_text(args.output)
    return SOME_FAILED if failed else OK


def _check_output(args: argparse.Namespace) -> None:
    """UsageError where the folder holds something that nobody said to replace."""
    path = Path(args.output)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{args.output} is no folder")
    if path.is_dir() and any(path.iterdir()) and not args.overwrite:
        raise UsageError(
            f"{args.output} is not empty; give another -o, or --overwrite to replace "
            "the model in it"
        )


def _paths(args: argparse.Namespace) -> list[str] | None:
    """The files of --images, of which --limit are taken."""
    if args.images is None:
        for option in ("null", "limit"):
            if getattr(args, option):
                raise UsageError(f"--{option} is for pictures that --images names")
        return None
    return list(expand(args.images, args.null))[: args.limit]


def _read(
    args: argparse.Namespace, model: Any, paths: list[str] | None
) -> tuple[Any, list[str], int]:
    """The pictures as one batch, what each is called, and how many failed."""
    import numpy as np

    if paths is None:
        return None, [], 0
    inputs, names, failed = [], [], 0
    for batch in batches(args, model, paths):
        failed += len(batch.errors)
        if batch.good:
            inputs.append(batch.inputs)
        names += [
            source
            for index, source in enumerate(batch.sources)
            if index not in batch.errors
        ]
    if not inputs:
        raise UsageError("--images: none of the pictures can be read")
    return np.concatenate(inputs), names, failed
