# SPDX-License-Identifier: Apache-2.0
"""`vitpool embed`: embeddings of many pictures, to Parquet files."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Any

from .errors import INTERRUPTED, OK, SOME_FAILED, StrictError, UsageError, say
from .options import (
    add_inputs,
    check_head,
    count,
    load_model,
    make_transform,
    model_arguments,
    model_options,
    picture_options,
    size_options,
    tell_default,
    transform_arguments,
)
from .progress import print_text, progress, tell_not_taken

if TYPE_CHECKING:
    from ..embed import Summary
    from ..transforms import NotTaken


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "embed",
        parents=[model_options(), size_options(), picture_options(32)],
        help="write embeddings of many pictures to Parquet files",
        description="Write embeddings of many pictures to Parquet files. A file that "
        "is no picture by its name is a list, with one path a line.",
        examples=[
            "vitpool embed photos -o vectors -m vit_base_patch16_siglip_224",
            "vitpool embed photos more.jpg list.txt -o vectors --pool map,avg",
            "find photos -name '*.jpg' -print0 | vitpool embed -z - -o vectors",
        ],
    )
    add_inputs(sub, "data", "DATA")
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
    sub.add_argument(
        "--prune",
        action="store_true",
        help="delete the rows of pictures that are not in DATA (default: kept)",
    )
    sub.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="this machine (default), or a Ray cluster",
    )
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
    ray = args.engine == "ray"
    if ray and args.workers:
        raise UsageError(
            "-j is for --engine local: a Ray actor decodes on its --num-cpus processors"
        )
    if not ray and (args.address or args.actors or args.num_cpus):
        raise UsageError("--address, --actors and --num-cpus need --engine ray")
    try:
        summary = _on_ray(args) if ray else _locally(args)
    except KeyboardInterrupt:
        say(f"interrupted; what is done is in {args.output}: the same command goes on")
        return INTERRUPTED
    _tell(args, summary)
    print_text(args.output)
    return SOME_FAILED if summary.failed else OK


def _tell(args: argparse.Namespace, summary: Summary) -> None:
    """What the run came to, and what it did not do, in one line on stderr."""
    unlisted = "deleted" if args.prune else "kept: --prune deletes them"
    told = [
        (summary.resumed, "of them from before"),
        (summary.replaced, "replaced since and made again"),
        (summary.missing, "not there now, their rows kept"),
    ]
    parts = [f"{count} {what}" for count, what in told if count]
    parts.append(f"{summary.failed} not readable")
    if summary.unlisted:
        parts.append(f"{summary.unlisted} rows of pictures not listed ({unlisted})")
    say(", ".join([f"{summary.rows} pictures", *parts]))


def _pools(args: argparse.Namespace) -> list[str] | None:
    """`token,map,avg` as a list; None for none given."""
    return None if args.pool is None else [p.strip() for p in args.pool.split(",")]


def _is_stream(path: str) -> bool:
    """Whether a path is of what can be read once only, as a pipe."""
    file = os.path.isdir(path) or os.path.isfile(path)
    return path == "-" or (os.path.exists(path) and not file)


def _account(args: argparse.Namespace, not_taken: NotTaken) -> NotTaken | None:
    """Where to count what is not taken; None with --prune, so that it is an error.

    A folder that cannot be read would else cost the rows of all pictures in it.
    """
    return None if args.prune else not_taken


def _locally(args: argparse.Namespace) -> Summary:
    from .. import embed
    from ..transforms import ImageError, NotTaken

    embed.need_pyarrow()
    total, not_taken = None, NotTaken()
    if not any(map(_is_stream, args.data)):
        # read once to count, and to say at the start what is not in it
        found = embed.list_images(args.data, not_taken=not_taken, null=args.null)
        total = sum(1 for _ in found)
        tell_not_taken(not_taken)
    model = load_model(args)
    if not args.pool and model.global_pool not in embed.POOLS:
        raise UsageError(f"{args.model} has no pool of its own: give --pool")
    model.reset_classifier(0)
    transform = make_transform(args, model)

    def report(path: str, reason: str) -> None:
        if not args.strict:
            say(f"{path}: {reason}; row kept, null")

    not_taken = NotTaken()
    account = _account(args, not_taken)
    images = embed.list_images(args.data, not_taken=account, null=args.null)
    with progress(args, total, "picture") as bar:
        try:
            summary = embed.embed_images(
                model,
                images,
                args.output,
                pools=_pools(args),
                transform=transform,
                batch_size=args.batch_size,
                num_workers=args.workers,
                part_size=args.part_size,
                prune=args.prune,
                strict=args.strict,
                progress=bar.update,
                report=report,
            )
        except ImageError as error:
            raise StrictError(str(error)) from error
    if total is None:  # a pipe cannot be read twice
        tell_not_taken(not_taken)
    return summary


def _on_ray(args: argparse.Namespace) -> Summary:
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "--engine ray needs Ray Data: pip install 'ray[data]'"
        ) from error
    from ..embed import list_images
    from ..embed.ray import RAY_CPUS, embed_images
    from ..transforms import NotTaken, default_cpus

    options = model_arguments(args)
    check_head(args, options)
    tell_default(args)
    not_taken = NotTaken()
    account = _account(args, not_taken)
    found = list_images(args.data, not_taken=account, null=args.null)
    images = [os.path.abspath(path) for path in found]
    tell_not_taken(not_taken)
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
            prune=args.prune,
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
