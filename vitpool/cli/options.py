# SPDX-License-Identifier: Apache-2.0
"""The options that several commands have, and the model and transform made of them."""

from __future__ import annotations

import argparse
import ast
import os
from typing import Any

from ..config import as_dtype
from .errors import UsageError, say

DEFAULT_MODEL = "vit_digits"
DEFAULT_IS = f"{DEFAULT_MODEL}: scanned digits; -m chooses another"
AS_JSON: dict[str, Any] = {"action": "store_true", "help": "print JSON"}


class _KeyValues(argparse.Action):
    """`--model-kwargs a=1 b=x`: Python literals, else text, as in timm."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: Any = None
    ) -> None:
        out: dict[str, Any] = {}
        for item in values:
            key, equals, text = item.partition("=")
            if not equals or not key:
                parser.error(f"{option_string}: {item!r} is not KEY=VALUE")
            try:
                out[key] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                out[key] = text
        setattr(namespace, self.dest, out)


KEY_VALUES: dict[str, Any] = {
    "nargs": "*",
    "action": _KeyValues,
    "default": {},
    "metavar": "KEY=VALUE",
}


class _Chosen(argparse.Action):
    """The model, and that it is chosen, not left at the default."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: Any = None
    ) -> None:
        namespace.model, namespace.chosen = values, True


def count(least: int) -> Any:
    """A type for argparse: an integer of at least so much."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(
                f"{text!r}, allowed is a whole number of {least} or more"
            )
        return value

    return parse


def number(text: str) -> float:
    """A type for argparse: any number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, allowed is a number") from None


def model_options(
    default: str | None = DEFAULT_MODEL,
    default_is: str = DEFAULT_MODEL,
    head: bool = True,
    place: bool = False,
) -> argparse.ArgumentParser:
    """Which model, with which weights. default_is: the default, for eyes.

    head: whether its head is to be chosen, too, or is the command's own affair: then it
        trains, in float32. place: the model is the command's first argument, and what
        it becomes the command's own affair.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.set_defaults(chosen=False)
    if not head:
        parser.set_defaults(num_classes=None, new_head=False, dtype="float32")
    group = parser.add_argument_group("model")
    add = group.add_argument
    what = (
        "a name (`vitpool list`), hf-hub:org/name[@rev], a folder in timm's hub "
        "layout, or a weights file with --arch"
    )
    if place:
        parser.add_argument("model", metavar="MODEL", action=_Chosen, help=what)
    else:
        add(
            "-m",
            "--model",
            metavar="MODEL",
            action=_Chosen,
            default=default,
            help=f"{what} (default {default_is})",
        )
    add("--arch", metavar="NAME", help="architecture of a bare weights file")
    add("--checkpoint", metavar="PATH", help="weights to load in place of the model's")
    add(
        "--pretrained",
        action="store_true",
        default=None,
        help="use the model's own weights",
    )
    if head:
        add("--num-classes", type=count(0), metavar="N", help="classes of the model")
        add(
            "--new-head",
            action="store_true",
            help="take a head without training, where the weights have none for these "
            "classes",
        )
    add(
        "--gp",
        "--global-pool",
        dest="global_pool",
        metavar="POOL",
        help="avg, avgmax, max, token, map, prr",
    )
    add("--in-chans", type=count(1), metavar="N", help="input channels")
    add(
        "--model-kwargs",
        **KEY_VALUES,
        help="more options of the model",
    )
    if head and not place:
        add(
            "--dtype",
            "--model-dtype",
            dest="dtype",
            metavar="TYPE",
            help="float32, bfloat16, float16 or int8: what the matrices are kept and "
            "multiplied in (default what a folder says, else float32)",
        )
    add("--threads", type=count(1), metavar="N", help="compute threads")
    return parser


def add_inputs(sub: argparse.ArgumentParser, name: str, metavar: str) -> None:
    """The pictures that a command is for."""
    sub.add_argument(
        name,
        nargs="+",
        metavar=metavar,
        help="pictures; folders of them (links are followed, hidden names are not); "
        "- for paths on stdin, one a line",
    )
    sub.add_argument(
        "-z",
        "--null",
        action="store_true",
        help="paths in a list end in a NUL byte, as `find -print0` writes them",
    )


def size_options() -> argparse.ArgumentParser:
    """The size of the input."""
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument_group("input size").add_argument
    add("--img-size", type=count(1), metavar="N", help="side of the input picture")
    add(
        "--input-size",
        nargs=3,
        type=count(1),
        metavar="N",
        help="channels, height and width",
    )
    return parser


def add_preparation(add: Any) -> None:
    """How a picture becomes a model's input, as a model's own config has it."""
    add("--crop-pct", type=number, metavar="X", help="part of the picture kept")
    add(
        "--crop-mode",
        choices=("center", "squash", "border"),
        help="how a picture becomes one of the model's size",
    )
    add(
        "--mean", type=number, nargs="+", metavar="X", help="mean of the pixels, 0 to 1"
    )
    add("--std", type=number, nargs="+", metavar="X", help="their standard deviation")
    add("--interpolation", metavar="NAME", help="bilinear, bicubic, lanczos, ...")


def picture_options(batch_size: int) -> argparse.ArgumentParser:
    """How pictures are read and prepared."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("pictures")
    add = group.add_argument
    add_preparation(add)
    add("--exif", action="store_true", help="turn pictures as their EXIF data says")
    add(
        "-b",
        "--batch-size",
        type=count(1),
        default=batch_size,
        metavar="N",
        help=f"pictures computed at once (default {batch_size})",
    )
    add("-j", "--workers", type=count(1), metavar="N", help="decoding threads")
    add("--strict", action="store_true", help="stop at a picture that cannot be read")
    add(
        "-q",
        "--quiet",
        action="store_true",
        help="no bar, and no word on the default model",
    )
    return parser


def is_weights(path: str) -> bool:
    """Whether a name is that of a bare weights file."""
    from ..registry.sources import WEIGHT_SUFFIXES

    return path.endswith(WEIGHT_SUFFIXES) and not os.path.isdir(path)


def _has_config(weights: str) -> bool:
    """Whether a config.json beside a weights file tells what it is."""
    return os.path.isfile(weights) and os.path.isfile(
        os.path.join(os.path.dirname(weights), "config.json")
    )


def _stored_classes(path: str) -> int | None:
    """Number of classes in a safetensors file; None where it cannot be told."""
    if not path.endswith(".safetensors"):
        return None
    from ..checkpoint import open_state_dict

    return open_state_dict(path).shapes().get("head.weight", (0,))[0]


def model_arguments(
    args: argparse.Namespace, pretrained: bool = True
) -> dict[str, Any]:
    """What the options ask of `create_model`, its name included.

    pretrained: the model's own weights are wanted unless --checkpoint gives others.
    """
    name, checkpoint, classes = args.model, args.checkpoint, None
    if is_weights(name) and not args.arch and _has_config(name):
        name = f"local-dir:{os.path.abspath(name)}"
    elif is_weights(name):
        if not os.path.isfile(name):
            raise FileNotFoundError(f"{name}: no such file")
        if not args.arch:
            raise UsageError(
                f"{name} is a bare weights file: say its architecture with --arch (see "
                "`vitpool list`), or give the folder with its config.json"
            )
        if checkpoint is not None:
            raise UsageError("--checkpoint and a weights file as --model are two files")
        checkpoint, name = name, args.arch
        classes = _stored_classes(checkpoint)
    elif args.arch is not None:
        raise UsageError(f"--arch is for a weights file as --model, not for {name}")
    elif os.path.isdir(name):
        name = f"local-dir:{os.path.abspath(name)}"
    return {
        "model_name": name,
        "pretrained": bool(args.pretrained or (pretrained and checkpoint is None)),
        "checkpoint_path": None if checkpoint is None else os.path.abspath(checkpoint),
        **({} if classes is None else {"num_classes": classes}),
        **_construction(args),
    }


def _construction(args: argparse.Namespace) -> dict[str, Any]:
    """The constructor's arguments among the options; each may be given in one way.

    What the constructor does not check before work is done, a dtype, is checked here.
    """
    dtype = None if args.dtype is None else as_dtype(args.dtype)
    ways: list[tuple[str, Any, str]] = [
        ("num_classes", args.num_classes, "--num-classes"),
        ("global_pool", args.global_pool, "--gp"),
        ("in_chans", args.in_chans, "--in-chans"),
        ("img_size", args.img_size, "--img-size"),
        ("dtype", dtype, "--dtype"),
    ]
    if args.input_size is not None:
        channels, *size = args.input_size
        ways.append(("in_chans", channels, "--input-size"))
        ways.append(("img_size", tuple(size), "--input-size"))
    ways += [(key, value, "--model-kwargs") for key, value in args.model_kwargs.items()]
    given: dict[str, tuple[Any, str]] = {}
    for key, value, way in ways:
        if value is not None and key in given:
            raise UsageError(f"{key} is given twice, by {given[key][1]} and {way}")
        if value is not None:
            given[key] = value, way
    return {key: value for key, (value, _) in given.items()}


def load_model(args: argparse.Namespace) -> Any:
    """Create the model that the options describe, with its weights."""
    options = model_arguments(args)
    check_head(args, options)
    return _create(args, options)


def describe_model(args: argparse.Namespace) -> Any:
    """The same, but with weights only where those are here: none are downloaded."""
    place = args.model.removeprefix("local-dir:")
    own = is_weights(args.model) or os.path.isdir(place)
    here = own or args.model == DEFAULT_MODEL
    return _create(args, model_arguments(args, pretrained=here))


def use_threads(args: argparse.Namespace) -> None:
    """Compute with --threads from now on, where they are given."""
    from .. import set_num_threads

    if args.threads:
        try:
            set_num_threads(args.threads)
        except ValueError as error:
            why = str(error).removeprefix("n ")
            raise UsageError(f"--threads {why}") from error


def _create(args: argparse.Namespace, options: dict[str, Any]) -> Any:
    from .. import create_model

    use_threads(args)
    model = create_model(**options)
    tell_default(args)
    return model


def tell_default(args: argparse.Namespace) -> None:
    """Say what the model is that nobody chose."""
    if not args.chosen and not getattr(args, "quiet", False):
        say(DEFAULT_IS)


def check_head(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """UsageError for a head that no weights are for, unless --new-head asks for it."""
    from ..registry.create import plan_model

    if not options["pretrained"]:
        return
    apart = ("pretrained", "checkpoint_path", "dtype")
    plan = plan_model(**{k: v for k, v in options.items() if k not in apart})
    trained, wanted = plan.cfg.get("num_classes"), plan.options.get("num_classes")
    new = bool(wanted) and trained not in (None, wanted)
    if args.new_head and not new:
        raise UsageError("--new-head: say with --num-classes how many classes it has")
    if new and not args.new_head:
        has = f"have a head of {trained} classes" if trained else "have no head"
        raise UsageError(
            f"the weights of {args.model} {has}: one of {wanted} would be untrained; "
            "--new-head takes it so"
        )


def transform_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What the options ask of the transform."""
    keys = ["input_size", "img_size", "in_chans", "interpolation", "mean", "std"]
    keys += ["crop_pct", "crop_mode", "exif"]
    given = {key: getattr(args, key) for key in keys}
    return {key: value for key, value in given.items() if value is not None}


def make_transform(args: argparse.Namespace, model: Any) -> Any:
    """The transform of the model under the options."""
    from ..transforms import create_transform, resolve_data_config

    options = transform_arguments(args)
    exif = options.pop("exif")
    return create_transform(**resolve_data_config(model, **options), exif=exif)
