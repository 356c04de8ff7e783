# SPDX-License-Identifier: Apache-2.0
"""prune_intermediate_layers: what is left works, and gives what it gave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..finding import Finding, Skip
from ..registry import check
from ..subject import Subject
from ..walk import REFUSALS
from .intermediates import ALIKE, _alike, _call

WAYS = (
    {"prune_norm": False, "prune_head": True},
    {"prune_norm": True, "prune_head": True},
    {"prune_norm": False, "prune_head": False},
)


def _pruned(subject: Subject, **ways: bool) -> tuple[Any, list[Any], list[int]]:
    """The model pruned to its first intermediate, the full one's maps, what is kept."""
    model = subject.build()
    subject.fill(model)
    maps = _call(subject, model, intermediates_only=True)
    with subject.quiet():
        kept = model.prune_intermediate_layers([0], **ways)
    return model, maps, kept


def _written(ways: dict[str, bool]) -> str:
    return ", ".join(f"{key}={value}" for key, value in ways.items())


@check(
    "a pruned model gives the intermediates that it gave (features_only prunes every "
    "model to what is asked for)"
)
def pruned_intermediates_are_the_same(subject: Subject) -> Iterator[Finding | Skip]:
    """prune_intermediate_layers, then forward_intermediates of what it kept."""
    name = "pruned_intermediates_are_the_same"
    if not hasattr(subject.build(), "prune_intermediate_layers"):
        yield Skip(name, "the class has no prune_intermediate_layers")
        return
    for ways in WAYS:
        lines = [
            "maps = model.forward_intermediates(x, intermediates_only=True)",
            f"kept = model.prune_intermediate_layers([0], {_written(ways)})",
            "told = model.forward_intermediates(x, kept, intermediates_only=True)",
        ]
        try:
            model, maps, kept = _pruned(subject, **ways)
            told = _call(subject, model, indices=kept, intermediates_only=True)
        except REFUSALS as error:
            yield Skip(name, f"{_written(ways)} is refused: {error}")
            continue
        except Exception as error:
            what = f"fails: {type(error).__name__}: {error}"
        else:
            if _alike(told, maps[:1]):
                continue
            what = "gives other numbers"
        yield Finding(
            name,
            "B" if "fails" in what else "A",
            f"after prune_intermediate_layers([0], {_written(ways)}) "
            f"forward_intermediates {what}",
            subject.snippet(*ALIKE, *lines, "assert alike(told, maps[:1])"),
        )


@check(
    "a pruned model runs, and without its head gives features and not vectors (timm's "
    "families do the one or the other)"
)
def pruned_model_runs(subject: Subject) -> Iterator[Finding | Skip]:
    """forward and forward_features after pruning to the first intermediate."""
    name = "pruned_model_runs"
    if not hasattr(subject.build(), "prune_intermediate_layers"):
        yield Skip(name, "the class has no prune_intermediate_layers")
        return
    for ways in WAYS[:2]:
        lines = [f"model.prune_intermediate_layers([0], {_written(ways)})"]
        model, _, _ = _pruned(subject, **ways)
        for method in ("forward_features", "forward"):
            try:
                told = subject.call(model, method, subject.images())
            except Exception as error:
                yield Finding(
                    name,
                    "B",
                    f"after prune_intermediate_layers([0], {_written(ways)}) {method} "
                    f"fails: {type(error).__name__}: {error}",
                    subject.snippet(*lines, f"model.{method}(x)"),
                )
                break
        else:
            if hasattr(told, "shape") and len(told.shape) == 2:
                yield Finding(
                    name,
                    "C",
                    f"after prune_intermediate_layers([0], {_written(ways)}) forward "
                    f"still pools: it gives {np.shape(told)}",
                    subject.snippet(*lines, "assert model(x).ndim > 2, model(x).shape"),
                )
                return


@check(
    "a pruned model takes a new head (a short backbone with a classifier of one's own)"
)
def pruned_model_takes_a_head(subject: Subject) -> Iterator[Finding | Skip]:
    """prune_intermediate_layers, reset_classifier with a pool, forward: logits."""
    name = "pruned_model_takes_a_head"
    if not hasattr(subject.build(), "prune_intermediate_layers"):
        yield Skip(name, "the class has no prune_intermediate_layers")
        return
    pool = getattr(subject.build(), "global_pool", None)
    pool = pool if pool in subject.pools and pool not in ("map", "prr") else "avg"
    head = f"7, {pool!r}" if subject.pools else "7"
    model, _, _ = _pruned(subject, prune_head=True)
    lines = [
        "model.prune_intermediate_layers([0], prune_head=True)",
        f"model.reset_classifier({head})",
    ]
    try:
        subject.reset(model, *((7, pool) if subject.pools else (7,)))
    except REFUSALS as error:
        yield Skip(name, f"reset_classifier refuses it: {error}")
        return
    except Exception as error:
        what = f"reset_classifier fails: {type(error).__name__}: {error}"
    else:
        try:
            shape = np.shape(subject.run(model))
        except Exception as error:
            what = f"forward fails: {type(error).__name__}: {error}"
        else:
            if shape == (2, 7):
                return
            what = f"forward gives {shape}"
    yield Finding(
        name,
        "B",
        f"after prune_intermediate_layers([0]) and reset_classifier({head}) {what}",
        subject.snippet(*lines, "assert model(x).shape == (2, 7), model(x).shape"),
    )
