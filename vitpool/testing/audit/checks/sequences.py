# SPDX-License-Identifier: Apache-2.0
"""Up to three resets in a row: what was taken works, and the model says what it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..finding import Finding, Skip
from ..registry import check
from ..subject import Subject
from ..walk import REFUSALS, Step, firsts, walks


@check(
    "after any accepted sequence of resets forward runs (timm's CNNs take a head "
    "without a pool, and fail when it is applied to the width of a feature map)"
)
def forward_runs_after_resets(subject: Subject) -> Iterator[Finding | Skip]:
    """reset_classifier refuses what forward cannot do."""
    if subject.slow:
        yield Skip(
            "forward_runs_after_resets", f"sequences of three pools: {subject.slow}"
        )
    broken = [step for step in walks(subject) if step.error is not None]
    for step, others in firsts(broken, lambda s: (s.pool, s.classes > 0)):
        yield Finding(
            "forward_runs_after_resets",
            "B",
            f"{step} is accepted, then forward fails: {step.error}{others}",
            subject.snippet(*step.lines(), "model(x)", **step.options),
        )


@check(
    "a reset that is refused is refused with a reason (the name of an attribute that "
    "is not there, or a shape that does not fit, tells a user nothing)"
)
def refusals_are_meant(subject: Subject) -> Iterator[Finding | Skip]:
    """TypeError, ValueError or an assertion, not whatever fails on the way."""
    accidents = [
        step
        for step in walks(subject)
        if step.refused is not None and not isinstance(step.refused, REFUSALS)
    ]
    for step, others in firsts(accidents, lambda s: (s.pool, type(s.refused))):
        kind = type(step.refused).__name__
        yield Finding(
            "refusals_are_meant",
            "C",
            f"{step} fails by accident, with {kind}: {step.refused}{others}",
            subject.snippet(
                *step.lines()[:-1],
                "try:",
                f"    {step.lines()[-1]}",
                "except (AssertionError, NotImplementedError, TypeError, ValueError):",
                "    pass",
                **step.options,
            ),
        )


@check(
    "num_classes and global_pool say what was asked for (timm's distilled DeiT takes "
    "'' and stays at 'token'; where a head pools, the model's own global_pool may be "
    "old)"
)
def attributes_tell_classes_and_pool(subject: Subject) -> Iterator[Finding | Skip]:
    """An attribute that a class has is true after every reset."""
    taken = [step for step in walks(subject) if step.refused is None]
    for name, wanted in (("num_classes", "classes"), ("global_pool", "pool")):
        told = [step for step in taken if name in step.facts]
        if not told:
            yield Skip(
                "attributes_tell_classes_and_pool",
                f"the class has no {name} of its own",
            )
            continue
        lies = [step for step in told if step.facts[name] != getattr(step, wanted)]
        for step, others in firsts(lies, lambda s: getattr(s, wanted)):  # noqa: B023
            yield Finding(
                "attributes_tell_classes_and_pool",
                "C",
                f"after {step} {name} is {step.facts[name]!r}{others}",
                subject.snippet(
                    *step.lines(),
                    f"told = model.{name}",
                    *(
                        ["told = getattr(told, 'pool_type', told)"]
                        if name == "global_pool"
                        else []
                    ),
                    f"assert told == {getattr(step, wanted)!r}, told",
                    **step.options,
                ),
            )


@check(
    "the last axis of an output without classes is head_hidden_size wide, that of the "
    "features num_features (heads are sized by them: a doubled pool left them behind)"
)
def attributes_tell_widths(subject: Subject) -> Iterator[Finding | Skip]:
    """What head_hidden_size says, forward gives where num_classes is 0."""
    bare = [step for step in walks(subject) if _is_bare(step)]
    if not bare:
        yield Skip("attributes_tell_widths", "no reset leaves the head off")
        return
    if "head_hidden_size" not in bare[0].facts:
        yield Skip("attributes_tell_widths", "the class has no head_hidden_size")
        return

    def wrong(step: Step) -> bool:
        return step.facts["head_hidden_size"] not in np.shape(step.output)[1:]

    for step, others in firsts(filter(wrong, bare), lambda s: s.pool):
        yield Finding(
            "attributes_tell_widths",
            "C",
            f"after {step} head_hidden_size is {step.facts['head_hidden_size']}, and "
            f"the output is {tuple(np.shape(step.output))}{others}",
            subject.snippet(
                *step.lines(),
                "assert model.head_hidden_size in model(x).shape[1:], "
                "(model.head_hidden_size, model(x).shape)",
                **step.options,
            ),
        )


def _is_bare(step: Step) -> bool:
    return step.refused is None and step.error is None and step.classes == 0


def _shapes(value: Any) -> tuple[int, ...]:
    return tuple(np.shape(value))


@check(
    "a reset to no classes gives the vectors that the head would see, and the way back "
    "gives logits again (a head that was left off and put on is the common fine-tuning)"
)
def head_goes_and_comes_back(subject: Subject) -> Iterator[Finding | Skip]:
    """reset_classifier(0), then back: (B, width), then (B, classes)."""
    back = [
        step
        for step in walks(subject)
        if len(step.resets) == 3
        and step.resets[1] == (0,)
        and step.refused is None
        and step.error is None
    ]
    if not back:
        yield Skip("head_goes_and_comes_back", "reset_classifier(0) is refused")
        return
    for step in back:
        if _shapes(step.output)[-1] != step.classes and step.classes not in _shapes(
            step.output
        ):
            yield Finding(
                "head_goes_and_comes_back",
                "B",
                f"after {step} the output is {_shapes(step.output)}",
                subject.snippet(
                    *step.lines(),
                    f"assert {step.classes} in model(x).shape, model(x).shape",
                    **step.options,
                ),
            )
