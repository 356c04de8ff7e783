# SPDX-License-Identifier: Apache-2.0
"""`vitpool compare`: where two models part, stage by stage."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from .errors import DIFFER, OK, UsageError, say
from .given import where
from .options import AS_JSON, count, number, use_threads
from .progress import expand, page_file, print_json, print_text, progress
from .sides import add_sides, needs_drawn, open_sides


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "compare",
        help="tell where two models part, stage by stage",
        description="Run the same pictures through two models and tell where they "
        "part: configuration, parameters, then each stage from the patch embedding to "
        "the head. Exit code 0: they are alike; 1: they differ, and the first line "
        "names the first stage that does; 2: they cannot be compared.\n"
        "Weights are those of a folder, a file, a record or the function that is "
        "named, of --checkpoint, or with --pretrained the trained ones of a name. "
        "Where neither model has any, both get the same drawn ones.",
        examples=[
            "vitpool compare timm:vit_tiny_patch16_224 vit_tiny_patch16_224",
            "vitpool compare timm:vit_tiny_patch16_224 fork.py:ViT --checkpoint w.pth",
            "vitpool compare before after --images photos --isolate --html page.html",
            "vitpool compare a.safetensors b.safetensors --arch vit_base_patch16_224",
        ],
    )
    add_sides(sub)
    sub.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="pictures to run (default: some from a seed, and a constant one); folders "
        "of them; - for paths on stdin, one a line",
    )
    sub.add_argument(
        "-z",
        "--null",
        action="store_true",
        help="paths in a list end in a NUL byte, as `find -print0` writes them",
    )
    sub.add_argument(
        "--isolate",
        action="store_true",
        help="give each stage of the candidate the reference's input, so that an error "
        "that is made is told from one that is carried",
    )
    sub.add_argument(
        "--float64",
        action="store_true",
        help="compute both in float64 too, for each one's own error",
    )
    sub.add_argument(
        "--randomize",
        action="store_true",
        help="give both the same drawn weights, far from fresh ones, which hide faults",
    )
    sub.add_argument(
        "--seed",
        type=count(0),
        default=0,
        metavar="N",
        help="of the drawn weights and pictures (default 0)",
    )
    sub.add_argument(
        "--rtol",
        type=number,
        metavar="X",
        help="difference that is allowed, as a part of a stage's largest number",
    )
    sub.add_argument(
        "--atol",
        type=number,
        metavar="X",
        help="difference that is allowed beside it (default 0)",
    )
    sub.add_argument("--threads", type=count(1), metavar="N", help="compute threads")
    sub.add_argument("--json", **AS_JSON)
    sub.add_argument("--html", metavar="FILE", help="write a page, with the plot")
    sub.add_argument(
        "-q", "--quiet", action="store_true", help="no bar, no word on drawn weights"
    )
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from .. import compare
    from ..testing.comparison.page import page

    images = _pictures(args)
    use_threads(args)
    with page_file(args.html) as file:
        reference, candidate = open_sides(args)
        randomize = needs_drawn(args, reference, candidate)
        tolerances = {"rtol": args.rtol, "atol": args.atol}
        with _theirs(), progress(args, None, "stage") as bar:
            found = compare(
                reference.side,
                candidate.side,
                images,
                float64=args.float64,
                isolate=args.isolate,
                randomize=randomize,
                seed=args.seed,
                progress=lambda row: bar.update(),
                **{key: x for key, x in tolerances.items() if x is not None},
            )
        if file is not None:
            file.write(page(found).encode())
    if args.json:
        print_json(found.to_dict())
    else:
        for line in str(found).splitlines():
            print_text(line)
    if args.html:
        say(f"see {args.html}")
    return OK if found.ok else DIFFER


def _pictures(args: argparse.Namespace) -> list[str] | None:
    """The files of --images."""
    if args.images is None:
        if args.null:
            raise UsageError("--null is for paths that --images - reads")
        return None
    return list(expand(args.images, args.null))


@contextlib.contextmanager
def _theirs() -> Iterator[None]:
    """What a model prints goes to stderr; what its code raises is one line."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (OSError, ValueError, TypeError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise UsageError(where(error)) from error
