# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: own ones come back bit for bit, through the class's own filter too.

timm sends what it loads through the `checkpoint_filter_fn` of the class's module:
weights in its own layout, and in others. A model of this class is such a checkpoint.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..finding import Finding, Severity, Skip
from ..registry import check
from ..subject import Subject
from ..variants import EFFECTIVE
from ..walk import RTOL, firsts, parted, walks

FILTER = "checkpoint_filter_fn"
# (rows, columns) of patches. A table of relative positions has (2h - 1)(2w - 1)
# entries: of some windows that are not square this is a square number.
GRIDS = ((2, 3), (5, 13), (2, 14), (4, 32))
# A filter raises others where a checkpoint is none for the model.
ACCIDENTS = (AttributeError, IndexError, KeyError, NameError, ZeroDivisionError)
# Options that say how a patch is laid out, and not what is computed of it.
LAYOUTS = {"patchify_channels_last": False, "embed_proj_type": "conv"}


@check(
    "what a reset changes is recorded, so that a checkpoint's configuration rebuilds "
    "the model (timm records fc_norm, since the norm stays where it was)"
)
def resets_are_recorded(subject: Subject) -> Iterator[Finding | Skip]:
    """The recorded arguments alone build a model with these parameters."""
    guessed = [step for step in walks(subject) if step.built.guessed]
    for step, others in firsts(guessed, lambda s: s.pool):
        option = list(step.built.options)[-1]
        told = f"{option}={step.built.options[option]!r}"
        if not step.built.recorded:
            yield Skip(
                "resets_are_recorded",
                f"the class records no arguments; after {step} it wants {told}",
            )
            return
        yield Finding(
            "resets_are_recorded",
            "C",
            f"after {step} the recorded arguments rebuild another model: they lack "
            f"{told}{others}",
            subject.snippet(
                *step.lines(),
                "recorded = dict(getattr(model, '_model_args', {}))",
                f"recorded['num_classes'] = {step.classes}",
                f"recorded['global_pool'] = {step.pool!r}",
                "build(**recorded).load_state_dict(model.state_dict())",
                **step.options,
            ),
        )


def _filter_of(model: Any) -> tuple[str, Callable[..., Any]] | None:
    """The module and the filter of the class, or of the first base that has one."""
    for kind in type(model).__mro__:
        function = getattr(sys.modules.get(kind.__module__), FILTER, None)
        if function is not None:
            return kind.__module__, function
    return None


def _filtered(
    subject: Subject, function: Callable[..., Any], state: Any, model: Any
) -> Any:
    parameters = inspect.signature(function).parameters
    with subject.quiet():
        return function(state, model) if len(parameters) > 1 else function(state)


def _tensors(model: Any) -> dict[str, Any]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def _written(subject: Subject, module: str, **options: Any) -> list[str]:
    """A snippet's lines: another model, and its own state through the filter."""
    function = getattr(sys.modules[module], FILTER)
    both = len(inspect.signature(function).parameters) > 1
    return [
        f"from {module} import {FILTER}",
        *subject.drawing(),
        "state = model.state_dict()",
        "given = {k: v.clone() for k, v in state.items()}",
        f"filtered = {FILTER}(given{', model' if both else ''})",
    ]


def _sizes(subject: Subject) -> Iterator[dict[str, Any]]:
    """The model's own size, and those of grids that are not square."""
    yield {}
    patch = getattr(getattr(subject.build(), "patch_embed", None), "patch_size", None)
    if patch is None or "img_size" not in subject.options:
        return
    high, wide = _pair(patch)
    for rows, columns in GRIDS:
        yield {"img_size": (rows * high, columns * wide)}


def _options(subject: Subject) -> Iterator[dict[str, Any]]:
    yield {}
    for name, values in EFFECTIVE.items():
        if name in subject.options:
            yield from ({name: value} for value in values)


@check(
    "a model's own checkpoint comes back bit for bit through the class's own filter "
    "(timm takes the relative positions of BEiT's 5 x 13 window for those of a square "
    "one)"
)
def own_checkpoint_passes_the_filter(subject: Subject) -> Iterator[Finding | Skip]:
    """At the model's own size, at sizes that are not square, with each option."""
    name = "own_checkpoint_passes_the_filter"
    found = _filter_of(subject.build())
    if found is None:
        yield Skip(name, f"its module has no {FILTER}")
        return
    module, function = found
    faults: set[tuple[str, ...]] = set()
    fault: tuple[str, ...]
    for options in _options(subject):
        for size in _sizes(subject):
            given = options | size
            try:
                model, other = subject.build(**given), subject.build(**given)
            except Exception:
                continue
            subject.fill(model, seed=0)
            subject.fill(other, seed=1)
            before = subject.state(model)
            check_line = "other.load_state_dict(filtered)"
            try:
                other.load_state_dict(
                    _filtered(subject, function, _tensors(model), model)
                )
            except Exception as error:
                fault = (type(error).__name__,)
                what = f"fails: {type(error).__name__}: {error}"
            else:
                after = subject.state(other)
                changed = [
                    key
                    for key, value in before.items()
                    if not np.array_equal(after[key], value, equal_nan=True)
                ]
                if not changed:
                    continue
                fault = tuple(changed)
                what = f"changes {', '.join(changed[:3])}"
                check_line += (
                    "\nchanged = [k for k, v in other.state_dict().items() "
                    "if not (v == state[k]).all()]\nassert not changed, changed"
                )
            if fault in faults:
                continue
            faults.add(fault)
            yield Finding(
                name,
                "A" if what.startswith("changes") else "B",
                f"{_told(given)}the own checkpoint through {FILTER} {what[:200]}",
                subject.snippet(
                    *_written(subject, module), "other = build()", check_line, **given
                ),
            )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _told(options: Mapping[str, Any]) -> str:
    words = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"with {words} " if words else ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@check(
    "a filter leaves the checkpoint that it is given as it is (timm's NaFlexVit adds "
    "positions to the caller's own class token: loaded twice, they count twice)"
)
def filter_leaves_the_checkpoint_alone(subject: Subject) -> Iterator[Finding | Skip]:
    """Neither keys nor numbers of the given state dict change."""
    name = "filter_leaves_the_checkpoint_alone"
    found = _filter_of(subject.build())
    if found is None:
        yield Skip(name, f"its module has no {FILTER}")
        return
    module, function = found
    for told, options, source, vit in _checkpoints(subject):
        model = subject.build(**options)
        given = _tensors(source)
        copied = {key: value.clone() for key, value in given.items()}
        try:
            _filtered(subject, function, given, model)
        except Exception:
            continue  # own_checkpoint_passes_the_filter, plain_vit_checkpoints_are_read
        changed = [
            k for k in copied if k not in given or not _same(given[k], copied[k])
        ]
        if not changed:
            continue
        yield Finding(
            name,
            "C",
            f"{FILTER} changes {', '.join(changed[:3])} of the {told} checkpoint "
            "that it is given",
            subject.snippet(
                f"from {module} import {FILTER}",
                *vit,
                "copied = {k: v.clone() for k, v in state.items()}",
                f"{FILTER}(state, model)",
                "assert state.keys() == copied.keys()",
                "changed = [k for k in copied if not (state[k] == copied[k]).all()]",
                "assert not changed, changed",
                **options,
            ),
        )
        return


def _same(one: Any, other: Any) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _checkpoints(
    subject: Subject,
) -> Iterator[tuple[str, dict[str, Any], Any, list[str]]]:
    """What it is, options of the model, whose checkpoint it is, and the lines."""
    own = subject.build()
    subject.fill(own)
    yield "own", {}, own, [*subject.drawing(), "state = model.state_dict()"]
    for options, vit, lines in _plain_vits(subject):
        yield "plain ViT's", options, vit, lines


def _plain_vits(subject: Subject) -> Iterator[tuple[dict[str, Any], Any, list[str]]]:
    """timm's plain ViTs of the same options, as far as both have them."""
    timm = sys.modules.get("timm.models.vision_transformer")
    make = getattr(timm, "VisionTransformer", None)
    if make is None or isinstance(subject.build(), make):
        return
    names = set(inspect.signature(make).parameters)
    kwargs = {k: v for k, v in subject.kwargs.items() if k in names}
    pool: dict[str, Any] = {"global_pool": "avg", "fc_norm": False}
    if not subject.options.keys() >= {*pool, "class_token", "reg_tokens", "img_size"}:
        return
    # What a factory has of its own is said, and None would be its default there.
    high, wide = _pair(kwargs.get("patch_size", 16))
    own = subject.input_size[1] // high, subject.input_size[2] // wide
    if "init_values" in subject.options:
        pool["init_values"] = 0.1
    variants: list[tuple[dict[str, Any], tuple[int, int]]] = [
        ({"class_token": token, "reg_tokens": count}, own)
        for token, count in ((False, 0), (True, 0), (True, 1), (True, 4), (False, 4))
    ]
    variants.append(({"class_token": True, "reg_tokens": 0}, (2, 3)))
    for variant, (rows, columns) in variants:
        variant["img_size"] = (rows * high, columns * wide)
        fixed: dict[str, Any] = {}
        if "pos_embed_grid_size" in subject.options:
            fixed["pos_embed_grid_size"] = (rows, columns)
        shared = kwargs | pool | variant
        vit = make(**shared)
        subject.fill(vit)
        written = ", ".join(f"{key}={value!r}" for key, value in shared.items())
        lines = [
            "from timm.models.vision_transformer import VisionTransformer",
            f"vit = VisionTransformer({written}).eval()",
            "for parameter in vit.parameters():",
            "    parameter.data += 0.3 * torch.randn_like(parameter)",
            "state = vit.state_dict()",
        ]
        yield pool | variant | fixed, vit, lines


@check(
    "a checkpoint of timm's plain ViT gives the plain ViT's numbers, where the class "
    "takes one (timm's NaFlexVit drops the position of a register token beside a class "
    "token)"
)
def plain_vit_checkpoints_are_read(subject: Subject) -> Iterator[Finding | Skip]:
    """With a class token or without, with registers, not square, in another layout."""
    name = "plain_vit_checkpoints_are_read"
    found = _filter_of(subject.build())
    if found is None:
        yield Skip(name, f"its module has no {FILTER}")
        return
    module, function = found
    takes = False
    for options, vit, lines in _plain_vits(subject):
        layouts = [{k: v} for k, v in LAYOUTS.items() if k in subject.options]
        for layout in ({}, *layouts) if not takes else ({},):
            given = options | layout
            try:
                model = subject.build(**given)
            except Exception:
                continue
            images = _images_for(subject, given)
            size = ", ".join(map(str, images.shape))
            program = subject.snippet(
                f"from {module} import {FILTER}",
                *lines,
                f"x = torch.randn({size})",
                "state = {k: v.clone() for k, v in state.items()}",
                f"model.load_state_dict({FILTER}(state, model))",
                "out, wanted = model(x), vit(x)",
                f"assert abs(out - wanted).max() <= {RTOL} * abs(wanted).max()",
                **given,
            )
            severity: Severity = "B"
            try:
                model.load_state_dict(
                    _filtered(subject, function, _tensors(vit), model)
                )
            except Exception as error:
                if not takes and not layout:
                    yield Skip(
                        name, f"the class takes no plain ViT's checkpoint: {error}"
                    )
                    return
                what = f"fails: {type(error).__name__}: {error}"
            else:
                wanted, out = subject.run(vit, images), subject.run(model, images)
                if parted(out, wanted) <= RTOL:
                    takes = takes or not layout
                    continue
                severity = "A"
                what = (
                    f"gives numbers that differ by {parted(out, wanted):.1g} of theirs"
                )
            takes = takes or not layout
            yield Finding(
                name,
                severity,
                f"{_told(given)}a plain ViT's checkpoint "
                f"{' '.join(what.split())[:200]}",
                program,
            )
    if not takes:
        yield Skip(name, "the class has not the options of a plain ViT")


def _images_for(subject: Subject, options: Mapping[str, Any]) -> Any:
    size = options.get("img_size")
    images = subject.images()
    if size is None:
        return images
    return np.resize(images, (*images.shape[:2], *size))


@check(
    "a filter that gets another variant's checkpoint reads it or leaves the refusal to "
    "load_state_dict (timm's BEiT looks for an embedding that the model has not)"
)
def filter_takes_other_variants(subject: Subject) -> Iterator[Finding | Skip]:
    """Nothing fails by accident inside of the filter."""
    name = "filter_takes_other_variants"
    found = _filter_of(subject.build())
    if found is None:
        yield Skip(name, f"its module has no {FILTER}")
        return
    module, function = found
    base = subject.build()
    seen: set[str] = set()
    for options in _options(subject):
        try:
            other = subject.build(**options)
        except Exception:
            continue
        for source, target in ((other, base), (base, other)):
            try:
                _filtered(subject, function, _tensors(source), target)
            except ACCIDENTS as error:
                if str(error) in seen:
                    continue
                seen.add(str(error))
                changed = ", ".join(f"{k}={v!r}" for k, v in options.items())
                of, to = "model", "other"
                whose, where = "the model's checkpoint", f"one with {changed}"
                if source is other:
                    of, to = to, of
                    whose = f"the checkpoint of one with {changed}"
                    where = "the model as it is"
                yield Finding(
                    name,
                    "B",
                    f"{whose} fails in {FILTER} for {where}: "
                    f"{type(error).__name__}: {error}",
                    subject.snippet(
                        f"from {module} import {FILTER}",
                        f"other = build({changed})",
                        "try:",
                        f"    {FILTER}({of}.state_dict(), {to})",
                        "except (AssertionError, RuntimeError, TypeError, ValueError):",
                        "    pass  # a refusal",
                    ),
                )
            except Exception:
                continue


@check(
    "a checkpoint of pictures of another size is fitted to the model (fine-tuning at a "
    "higher resolution)"
)
def checkpoints_of_other_sizes_are_fitted(subject: Subject) -> Iterator[Finding | Skip]:
    """The filter resamples positions; strict loading takes what it gives."""
    name = "checkpoints_of_other_sizes_are_fitted"
    found = _filter_of(subject.build())
    if found is None or "img_size" not in subject.options:
        yield Skip(name, f"its module has no {FILTER}, or the class no img_size")
        return
    module, function = found
    _, height, width = subject.input_size
    larger = (2 * height, 2 * width)
    for options in ({}, *BARE_OR_REGISTERS):
        if not subject.options.keys() >= options.keys():
            continue
        try:
            model = subject.build(**options)
            other = subject.build(**options, img_size=larger)
        except Exception as error:
            if not options:
                yield Skip(name, f"img_size={larger} is refused: {error}")
                return
            continue
        try:
            other.load_state_dict(_filtered(subject, function, _tensors(model), other))
        except Exception as error:
            if not options:
                yield Skip(name, f"its filter fits no other size: {_line(error)}")
                return
            yield Finding(
                name,
                "B",
                f"{_told(options)}a checkpoint of {(height, width)} does not go into a "
                f"model of {larger}: {_line(error)}",
                subject.snippet(
                    f"from {module} import {FILTER}",
                    f"other = build(img_size={larger})",
                    f"other.load_state_dict({FILTER}(model.state_dict(), other))",
                    **options,
                ),
            )


BARE_OR_REGISTERS: tuple[dict[str, Any], ...] = (
    {"reg_tokens": 4},
    {"num_reg_tokens": 4},
    {"no_embed_class": True},
    {"use_rel_pos_bias": True},
    {"use_shared_rel_pos_bias": True},
)
