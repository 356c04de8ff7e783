# SPDX-License-Identifier: Apache-2.0
"""`vitpool classify`: print the most probable classes of pictures."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .errors import OK, SOME_FAILED, UsageError
from .options import (
    AS_JSON,
    add_inputs,
    count,
    load_model,
    model_options,
    picture_options,
    size_options,
)
from .progress import batches, expand, print_json, print_text


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "classify",
        parents=[model_options(), size_options(), picture_options(8)],
        help="print the most probable classes of pictures",
        description="Print the most probable classes of pictures.",
        examples=[
            "vitpool classify photo.jpg --topk 3",
            "vitpool classify photos more.jpg -m vit_base_patch16_224 --json",
            "find photos -name '*.jpg' -print0 | vitpool classify -z -",
        ],
    )
    add_inputs(sub, "images", "IMAGE")
    sub.add_argument(
        "--topk",
        type=count(1),
        default=5,
        metavar="K",
        help="classes to print (default 5)",
    )
    sub.add_argument(
        "--output-type",
        choices=("prob", "logit"),
        default="prob",
        help="probabilities (default), or what they are made of",
    )
    sub.add_argument(
        "--label-type",
        choices=("description", "name", "none"),
        default="description",
        help="classes by description (default), by name, or by number alone",
    )
    sub.add_argument("--json", **AS_JSON)
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    import numpy as np

    from ..labels import best, labels_for, probabilities

    paths = list(expand(args.images, args.null))
    model = load_model(args)
    if model.num_classes < 1 or model.global_pool == "":
        raise UsageError(
            f"{args.model} has no classifier (num_classes {model.num_classes}, pool "
            f"{model.global_pool!r}); `vitpool embed` writes its features"
        )
    labels = labels_for(model.pretrained_cfg or {}, model.num_classes)
    failed = 0
    for batch in batches(args, model, paths):
        failed += len(batch.errors)
        logits = model(batch.inputs) if batch.good else np.empty((0, model.num_classes))
        values = probabilities(logits) if args.output_type == "prob" else logits
        rows = iter(zip(best(values, args.topk).tolist(), values, strict=True))
        for index, source in enumerate(batch.sources):
            if index in batch.errors:
                record: dict[str, Any] = {"file": source, "error": batch.errors[index]}
                if args.json:
                    print_json(record, indent=None)
                continue
            order, row = next(rows)
            found = [_class_record(args, labels, i, float(row[i])) for i in order]
            if args.json:
                record = {"file": source, "classes": found}
                print_json(record, indent=None)
            else:
                print_text(source)
                for item in found:
                    value = item[args.output_type]
                    number = (
                        f"{value:7.2%}"
                        if args.output_type == "prob"
                        else (f"{value:8.3f}")
                    )
                    print_text(f"  {number}  {item.get('label', item['index'])}")
        sys.stdout.flush()
    return SOME_FAILED if failed else OK


def _class_record(
    args: argparse.Namespace, labels: Any, index: int, value: float
) -> dict[str, Any]:
    record: dict[str, Any] = {"index": index}
    if args.label_type == "description":
        record["label"] = labels[index]
    elif args.label_type == "name":
        record["label"] = labels.name(index)
    record[args.output_type] = value
    return record
