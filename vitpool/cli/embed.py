# SPDX-License-Identifier: Apache-2.0
"""`vitpool embed`: embeddings of many pictures, to Parquet files."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Any

from .errors import OK, SOME_FAILED, StrictError, UsageError, say
from .options import (
    count,
    load_model,
    make_transform,
    model_arguments,
    model_options,
    picture_options,
    size_options,
    transform_arguments,
)
from .progress import note, print_text, progress

if TYPE_CHECKING:
    from ..embed import Summary


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "embed",
        parents=[model_options(), size_options(), picture_options(32)],
        help="write embeddings of many pictures to Parquet files",
    )
    sub.add_argument(
        "data",
        metavar="DIR_OR_LIST",
        help="a folder (links are followed), or a text file with one path a line",
    )
    sub.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="folder of the part files; a run that was stopped goes on, and what "
        "failed is tried again",
    )
    sub.add_argument(
        "--pool", metavar="POOL[,POOL]", help="pools to write (default the model's own)"
    )
    sub.add_argument(
        "--part-size",
        type=count(1),
        default=2048,
        metavar="N",
        help="pictures in a part file (default 2048)",
    )
    sub.add_argument("--engine", choices=("local", "ray"), default="local")
    sub.add_argument("--address", metavar="HOST:PORT", help="Ray cluster")
    sub.add_argument("--actors", type=count(1), metavar="N", help="Ray actors")
    sub.add_argument(
        "--num-cpus",
        type=count(1),
        metavar="N",
        help="processors, and threads, of a Ray actor (default 1)",
    )
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    if args.engine == "ray":
        summary = _on_ray(args)
    elif args.address or args.actors or args.num_cpus:
        raise UsageError("--address, --actors and --num-cpus need --engine ray")
    else:
        summary = _locally(args)
    resumed = f", {summary.resumed} of them from before" if summary.resumed else ""
    say(f"{summary.rows} pictures{resumed}, {summary.failed} not readable")
    print_text(args.output)
    return SOME_FAILED if summary.failed else OK


def _pools(args: argparse.Namespace) -> list[str] | None:
    """`token,map,avg` as a list; None for none given."""
    return None if args.pool is None else [p.strip() for p in args.pool.split(",")]


def _locally(args: argparse.Namespace) -> Summary:
    from .. import embed
    from ..transforms import ImageError

    embed.need_pyarrow()
    total = None
    if os.path.isdir(args.data) or os.path.isfile(args.data):  # read once to count
        total = sum(1 for _ in embed.list_images(args.data))
    model = load_model(args)
    if not args.pool and model.global_pool not in embed.POOLS:
        raise UsageError(f"{args.model} has no pool of its own: give --pool")
    model.reset_classifier(0)
    transform = make_transform(args, model)

    def report(path: str, reason: str) -> None:
        if not args.strict:
            note(f"{path}: {reason}; row kept, null")

    with progress((), args, total, "picture") as bar:
        try:
            return embed.embed_images(
                model,
                embed.list_images(args.data),
                args.output,
                pools=_pools(args),
                transform=transform,
                batch_size=args.batch_size,
                num_workers=args.workers,
                part_size=args.part_size,
                strict=args.strict,
                progress=bar.update,
                report=report,
            )
        except ImageError as error:
            raise StrictError(str(error)) from error


def _on_ray(args: argparse.Namespace) -> Summary:
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "--engine ray needs Ray Data: pip install 'vitpool[ray]'"
        ) from error
    from ..embed import list_images
    from ..embed.ray import RAY_CPUS, embed_images
    from ..transforms import default_cpus

    options = model_arguments(args)
    images = [os.path.abspath(path) for path in list_images(args.data)]
    started = not ray.is_initialized()
    if started:
        # Ray counts processors, it does not bind them: two more, so that the actors
        # may have as many as there are
        known = args.address or os.environ.get("RAY_ADDRESS")
        cpus = {} if known else {"num_cpus": default_cpus() + RAY_CPUS}
        ray.init(address=args.address, log_to_driver=False, **cpus)
    try:
        return embed_images(
            options,
            images,
            args.output,
            pools=_pools(args),
            transform=transform_arguments(args),
            batch_size=args.batch_size,
            part_size=args.part_size,
            actors=args.actors,
            num_cpus=args.num_cpus or 1,
            strict=args.strict,
        )
    except ray.exceptions.RayError as error:
        # the actor's exception comes as the text of its traceback, within others
        said = re.findall(r"^(?:[\w.]+\.)?(\w+Error): (.+)$", str(error), re.MULTILINE)
        kind, text = said[0] if said else ("", str(error).strip().partition("\n")[0])
        if kind == "ImageError":
            raise StrictError(text) from error
        raise ValueError(f"Ray: {text}") from error
    finally:
        if started:
            ray.shutdown()
