# SPDX-License-Identifier: Apache-2.0
"""What a reset must keep (options, dtype, device, modes), and what make must heed."""

from __future__ import annotations

import copy
import pickle
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any

import numpy as np

from ..finding import Finding, Severity, Skip
from ..kinds import is_torch
from ..registry import check
from ..source import Code
from ..subject import Subject
from .refused import COUNTS
from .weights import head_keys

NO_TORCH = "its models are no torch modules"
METHODS = ("reset_classifier", "get_classifier")
# Many classes, so that a few numbers tell how a head is initialised.
MANY, ENOUGH, MOST_BUILDS = 1000, 1000, 20


def _pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy.deepcopy(model)": copy.deepcopy,
    "pickle.loads(pickle.dumps(model))": _pickled,
}


@check(
    "a classifier has reset_classifier and get_classifier (timm's encoders of gemma4, "
    "qwen3 and deepseek are registered without, and create_model(num_classes=) fails)",
    needs=(),
)
def classifier_methods_are_there(subject: Subject) -> Iterator[Finding | Skip]:
    """Generic code calls them without a look."""
    for method in METHODS:
        if not hasattr(subject.example, method):
            yield Finding(
                "classifier_methods_are_there",
                "C",
                f"there is no {method}",
                subject.snippet(f"model.{method}"),
            )


@check("make heeds num_classes and global_pool: the model has them, and runs", needs=())
def options_are_heeded(subject: Subject) -> Iterator[Finding | Skip]:
    """An option that make refuses is skipped; one it drops is found."""
    name = "options_are_heeded"
    try:
        model = subject.build(num_classes=7)
    except Exception as error:
        yield Skip(name, f"make refuses num_classes=7: {_said(error)}")
    else:
        try:
            width: int | str = subject.run(model).shape[-1]
        except Exception as error:
            width = _said(error)
        if width != 7 or getattr(model, "num_classes", 7) != 7:
            yield Finding(
                name,
                "B",
                f"make(num_classes=7) has num_classes "
                f"{getattr(model, 'num_classes', None)!r} and gives {width}",
                subject.snippet(
                    "assert model(x).shape[-1] == 7",
                    "assert getattr(model, 'num_classes', 7) == 7",
                    num_classes=7,
                ),
            )
    if not isinstance(getattr(subject.example, "global_pool", None), str):
        yield Skip(name, "its models have no global_pool that is a name")
        return
    for pool in ("avg", "max"):
        try:
            has = subject.build(global_pool=pool).global_pool
        except Exception:
            continue  # refused: it has no such pool
        if has != pool:
            yield Finding(
                name,
                "C",
                f"make(global_pool={pool!r}) gives a model with {has!r}",
                subject.snippet(
                    f"assert model.global_pool == {pool!r}", global_pool=pool
                ),
            )


@check("making, running and resetting a model prints nothing", needs=())
def nothing_is_printed(subject: Subject) -> Iterator[Finding | Skip]:
    """Captured, so that a report stays one."""
    before = len(subject.printed)
    model = subject.build()
    subject.run(model)
    if hasattr(model, "reset_classifier"):
        subject.reset(model, 5)
    printed = subject.printed[before:]
    if not printed:
        return
    lines = ["model(x)"]
    if hasattr(model, "reset_classifier"):
        lines.append("model.reset_classifier(5)")
    yield Finding(
        "nothing_is_printed",
        "D",
        f"it prints {printed[0].strip().splitlines()[0]!r}",
        subject.program(
            "import contextlib, io",
            subject.kind.imports,
            subject.kind.seed,
            f"x = {subject.kind.pictures((2, *subject.input_size))}",
            "with contextlib.redirect_stdout(io.StringIO()) as text:",
            *(f"    {line}" for line in (*subject.making().splitlines(), *lines)),
            "assert not text.getvalue(), repr(text.getvalue())",
        ),
    )


@check(
    "a number of classes that is none (negative, a fraction, a truth value, text) is "
    "refused (timm takes -3 for no head, and num_classes is then -3)"
)
def counts_that_are_none_are_refused(subject: Subject) -> Iterator[Finding | Skip]:
    """By reset_classifier and by make; what is taken is run."""
    name = "counts_that_are_none_are_refused"
    for call in ("reset_classifier({})", "make(num_classes={})"):
        taken: dict[Severity, list[Any]] = defaultdict(list)
        for count in COUNTS:
            if count is None and call.startswith("make"):
                continue  # timm's create_model: not given
            try:
                if call.startswith("make"):
                    model = subject.build(num_classes=count)
                else:
                    model = subject.build()
                    subject.reset(model, count)
            except Exception:
                continue
            if count is None and getattr(model, "num_classes", None) is not None:
                continue  # None is for the default, as in timm.create_model
            try:
                subject.run(model)
            except Exception:
                taken["B"].append(count)
            else:
                taken["D"].append(count)
        for severity, counts in sorted(taken.items()):
            if call.startswith("make"):
                lines = subject.making(num_classes=Code("count")).splitlines()
            else:
                lines = [
                    *subject.making().splitlines(),
                    "model.reset_classifier(count)",
                ]
            after = ", and forward fails" if severity == "B" else ""
            shown = ", ".join(map(repr, counts))
            yield Finding(
                name,
                severity,
                f"{call.format('...')} takes {shown}{after}",
                subject.program(
                    f"for count in {counts!r}:",
                    "    try:",
                    *(f"        {line}" for line in lines),
                    "    except Exception:",
                    "        continue",
                    "    raise AssertionError(f'{count!r} is taken for a number')",
                ),
            )


@check(
    "a new head is initialised as the constructor initialises one (in most of timm it "
    "has torch's own initialisation in place of the model's)"
)
def new_head_is_initialised_as_built(subject: Subject) -> Iterator[Finding | Skip]:
    """By mean and spread of many numbers: 1.25 times is far beyond chance."""
    name = "new_head_is_initialised_as_built"
    built_with = {"num_classes": MANY}
    try:
        subject.build(**built_with)
        few = subject.state(subject.build(num_classes=7))
    except Exception as error:
        yield Skip(name, f"make refuses num_classes={MANY} or 7: {_said(error)}")
        return
    keys = [
        key
        for key, value in subject.state(subject.build(**built_with)).items()
        if key in few and few[key].shape != value.shape
    ]
    if not keys:
        yield Skip(name, "no parameter has the number of classes in its shape")
        return
    model = subject.build()
    built: dict[str, np.ndarray] = {}
    fresh: dict[str, np.ndarray] = {}
    for _ in range(MOST_BUILDS):
        subject.reset(model, MANY)
        for numbers, state in (
            (built, subject.state(subject.draw(**built_with))),
            (fresh, subject.state(model)),
        ):
            for key in keys:
                old = numbers.get(key, np.zeros(0))
                numbers[key] = np.append(old, state.get(key, np.zeros(0)))
        if all(value.size >= ENOUGH for value in built.values()):
            break
    kept = [key for key in keys if fresh[key].size]  # another check tells of the lost
    others = [key for key in kept if not _alike(built[key], fresh[key])]
    if not others:
        return
    said = "; ".join(
        f"{key} has {_spread(built[key])} when built, {_spread(fresh[key])} after"
        for key in others
    )
    yield Finding(
        name,
        "C",
        f"reset_classifier initialises in another way: {said}",
        subject.snippet(
            "fresh = model",
            f"fresh.reset_classifier({MANY})",
            subject.making(**built_with),
            f"for key in {others!r}:",
            "    a, b = model.state_dict()[key], fresh.state_dict()[key]",
            "    shift = abs(float(a.mean()) - float(b.mean()))",
            "    a, b = float(a.std()), float(b.std())",
            "    assert max(a, b) <= 1.25 * min(a, b) + 1e-8, (key, a, b)",
            "    assert shift <= max(a, b) / 4 + 1e-6, (key, shift)",
        ),
    )


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two samples are of one initialisation: mean and standard deviation."""
    small, large = sorted((float(a.std()), float(b.std())))
    shift = abs(float(a.mean()) - float(b.mean()))
    return large <= 1.25 * small + 1e-8 and shift <= large / 4 + 1e-6


def _spread(numbers: np.ndarray) -> str:
    deviation = float(numbers.std())
    if deviation:
        return f"standard deviation {deviation:.2g}"
    return f"{float(numbers.mean()):g} throughout"


@check(
    "the options of the head stay: bias, dropout, norms, kinds of layers (timm's gcvit "
    "rebuilds the head and loses a dropout that was changed)"
)
def head_options_are_kept(subject: Subject) -> Iterator[Finding | Skip]:
    """With as many classes and the same pool, the model prints as it did."""
    name = "head_options_are_kept"
    rate = 0.3
    built = {"drop_rate": rate}
    try:
        model = subject.build(**built)
    except Exception as error:
        yield Skip(name, f"with dropout: make refuses drop_rate: {_said(error)}")
        built, model = {}, subject.build()
    count = subject.num_classes
    call = f"model.reset_classifier({count})"
    for change in (None, 0.15):
        lines: list[str] = []
        if change is not None:
            drops = [
                module
                for module in subject.kind.modules(model).values()
                if getattr(module, "p", None) == rate
            ]
            if not is_torch(model) or not drops:
                return
            for module in drops:
                module.p = change
            lines = [
                "for module in model.modules():",
                f"    if getattr(module, 'p', None) == {rate}:",
                f"        module.p = {change}",
            ]
        before = str(model)
        subject.reset(model, count)
        parts = _parted(before, str(model))
        if parts:
            yield Finding(
                name,
                "C" if change is None else "D",
                f"reset_classifier({count}) of a model with as many classes changes "
                f"{parts}",
                subject.snippet(
                    *lines,
                    "before = str(model)",
                    call,
                    "assert str(model) == before",
                    **built,
                ),
            )
            return


def _parted(before: str, after: str) -> str:
    """The first line in which two texts part, or ''."""
    for old, new in zip_longest(before.splitlines(), after.splitlines(), fillvalue=""):
        if old != new:
            return f"{old.strip()!r} to {new.strip()!r}"
    return ""


def _calls(subject: Subject) -> list[tuple[Any, ...]]:
    """Resets that may make new modules: classes, and each pool."""
    return [(5,), *((5 if pool else 0, pool) for pool in subject.pools)]


@check("dtype and device are kept: the new head has those of the model")
def dtype_and_device_are_kept(subject: Subject) -> Iterator[Finding | Skip]:
    """float64, and torch's meta device, which every machine has."""
    name = "dtype_and_device_are_kept"
    if not is_torch(subject.example):
        yield Skip(name, NO_TORCH)
        return
    for to, what in (("float64", "dtype"), ("meta", "device")):
        torch = sys.modules["torch"]
        wanted = torch.float64 if to == "float64" else torch.device("meta")
        for call in _calls(subject):
            model = subject.build().to(wanted)
            try:
                subject.reset(model, *call)
            except (AssertionError, ValueError):
                continue  # refused
            other = [
                k for k, p in model.named_parameters() if getattr(p, what) != wanted
            ]
            if other:
                given = ", ".join(map(repr, call))
                yield Finding(
                    name,
                    "B",
                    f"after .to({wanted}), reset_classifier({given}) makes "
                    f"{', '.join(other)} with another {what}",
                    subject.snippet(
                        f"model.to({wanted!r})".replace("device(", "torch.device("),
                        f"model.reset_classifier({given})",
                        f"assert len({{p.{what} for p in model.parameters()}}) == 1",
                    ),
                )
                break


@check("training mode is kept: a model in eval mode stays there, and one in training")
def training_mode_is_kept(subject: Subject) -> Iterator[Finding | Skip]:
    """A new module of torch's is in training mode until it is told."""
    name = "training_mode_is_kept"
    if not is_torch(subject.example):
        yield Skip(name, NO_TORCH)
        return
    for call in _calls(subject):
        for mode in (True, False):
            model = subject.build().train(mode)
            try:
                subject.reset(model, *call)
            except (AssertionError, ValueError):
                continue
            other = [k for k, m in model.named_modules() if m.training is not mode]
            if other:
                given = ", ".join(map(repr, call))
                yield Finding(
                    name,
                    "C",
                    f"after .train({mode}), reset_classifier({given}) leaves "
                    f"{', '.join(other[:4])} in the other mode",
                    subject.snippet(
                        f"model.train({mode})",
                        f"model.reset_classifier({given})",
                        f"assert {{m.training for m in model.modules()}} == {{{mode}}}",
                    ),
                )
                return


@check(
    "new classes leave the body alone: the same parameters, their numbers, and what is "
    "frozen stays frozen, while the new head can be trained"
)
def the_body_is_left_alone(subject: Subject) -> Iterator[Finding | Skip]:
    """What counts as the head: what a model has for its classes (a norm of its own)."""
    name = "the_body_is_left_alone"
    if not is_torch(subject.example) or not hasattr(subject.example, "get_classifier"):
        yield Skip(name, NO_TORCH)
        return
    model = subject.build()
    subject.fill(model)
    for parameter in model.parameters():
        parameter.requires_grad = False
    head = _head_keys(subject, model) | head_keys(subject)
    body = {k: p for k, p in model.named_parameters() if k not in head}
    numbers = {key: subject.kind.array(p) for key, p in body.items()}
    subject.reset(model, subject.num_classes + 1)
    after = dict(model.named_parameters())
    lost = [key for key in body if after.get(key) is not body[key]]
    changed = [
        key
        for key, before in numbers.items()
        if key in after and not np.array_equal(subject.kind.array(after[key]), before)
    ]
    unfrozen = [key for key in body if key in after and after[key].requires_grad]
    frozen = [k for k in _head_keys(subject, model) if not after[k].requires_grad]
    freeze = "for p in model.parameters(): p.requires_grad = False"
    reset = f"model.reset_classifier({subject.num_classes + 1})"
    lines = ["before = dict(model.named_parameters())", freeze, reset]
    lines += ["after = dict(model.named_parameters())"]
    kinds: tuple[tuple[list[str], Severity, str, str], ...] = (
        (changed, "A", "changes the numbers of", "after[key] is before[key]"),
        (lost, "C", "exchanges", "after[key] is before[key]"),
        (unfrozen, "C", "unfreezes", "not after[key].requires_grad"),
        (frozen, "C", "leaves the new head frozen:", "after[key].requires_grad"),
    )
    for keys, severity, what, test in kinds:
        if keys:
            yield Finding(
                name,
                severity,
                f"a new number of classes {what} {', '.join(keys[:4])}",
                subject.snippet(*lines, f"for key in {keys!r}:", f"    assert {test}"),
            )
            return


def _head_keys(subject: Subject, model: Any) -> set[str]:
    """The names of the parameters in get_classifier()."""
    ids = {
        id(parameter)
        for classifier in subject.classifiers(model)
        for parameter in subject.kind.parameters(classifier).values()
    }
    return {key for key, p in model.named_parameters() if id(p) in ids}


@check("copy.deepcopy and pickle after a reset give a model that computes the same")
def copies_after_a_reset_are_true(subject: Subject) -> Iterator[Finding | Skip]:
    """For each pool that a reset takes."""
    name = "copies_after_a_reset_are_true"
    for text, way in COPIES.items():
        try:
            way(subject.build())
        except Exception as error:
            yield Skip(name, f"{text} fails before any reset: {_said(error)}")
            continue
        for call in _calls(subject):
            model = subject.build()
            try:
                subject.reset(model, *call)
                subject.fill(model)
                out = subject.run(model)
            except Exception:
                continue  # what other checks are about
            try:
                again = way(model)
                same = np.array_equal(subject.run(again), out, equal_nan=True)
                why = "" if same else "gives other numbers"
            except Exception as error:
                why = f"fails: {_said(error)}"
            if why:
                given = ", ".join(map(repr, call))
                yield Finding(
                    name,
                    "B",
                    f"{text} after reset_classifier({given}) {why}",
                    subject.snippet(
                        "import copy, pickle",
                        f"model.reset_classifier({given})",
                        "model.eval()",
                        f"again = {text}",
                        "assert (again(x) == model(x)).all()",
                    ),
                )
                break


def _said(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
