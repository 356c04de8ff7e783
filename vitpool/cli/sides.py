# SPDX-License-Identifier: Apache-2.0
"""The two models of a comparison, as text: what each is, and which weights it has."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..text import did_you_mean, some
from .errors import UsageError, one_line, say
from .given import is_object, load_object, makes_models, where
from .options import DEFAULT_MODEL, KEY_VALUES, is_weights, model_arguments

if TYPE_CHECKING:
    from ..testing.comparison import Side

TIMM_PREFIX = "timm:"
SIDES = ("reference", "candidate")
# Options of a side, with what they are.
_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "arch": ({"metavar": "NAME"}, "architecture of a bare weights file"),
    "checkpoint": (
        {"metavar": "PATH"},
        "weights to load: a file, or a folder that has one",
    ),
    "kwargs": (KEY_VALUES, "options of the model, as depth=2 global_pool=map"),
}


class Given(NamedTuple):
    """A side, by the name that the user gave it, and where its weights are from."""

    side: Side
    trained: bool  # does it have weights that somebody gave it?
    asked: bool  # are they those of --pretrained?


class _Wanted(NamedTuple):
    """What a user wants one of the two to be."""

    text: str
    arch: str | None
    checkpoint: str | None  # a file
    kwargs: dict[str, Any]
    pretrained: bool


# What is built of it: what `opened` takes, and of its weights what Given has.
_Built: TypeAlias = tuple[Any, bool, bool]


def add_sides(sub: argparse.ArgumentParser) -> None:
    """The two models, and the options of both or of one."""
    sub.add_argument(
        "reference",
        metavar="REFERENCE",
        help="the model that is right: timm:NAME, torch:package.module:Class, "
        "file.py:Class, a name (`vitpool list`), hf-hub:org/name[@rev], a folder in "
        "timm's hub layout, a weights file with --arch, or a record",
    )
    sub.add_argument("candidate", metavar="CANDIDATE", help="the one in question")
    both = sub.add_argument_group("both models")
    _add_options(both, "", "{}")
    both.add_argument(
        "--pretrained",
        action="store_true",
        help="load the trained weights that a name has, timm's or ours",
    )
    one = sub.add_argument_group("one of them")
    for side in SIDES:
        _add_options(one, f"{side}-", f"the {side}'s")


def _add_options(group: Any, prefix: str, about: str) -> None:
    for name, (how, what) in _OPTIONS.items():
        group.add_argument(f"--{prefix}{name}", help=about.format(what), **how)


def open_sides(args: argparse.Namespace) -> tuple[Given, Given]:
    """Build both models, one after the other.

    What they print goes to stderr. UsageError for all that their code raises.
    """
    texts = [getattr(args, side) for side in SIDES]
    if args.arch and not any(is_weights(text) for text in texts):
        raise UsageError(f"--arch is for a weights file, not for {' and '.join(texts)}")
    loads = [f"--{side}checkpoint" for side in ("", *(f"{side}-" for side in SIDES))]
    for option in (*loads, "--pretrained") if args.randomize else ():
        if getattr(args, option[2:].replace("-", "_")):
            raise UsageError(f"--randomize draws the weights that {option} would load")
    reference, candidate = (_open(args, side) for side in SIDES)
    if args.pretrained and not (reference.asked or candidate.asked):
        raise UsageError(
            "--pretrained is for a name, of timm's or ours, without other weights"
        )
    return reference, candidate


def needs_drawn(args: argparse.Namespace, *sides: Given) -> bool:
    """Whether both sides get weights that are drawn: asked for, or as they have none.

    UsageError where one side alone has weights: which ones the other should have, only
    the user knows.
    """
    bare = [side for side in sides if not side.trained]
    if args.randomize or not bare:
        return bool(args.randomize)
    if len(bare) == 2:
        if not args.quiet:
            say(
                "neither model has trained weights: both get the same drawn ones; "
                "--pretrained or --checkpoint loads others"
            )
        return True
    (one,), (other,) = bare, [side for side in sides if side.trained]
    name = one.side.name
    own = "" if is_object(name) else "--pretrained loads its own, "
    raise UsageError(
        f"{name} has no trained weights, {other.side.name} has: {own}"
        f"--{SIDES[sides.index(one)]}-checkpoint those of a file, --randomize draws "
        "the same for both"
    )


def _open(args: argparse.Namespace, side: str) -> Given:
    """One of the two."""
    from ..testing.comparison.opened import opened

    text = getattr(args, side)
    own = {name: getattr(args, f"{side}_{name}") for name in _OPTIONS}
    kwargs = {**args.kwargs, **own["kwargs"]}
    pretrained = bool(kwargs.pop("pretrained", args.pretrained))
    checkpoint = own["checkpoint"] or args.checkpoint
    if checkpoint is not None:
        checkpoint = _weights_of(checkpoint)
    if own["arch"] and not is_weights(text):
        raise UsageError(f"--{side}-arch is for a weights file, not for {text}")
    arch = own["arch"] or (args.arch if is_weights(text) else None)
    wanted = _Wanted(text, arch, checkpoint, kwargs, pretrained)
    if text.startswith(TIMM_PREFIX):
        build = _timms
    elif is_object(text):
        build = _made
    else:
        build = _recorded if arch is None and _is_record(text) else _ours
    with _theirs(text):
        model, trained, asked = build(wanted)
        found = opened(model)
        found.name = text
    return Given(found, trained, asked)


def _weights_of(path: str) -> str:
    """The weights file that a path is of: it may be that of a folder."""
    from ..registry.folder import weights_path

    return weights_path(f"local-dir:{path}") if os.path.isdir(path) else path


@contextlib.contextmanager
def _theirs(text: str) -> Iterator[None]:
    """What a side's code prints goes to stderr, what it raises is a line about it."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UsageError:
        raise
    except (OSError, ImportError, ValueError, TypeError) as error:
        line = one_line(error)
        raise UsageError(line if text in line else f"{text}: {line}") from error


def _timms(wanted: _Wanted) -> _Built:
    """A model of timm's, by its name there."""
    from ..registry.sources import split_prefix

    text, checkpoint = wanted.text, wanted.checkpoint
    name = text.removeprefix(TIMM_PREFIX)
    timm = _import_timm(text)
    elsewhere = bool(split_prefix(name)[0])  # on the hub, or in a folder
    arch = name.partition(".")[0]
    if not elsewhere and not timm.is_model(arch):
        near = did_you_mean(arch, timm.list_models())
        raise UsageError(f"{text}: timm {timm.__version__} has no such model{near}")
    own = (wanted.pretrained or elsewhere) and checkpoint is None
    _seed()
    try:
        model = timm.create_model(
            name, own, checkpoint_path=checkpoint, **wanted.kwargs
        )
    except Exception as error:
        raise UsageError(f"{text}: {where(error)}") from error
    return model, own or checkpoint is not None, own and not elsewhere


def _import_timm(text: str) -> Any:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{text} needs torch and timm ({error.name} is not there): pip install timm"
        ) from error
    except Exception as error:
        raise UsageError(f"{text}: timm cannot be imported: {where(error)}") from error


def _made(wanted: _Wanted) -> _Built:
    """A model that a user's class or function makes.

    A function in timm's manner, with an argument `pretrained`, is asked for weights;
    that of another is taken to give its model the weights that it should have.
    """
    text, checkpoint, kwargs = wanted.text, wanted.checkpoint, wanted.kwargs
    make = load_object(text)
    own, asked = not isinstance(make, type), False
    if own and "pretrained" in inspect.signature(make).parameters:
        own = asked = wanted.pretrained and checkpoint is None
        kwargs = {"pretrained": own, **kwargs}
    _seed()
    try:
        model: Any = make(**kwargs)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{text}: {where(error)}") from error
    if not makes_models(type(model)):
        raise UsageError(f"{text}: gives no torch module, got {type(model).__name__}")
    if checkpoint is not None:
        _load(model, checkpoint, text)
    return model, own or checkpoint is not None, asked


def _seed() -> None:
    """Let what torch draws be the same every time, where it is there."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def _load(model: Any, path: str, text: str) -> None:
    """A file's weights into a torch module or a model of ours, by its own names."""
    from ..checkpoint import open_state_dict

    stored, own = open_state_dict(path), model.state_dict()
    shapes = stored.shapes()
    wrong = {
        "it lacks": sorted(own.keys() - shapes.keys()),
        "it has": sorted(shapes.keys() - own.keys()),
        "of another shape are": [
            f"{key} {shapes[key]} for {tuple(own[key].shape)}"
            for key in own
            if key in shapes and shapes[key] != tuple(own[key].shape)
        ],
    }
    if any(wrong.values()):
        told = "; ".join(
            f"{how} {some(keys, 3)}" for how, keys in wrong.items() if keys
        )
        raise UsageError(f"{path} does not fit {text}: {told}")
    arrays: dict[str, Any] = {key: stored[key] for key in own}
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        arrays = {key: torch.tensor(array) for key, array in arrays.items()}
    model.load_state_dict(arrays)


def _is_record(path: str) -> bool:
    """Whether a file is a record; ValueError where it is damaged."""
    from ..checkpoint import open_state_dict
    from ..testing.records import FACTS

    if not path.endswith((".npz", ".safetensors")) or not os.path.isfile(path):
        return False
    return not {"input", FACTS}.isdisjoint(open_state_dict(path))


def _recorded(wanted: _Wanted) -> _Built:
    """A model's outputs of another day."""
    from ..testing.records import open_record

    if wanted.checkpoint is not None or wanted.kwargs:
        raise UsageError(f"{wanted.text} is a record: it takes no options of a model")
    return open_record(wanted.text), True, False


def _ours(wanted: _Wanted) -> _Built:
    """A model of vitpool's, by all that --model takes."""
    from ..registry import create_model
    from ..registry.sources import split_prefix

    text = wanted.text
    own = is_weights(text) or os.path.isdir(text) or text == DEFAULT_MODEL
    own = own or bool(split_prefix(text)[0])
    given = argparse.Namespace(
        model=text,
        arch=wanted.arch,
        checkpoint=wanted.checkpoint,
        pretrained=None,
        model_kwargs=wanted.kwargs,
        **dict.fromkeys(("num_classes", "global_pool", "in_chans", "dtype")),
        **dict.fromkeys(("img_size", "input_size")),
    )
    options = model_arguments(given, pretrained=own or wanted.pretrained)
    model = create_model(**{"seed": 0, **options})
    trained = options["pretrained"] or options["checkpoint_path"] is not None
    return model, trained, options["pretrained"] and not own
