# SPDX-License-Identifier: Apache-2.0
"""A reset model is the model that is built that way, with the same weights.

"That way" is the constructor's options and what the model records of its changes: timm
leaves the final norm where it was when the pool changes, and records fc_norm. Where a
class records nothing, either place of the norm is taken.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..finding import Finding, Skip
from ..registry import check
from ..subject import Subject
from ..walk import RTOL, Step, firsts, parted, walks


def _beside(subject: Subject, *, runs: bool = False) -> list[Step]:
    """The steps that have a model built that way beside them (`runs`: and both run)."""
    steps = [step for step in walks(subject) if step.refused is None]
    if runs:
        steps = [s for s in steps if s.error is None and s.built.output is not None]
    return steps


def _built(step: Step) -> str:
    options = ", ".join(f"{k}={v!r}" for k, v in step.built.options.items())
    return f"built = build({options})"


@check(
    "what reset_classifier takes the constructor takes (timm's distilled DeiT takes "
    "'' in the one and refuses it in the other: such a model cannot be built again)"
)
def constructor_takes_what_reset_takes(subject: Subject) -> Iterator[Finding | Skip]:
    """A model as it is after a reset can be built."""
    refused = [step for step in _beside(subject) if step.built.refused]
    for step, others in firsts(refused, lambda s: (s.pool, s.classes > 0)):
        yield Finding(
            "constructor_takes_what_reset_takes",
            "C",
            f"{step} is accepted, and the constructor refuses that: "
            f"{step.built.error}{others}",
            subject.snippet(*step.lines(), _built(step), **step.options),
        )


@check(
    "a reset model has the parameters of one built that way: no norm, pool, head bias "
    "or second head is lost or left over (copies of ViT lose their final norm so)"
)
def parameters_are_those_of_a_model_built_that_way(
    subject: Subject,
) -> Iterator[Finding | Skip]:
    """The state dict's keys and shapes are those of the built model."""
    differ = [s for s in _beside(subject) if s.built.missing or s.built.unexpected]
    for step, others in firsts(differ, lambda s: (s.pool, s.built.missing)):
        parts = [
            f"{word} {', '.join(keys[:4])}{' ...' if len(keys) > 4 else ''}"
            for word, keys in (
                ("without", step.built.missing),
                ("with", step.built.unexpected),
            )
            if keys
        ]
        yield Finding(
            "parameters_are_those_of_a_model_built_that_way",
            "B",
            f"after {step} the model is {' and '.join(parts)}, unlike one built that "
            f"way{others}",
            subject.snippet(
                *step.lines(),
                _built(step),
                "built.load_state_dict(model.state_dict())",
                **step.options,
            ),
        )


@check(
    "a reset model gives the numbers of one built that way with the same weights "
    "(timm's 'prr' model that is reset to 'avg' goes on averaging its class token)"
)
def output_is_that_of_a_model_built_that_way(
    subject: Subject,
) -> Iterator[Finding | Skip]:
    """Equal outputs, from equal weights under equal keys."""
    steps = _beside(subject, runs=True)
    if not steps:
        yield Skip(
            "output_is_that_of_a_model_built_that_way",
            "no reset gives a model that runs",
        )
        return
    differ = [s for s in steps if parted(s.output, s.built.output) > RTOL]
    for step, others in firsts(differ, lambda s: s.options.get("global_pool")):
        if np.shape(step.output) == np.shape(step.built.output):
            how = (
                f"differ by {parted(step.output, step.built.output):.1g} of their scale"
            )
        else:
            how = f"are {np.shape(step.output)}, not {np.shape(step.built.output)}"
        yield Finding(
            "output_is_that_of_a_model_built_that_way",
            "A",
            f"after {step} the outputs {how} from those of a model built that way with "
            f"the same weights{others}",
            subject.snippet(
                *subject.drawing(),
                *step.lines(),
                _built(step),
                "built.load_state_dict(model.state_dict())",
                "out, wanted = model(x), built(x)",
                "assert out.shape == wanted.shape, (out.shape, wanted.shape)",
                f"assert abs(out - wanted).max() <= {RTOL} * abs(wanted).max()",
                **step.options,
            ),
        )


@check(
    "a model that is built with a pool and classes runs (timm's CNNs take "
    "global_pool='' beside classes, and fail at the first picture)"
)
def constructor_refuses_what_forward_cannot_do(
    subject: Subject,
) -> Iterator[Finding | Skip]:
    """Every accepted pair of pool and classes runs as built."""
    found = False
    for pool in subject.pools:
        for classes in (subject.num_classes, 0):
            options = {"global_pool": pool, "num_classes": classes}
            try:
                model = subject.build(**options)
            except Exception:
                continue
            found = True
            try:
                subject.call(model, "__call__", subject.images())
            except Exception as error:
                yield Finding(
                    "constructor_refuses_what_forward_cannot_do",
                    "B",
                    f"global_pool={pool!r} with num_classes={classes} is built, then "
                    f"forward fails: {error}",
                    subject.snippet("model(x)", **options),
                )
    if not found:
        yield Skip(
            "constructor_refuses_what_forward_cannot_do", "the class has no pools"
        )


@check(
    "without a pool the head sees channels, whatever the size of the map (a Linear "
    "over the last axis of (B, C, H, W) takes the width for channels: in silence where "
    "they are equal)"
)
def head_without_a_pool_sees_channels(subject: Subject) -> Iterator[Finding | Skip]:
    """forward_head of a map as wide as it has channels: logits at every place."""
    name = "head_without_a_pool_sees_channels"
    if "" not in subject.pools:
        yield Skip(name, "the class is not built without a pool")
        return
    try:
        model = subject.build(global_pool="", num_classes=subject.num_classes)
    except Exception as error:
        yield Skip(name, f"without a pool it takes no classes: {error}")
        return
    if not hasattr(model, "forward_head"):
        yield Skip(name, "the class has no forward_head")
        return
    features = subject.call(model, "forward_features", subject.images())
    width = getattr(model, "num_features", None)
    shape = np.shape(features)
    if len(shape) != 4 or shape[1] != width:
        yield Skip(name, f"its features are no (B, C, H, W) map but {shape}")
        return
    square = np.ones((1, width, 2, width), np.float32)
    try:
        out = subject.call(model, "forward_head", square)
    except Exception as error:
        yield Skip(name, f"forward_head refuses a map that is as wide: {error}")
        return
    if np.shape(out)[1] != subject.num_classes:
        yield Finding(
            name,
            "A",
            f"without a pool, features (1, {width}, 2, {width}) become logits "
            f"{np.shape(out)}: the head has taken the width for channels",
            subject.snippet(
                f"features = {subject.kind.pictures((1, width, 2, width))}",
                "out = model.forward_head(features)",
                f"assert out.shape[1] == {subject.num_classes}, out.shape",
                global_pool="",
            ),
        )
