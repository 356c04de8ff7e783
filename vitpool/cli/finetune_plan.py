# SPDX-License-Identifier: Apache-2.0
"""What `vitpool finetune` is asked for, judged in full before anything is written."""

from __future__ import annotations

import argparse
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import resolve, told_options
from ..registry.folder import config_of
from ..text import some
from .errors import UsageError, say
from .finetune_data import (
    check_counts,
    digest_of,
    listed,
    shared,
    unreadable,
    without,
)
from .options import load_model, make_transform
from .run_folder import RunFolder

if TYPE_CHECKING:
    from ..train import Pictures, Trainer

# The version of the numbers behind a run: goes up when the same options give others.
FORMAT = 1
# What is needed on the disk beside the weights and the features, for a report.
_SPARE = 2**24


@dataclass
class Plan:
    """A run, with everything it needs made and checked.

    pictures: to train on; judged: to judge by, None for none. cached: how what stays
    frozen is kept; None: pictures are computed anew in each epoch. skipped: pictures
    that could not be read, and why. notes: sentences for the report.
    """

    args: argparse.Namespace
    model: Any
    transform: Any
    trainer: Trainer
    pictures: Pictures
    judged: Pictures | None
    cached: str | None
    folder: RunFolder
    skipped: dict[str, str]
    notes: list[str]
    reports: bool


def planned(args: argparse.Namespace) -> Plan:
    """The run of these options; whatever is wrong with them raises here."""
    _check_options(args)
    data, judged = listed(args)
    check_counts(args, data, judged)
    model, weights = _model(args, data.classes)
    transform = make_transform(args, model)
    _name_classes(model, transform, data.classes)
    config_of(model)  # that timm's config can tell this model is known before the work
    augment = _augment(args, transform)
    trainer = _trainer(args, model)
    cached = None
    frozen = augment is None and args.train != "all"
    if frozen and args.cache != "off" and not args.cutmix:  # which cuts pictures
        cached = args.cache
    identity = {
        "format": FORMAT,
        "model": _name(args),
        "weights": weights,
        "reset": args.reset,
        "options": told_options(resolve(model.config, model._family)),
        "classes": list(data.classes),
        "pictures": digest_of(data),
        "val": judged and digest_of(judged),
        "holdout": args.holdout if judged is None else None,
        "on_error": args.on_error,
        "transform": transform.options,
        "augment": augment.options if augment else None,
        "cache": cached,
        "train": args.train,
        **trainer.options.told(),
        "label_smoothing": args.label_smoothing,
        "drop_path_rate": args.drop_path_rate,
    }
    folder = RunFolder(args.output, identity, args.overwrite)
    if folder.told is None:
        skipped = unreadable(args, data, judged)
    else:  # the same pictures, by size and time
        skipped = folder.told["skipped"]
    pictures = without(data, skipped)
    judged = None if judged is None else without(judged, skipped)
    check_counts(args, pictures, judged)
    notes: list[str] = []
    if judged is not None:
        notes += shared(pictures, judged)
    elif args.holdout:
        pictures, judged = pictures.split(args.holdout, args.seed)
    if judged is not None:
        judged = judged.with_transform(transform)
    plan = Plan(
        args, model, transform, trainer, pictures.with_transform(augment or transform),
        judged, cached, folder, skipped, notes, _can_report(args),
    )  # fmt: skip
    _check_room(plan)
    return plan


def _check_options(args: argparse.Namespace) -> None:
    if not 0 <= args.holdout < 1:
        raise UsageError(f"--holdout: {args.holdout}, allowed is 0 to below 1")
    if "num_classes" in args.model_kwargs:
        raise UsageError("--model-kwargs: num_classes is the number of DATA's classes")
    if args.augment is False and args.auto_augment:
        raise UsageError("--auto-augment and --no-augment are contrary")
    if args.patience and args.val is None and not args.holdout:
        raise UsageError("--patience needs pictures to judge by: --val or --holdout")


def _model(args: argparse.Namespace, classes: tuple[str, ...]) -> tuple[Any, str]:
    """The model with the head, and the pool, that are to be trained; and what tells the
    weights that it came with from others."""
    from ..model import digest

    plain = argparse.Namespace(**vars(args))
    plain.global_pool = None  # after the weights: what they were trained with is theirs
    model = load_model(plain)
    weights = digest(model, list(model.param_shapes()))
    had, pool = model.global_pool, args.global_pool
    if args.reset:
        grows = pool in ("map", "prr") and pool != had
        model.reset_classifier(len(classes), pool, add_attn_pool=grows, seed=args.seed)
        if grows:
            say(f"the model has no {pool} pool: a fresh one is drawn")
            if args.train == "head":
                say("--train head leaves that pool as it was drawn; see --train pool")
        return model, weights
    if pool not in (None, had):
        raise UsageError(f"--no-reset keeps the model's pool, {had!r}, not {pool!r}")
    if model.num_classes != len(classes):
        raise UsageError(
            f"--no-reset keeps the head of {args.model}, of {model.num_classes} "
            f"classes; {args.data} has {len(classes)}"
        )
    names = (model.pretrained_cfg or {}).get("label_names")
    if isinstance(names, (list, tuple)) and list(map(str, names)) != list(classes):
        raise UsageError(
            f"--no-reset keeps the head of {args.model}, of other classes: "
            f"{some(map(str, names))}; {args.data} has {some(classes)}"
        )
    return model, weights


def _name_classes(model: Any, transform: Any, classes: tuple[str, ...]) -> None:
    """Tell the model its classes, and how its pictures are prepared."""
    told = ("label_names", "label_descriptions", "label_offset")
    old = model.pretrained_cfg or {}
    options = dict(transform.options)
    del options["exif"]  # which timm's config has no word for
    model.pretrained_cfg = {
        **{key: value for key, value in old.items() if key not in told},
        **options,
        "num_classes": len(classes),
        "label_names": list(classes),
    }


def _augment(args: argparse.Namespace, transform: Any) -> Any:
    """What draws training pictures anew; None: they are always the same."""
    from ..train import create_augment

    wanted = args.augment
    if wanted is None:
        wanted = args.auto_augment is not None or args.train not in ("head", "pool")
    if not wanted:
        return None
    return create_augment(
        {key: transform.options[key] for key in ("input_size", "mean", "std")},
        auto_augment=args.auto_augment,
    )


def _trainer(args: argparse.Namespace, model: Any) -> Trainer:
    from ..train import Trainer

    same = (
        *("optimizer", "lr", "weight_decay", "momentum", "layer_decay", "warmup"),
        *("schedule", "epochs", "batch_size", "accumulate", "clip_grad", "ema"),
        *("label_smoothing", "mixup", "cutmix", "drop_path_rate", "patience", "seed"),
        "checkpointing",
    )
    return Trainer(model, args.train, **{name: getattr(args, name) for name in same})


def _name(args: argparse.Namespace) -> str:
    """The model by its name, or where it lies."""
    return os.path.abspath(args.model) if os.path.exists(args.model) else args.model


def _can_report(args: argparse.Namespace) -> bool:
    """Whether there will be a report; says where not."""
    import importlib.util

    if importlib.util.find_spec("matplotlib"):
        return True
    say("no report: it needs matplotlib (pip install matplotlib)")
    return False


def _check_room(plan: Plan) -> None:
    """UsageError where the disk is known to be too small for the run."""
    place = Path(plan.args.output).absolute()
    while not place.exists():
        place = place.parent
    model, shapes = plan.model, plan.model.param_shapes()
    numbers = sum(map(math.prod, shapes.values()))
    trained = sum(math.prod(shapes[name]) for name in plan.trainer.part.names)
    needed = _SPARE + 4 * numbers + 4 * 8 * trained  # with the optimiser's, twice
    if plan.cached:
        count = len(plan.pictures) + len(plan.judged or ())
        tokens = 1 if plan.trainer.part.entry == "pre_logits" else _tokens(model)
        width = 4 if plan.cached == "float32" else 2
        needed += count * tokens * model.embed_dim * width
    free = shutil.disk_usage(place).free
    if needed > free:
        hint = "; --cache off needs less, and takes longer" if plan.cached else ""
        raise UsageError(
            f"{plan.args.output}: needs {_room(needed)} on the disk, where "
            f"{_room(free)} are free{hint}"
        )


def _room(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _tokens(model: Any) -> int:
    from ..model.parts import grid_of

    rows, columns = grid_of(model._options())
    return int(model.num_prefix_tokens) + rows * columns
