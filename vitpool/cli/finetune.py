# SPDX-License-Identifier: Apache-2.0
"""`vitpool finetune`: train a classifier on pictures of one's own."""

from __future__ import annotations

import argparse
from typing import Any

from .errors import INTERRUPTED, OK, SOME_FAILED, say
from .options import add_preparation, count, model_options, number, size_options
from .progress import print_text


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "finetune",
        parents=[model_options(head=False), size_options()],
        help="train a classifier on pictures of one's own",
        description="Train a model's classifier, and more of it if wanted, on pictures "
        "in class folders. OUT becomes a model's folder in timm's hub layout, with the "
        "names of the classes, a history, and a report to look at.\n"
        "A run that was stopped, by Ctrl-C or a kill, goes on with the same command, "
        "and comes to the same weights, bit for bit.",
        examples=[
            "vitpool finetune photos -m vit_small_patch14_dinov2 -o out",
            "vitpool finetune photos -m vit_base_patch16_224 --global-pool map -o out",
            "vitpool finetune train --val val --train 2 --mixup 0.8 -o out",
            "vitpool finetune labels.csv --train head --epochs 50 --patience 5 -o out",
        ],
    )
    sub.add_argument(
        "data",
        metavar="DATA",
        help="a folder of class folders, or a CSV file with the columns path and label",
    )
    sub.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="folder to write; a run that was stopped goes on there",
    )
    sub.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what another run, or the same one when it was done, left in OUT",
    )
    sub.add_argument("-q", "--quiet", action="store_true", help="no bar, no epochs")
    _add_data(sub.add_argument_group("pictures").add_argument)
    recipe = "A default that is not told is that of a published recipe for --train."
    _add_training(sub.add_argument_group("training", recipe).add_argument)
    _add_augmentation(sub.add_argument_group("pictures drawn anew").add_argument)
    sub.set_defaults(run=run, exif=False)  # timm has no word for it in a config


def _add_data(add: Any) -> None:
    add(
        "--val",
        metavar="DATA",
        help="pictures to judge by, as DATA; else see --holdout",
    )
    add(
        "--holdout",
        type=number,
        default=0.2,
        metavar="X",
        help="part of each class that is held out to judge by (default %(default)s; 0 "
        "for none)",
    )
    add(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="what to do where a picture cannot be read (default %(default)s)",
    )
    add_preparation(add)
    add("-j", "--workers", type=count(1), metavar="N", help="decoding threads")


def _add_training(add: Any) -> None:
    add(
        "--train",
        type=_part,
        default="pool",
        metavar="head|pool|N|all",
        help="the head; the attention pool and what follows it (default); the last N "
        "blocks and what follows them; or all",
    )
    add(
        "--reset",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="begin with a fresh head (default); --no-reset goes on with the model's "
        "own, of the same classes",
    )
    add("--epochs", type=count(1), metavar="N", help="times that each picture is seen")
    add("-b", "--batch-size", type=count(1), metavar="N", help="pictures at once")
    add(
        "--opt",
        "--optimizer",
        dest="optimizer",
        choices=("adamw", "sgd", "lars"),
        default="adamw",
        help="default %(default)s",
    )
    add("--lr", type=number, metavar="X", help="highest learning rate")
    add("--weight-decay", type=number, metavar="X", help="of matrices, by timm's rule")
    add(
        "--momentum",
        type=number,
        default=0.9,
        metavar="X",
        help="of sgd and lars (default 0.9)",
    )
    add(
        "--layer-decay",
        type=number,
        metavar="X",
        help="what the rate of each layer is of the next one's",
    )
    add(
        "--sched",
        "--schedule",
        dest="schedule",
        choices=("cosine", "constant"),
        default="cosine",
        help="of the learning rate (default %(default)s)",
    )
    add(
        "--warmup-epochs",
        "--warmup",
        dest="warmup",
        type=number,
        metavar="X",
        help="epochs in which the rate rises",
    )
    add(
        "--accumulate",
        type=count(1),
        default=1,
        metavar="N",
        help="batches a step (default 1)",
    )
    add("--clip-grad", type=number, metavar="X", help="longest gradient (default any)")
    add("--ema", type=number, metavar="X", help="keep a mean of the weights, as 0.999")
    add(
        "--smoothing",
        "--label-smoothing",
        dest="label_smoothing",
        type=number,
        default=0.0,
        metavar="X",
        help="probability that is spread over all classes (default 0)",
    )
    add(
        "--mixup",
        type=number,
        default=0.0,
        metavar="X",
        help="alpha (default 0: none); of pictures, or of cached features",
    )
    add(
        "--cutmix",
        type=number,
        default=0.0,
        metavar="X",
        help="alpha (default 0: none); nothing is cached then",
    )
    add(
        "--drop-path",
        "--drop-path-rate",
        dest="drop_path_rate",
        type=number,
        metavar="X",
        help="rate of stochastic depth in the last block (default the model's)",
    )
    add(
        "--patience",
        type=count(1),
        metavar="N",
        help="stop after N epochs without a better one (default never)",
    )
    add("--seed", type=count(0), default=0, metavar="N", help="default %(default)s")
    add(
        "--checkpointing",
        action="store_true",
        help="recompute activations: slower, in less memory",
    )


def _add_augmentation(add: Any) -> None:
    add(
        "--augment",
        action=argparse.BooleanOptionalAction,
        help="crop, flip and colour pictures anew in each epoch, as timm does (default "
        "where blocks are trained)",
    )
    add(
        "--aa",
        "--auto-augment",
        dest="auto_augment",
        metavar="POLICY",
        help="RandAugment by timm's words, as rand-m9-mstd0.5-inc1",
    )
    add(
        "--cache",
        choices=("float32", "bfloat16", "off"),
        default="float32",
        help="without augmentation what is not trained computes once, and is kept on "
        "the disk so, in OUT, until the run is done (default %(default)s)",
    )


def _part(text: str) -> str | int:
    """A type for argparse: head, pool, all, or a number of blocks."""
    if text in ("head", "pool", "all"):
        return text
    if text.isascii() and text.isdigit():
        return int(text)
    raise argparse.ArgumentTypeError(
        f"{text!r}, allowed are head, pool, all and a number of blocks"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from .finetune_plan import planned
    from .finetune_run import carry_out

    plan = planned(args)
    if plan.folder.done:
        say(f"{args.output}: this run is done; --overwrite makes it anew")
    else:
        try:
            carry_out(plan)
        except KeyboardInterrupt:
            there = f"what is done is in {args.output}"
            say(f"interrupted; {there}: the same command goes on")
            return INTERRUPTED
    print_text(args.output)
    return SOME_FAILED if plan.skipped else OK
