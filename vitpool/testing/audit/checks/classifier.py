# SPDX-License-Identifier: Apache-2.0
"""get_classifier and forward_head: the head that forward uses, and what it sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..finding import Finding, Skip
from ..registry import check
from ..subject import Subject
from ..walk import CLASSES, RTOL, parted

# The option and attribute of a pool that sees class and register tokens.
PREFIX = "pool_include_prefix"


def _is_several(part: Any) -> bool:
    """Whether a classifier is several heads: a tuple, or torch's ModuleList."""
    return isinstance(part, (tuple, list)) or type(part).__name__ == "ModuleList"


def _parameters(part: Any) -> list[Any]:
    """The parameters of a classifier, or of each of several."""
    found: list[Any] = []
    for one in part if _is_several(part) else (part,):
        if hasattr(one, "parameters"):
            found += list(one.parameters())
        elif hasattr(one, "shape"):
            found.append(one)  # a model over arrays may give the weight itself
    return found


@check(
    "get_classifier gives the head that forward uses, after each reset (training a "
    "head alone begins with it; DINO-like code replaces what it gives)"
)
def get_classifier_is_the_head(subject: Subject) -> Iterator[Finding | Skip]:
    """With classes, without, and with others again: it has the new parameters."""
    name = "get_classifier_is_the_head"
    model = subject.build()
    if not hasattr(model, "get_classifier"):
        yield Skip(name, "the class has no get_classifier")
        return
    for resets in ((), (CLASSES,), (CLASSES, 0), (CLASSES, 0, 6)):
        model = subject.build()
        for classes in resets:
            subject.reset(model, classes)
        classes = resets[-1] if resets else subject.num_classes
        own = _named(subject, model)
        told = f"after resets to {', '.join(map(str, resets))} classes"
        when = told if resets else "as built"
        lines = [f"model.reset_classifier({n})" for n in resets]
        try:
            found = _parameters(model.get_classifier())
        except Exception as error:
            yield Finding(
                name,
                "B",
                f"{when} get_classifier fails: {type(error).__name__}: {error}",
                subject.snippet(*lines, "model.get_classifier()"),
            )
            return
        outputs = {np.shape(p)[0] for p in found if np.ndim(p)}
        known = all(any(not subject.kind.moved(p, q) for q in own) for p in found)
        # Without classes a container keeps its norm: the next check says so.
        if not classes or (found and classes in outputs and known):
            continue
        said = "no parameter" if not found else f"parameters of {sorted(outputs)} rows"
        yield Finding(
            name,
            "C",
            f"{when} get_classifier has {said}, and the model {classes} classes",
            subject.snippet(
                *lines,
                "head = model.get_classifier()",
                "heads = head if isinstance(head, (tuple, list)) else (head,)",
                "rows = [tuple(p.shape) for h in heads for p in h.parameters()]",
                f"assert any(s[0] == {classes} for s in rows), rows",
            ),
        )
        return


def _named(subject: Subject, model: Any) -> list[Any]:
    return list(subject.kind.parameters(model).values())


@check(
    "get_classifier is what makes logits of pre_logits, and no more (code that puts "
    "another head in its place would lose the norm or the pool that a container holds)"
)
def classifier_sees_the_pre_logits(subject: Subject) -> Iterator[Finding | Skip]:
    """classifier(forward_head(features, pre_logits=True)) is forward's output."""
    name = "classifier_sees_the_pre_logits"
    model = subject.build()
    if not hasattr(model, "get_classifier") or not hasattr(model, "forward_head"):
        yield Skip(name, "the class has no get_classifier or no forward_head")
        return
    classifier = model.get_classifier()
    if _is_several(classifier):
        yield Skip(name, f"it has {len(classifier)} heads")
        return
    subject.fill(model)
    features = subject.call_inside(model, "forward_features", subject.images())
    pre = subject.call_inside(model, "forward_head", features, pre_logits=True)
    if not hasattr(pre, "shape"):
        yield Skip(name, "its pre_logits are several")
        return
    wanted = subject.run(model)
    try:
        told = subject.applied(model, classifier, pre)
    except Exception as error:
        what = f"fails on them: {type(error).__name__}: {error}"
    else:
        if parted(told, wanted) <= RTOL:
            return
        what = "gives other numbers"
    yield Finding(
        name,
        "D",
        f"get_classifier() is {type(classifier).__name__}, which does not make the "
        "logits of forward_head(..., pre_logits=True): it "
        f"{' '.join(what.split())[:160]}",
        subject.snippet(
            *subject.drawing(),
            "pre = model.forward_head(model.forward_features(x), pre_logits=True)",
            "head = model.get_classifier()",
            "if 'Conv2d' in repr(head) and pre.ndim == 2:",
            "    pre = pre[:, :, None, None]",
            "told, wanted = head(pre).reshape(2, -1), model(x).reshape(2, -1)",
            "assert told.shape == wanted.shape, (told.shape, wanted.shape)",
            f"assert abs(told - wanted).max() <= {RTOL} * abs(wanted).max()",
        ),
    )


@check(
    "forward_head(pre_logits=True) gives what a model without classes gives "
    "(embeddings are taken by the one or by the other)"
)
def pre_logits_are_the_headless_output(subject: Subject) -> Iterator[Finding | Skip]:
    """For every pool that is built: the same vectors from both."""
    name = "pre_logits_are_the_headless_output"
    if not hasattr(subject.build(), "forward_head"):
        yield Skip(name, "the class has no forward_head")
        return
    starts: list[dict[str, Any]] = [{"global_pool": pool} for pool in subject.pools]
    for options in starts or [{}]:
        try:
            model = subject.build(**options)
        except Exception as error:
            yield Skip(name, f"{options} takes no classes: {error}")
            continue
        subject.fill(model)
        try:
            features = subject.call_inside(model, "forward_features", subject.images())
            pre = subject.call(model, "forward_head", features, pre_logits=True)
            subject.reset(model, 0)
            wanted = subject.run(model)
        except Exception as error:
            what = f"fails: {type(error).__name__}: {error}"
        else:
            if not hasattr(pre, "shape"):
                yield Skip(name, "its pre_logits are several")
                return
            if parted(pre, wanted) <= RTOL:
                continue
            what = (
                f"gives {np.shape(pre)}, the model without classes {np.shape(wanted)}"
            )
            if np.shape(pre) == np.shape(wanted):
                what = "gives other numbers than the model without classes"
        yield Finding(
            name,
            "B" if what.startswith("fails") else "C",
            f"global_pool={options.get('global_pool', 'as it is')!r}: "
            f"forward_head(pre_logits=True) {what}",
            subject.snippet(
                *subject.drawing(),
                "pre = model.forward_head(model.forward_features(x), pre_logits=True)",
                "model.reset_classifier(0)",
                "wanted = model(x)",
                "assert pre.shape == wanted.shape, (pre.shape, wanted.shape)",
                f"assert abs(pre - wanted).max() <= {RTOL} * abs(wanted).max()",
                **options,
            ),
        )


@check(
    "pool(x, pool_type=...) pools as asked or refuses (timm's ViTs with an attention "
    "pool give that pool's answer whatever is asked for)"
)
def asked_pool_is_honoured(subject: Subject) -> Iterator[Finding | Skip]:
    """The override of a model's pool method, beside a model built with that pool."""
    name = "asked_pool_is_honoured"
    model = subject.build()
    method = next((m for m in ("pool", "_pool") if hasattr(model, m)), None)
    if method is None or not subject.pools:
        yield Skip(name, "the class has no pool method")
        return
    plain = [p for p in subject.pools if p not in ("map", "prr")]
    variants: list[dict[str, Any]] = [{"global_pool": p} for p in subject.pools]
    if "class_token" in subject.options:
        variants.append({"class_token": False, "global_pool": "avg"})
    faults = set()
    for options in variants:
        try:
            model = subject.build(**options)
        except Exception:
            continue
        features = subject.call_inside(model, "forward_features", subject.images())
        for asked in plain:
            try:
                told = subject.call(model, method, features, pool_type=asked)
            except Exception:
                continue
            wanted = None
            try:
                other = subject.build(**options | {"global_pool": asked})
                wanted = subject.call(other, method, features)
                same = parted(told, wanted) <= RTOL
                if not same and getattr(model, PREFIX, False):  # as prr sets it
                    options_of = options | {"global_pool": asked, PREFIX: True}
                    other = subject.build(**options_of)
                    same = parted(told, subject.call(other, method, features)) <= RTOL
            except Exception as error:
                what = f"gives numbers, and a model built that way is refused: {error}"
            else:
                if same:
                    continue
                what = "does not give that pool"
            fault = (options["global_pool"], wanted is None)
            if fault in faults:
                continue
            faults.add(fault)
            written = ", ".join(f"{k}={v!r}" for k, v in options.items())
            yield Finding(
                name,
                "A" if wanted is not None else "D",
                f"with {written}, {method}(x, pool_type={asked!r}) {what}",
                subject.snippet(
                    "features = model.forward_features(x)",
                    "try:",
                    f"    told = model.{method}(features, pool_type={asked!r})",
                    "except (AssertionError, TypeError, ValueError):",
                    "    told = None",
                    "if told is not None:",
                    f"    other = build(global_pool={asked!r})",
                    f"    wanted = other.{method}(features)",
                    "    assert told.shape == wanted.shape, (told.shape, wanted.shape)",
                    f"    near = {RTOL} * abs(wanted).max()",
                    "    assert abs(told - wanted).max() <= near",
                    **options,
                ),
            )
