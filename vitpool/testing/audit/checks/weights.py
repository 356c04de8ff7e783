# SPDX-License-Identifier: Apache-2.0
"""What a reset must not touch: every weight that is not the head's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..finding import Finding, Skip
from ..registry import check
from ..subject import Subject
from ..walk import CLASSES, changed_keys, starts_of, walks


def head_keys(subject: Subject, **options: Any) -> set[str]:
    """Parameters and buffers that a model has for the sake of its classes."""
    state = subject.state(subject.build(**options))
    keys: set[str] = set()
    for classes in (0, CLASSES):
        if classes == subject.num_classes:
            classes += 1
        try:
            other = subject.state(subject.build(**options | {"num_classes": classes}))
        except Exception:
            continue
        keys |= {
            key
            for key, value in state.items()
            if key not in other or np.shape(other[key]) != np.shape(value)
        }
    return keys


@check(
    "a reset to the pool that is there keeps every weight but the head's, bit for bit "
    "(timm issue 2272: a trained attention pool was thrown away)"
)
def kept_pool_is_bit_equal(subject: Subject) -> Iterator[Finding | Skip]:
    """By name and by default; nothing is lost, drawn anew or another object."""
    name = "kept_pool_is_bit_equal"
    for options in starts_of(subject):
        heads = head_keys(subject, **options)
        for arguments in ((CLASSES,), (CLASSES, options.get("global_pool"))):
            if arguments[-1] is None:
                continue
            model = subject.build(**options)
            subject.fill(model)
            before = subject.state(model)
            pool, parameters = (
                getattr(model, "attn_pool", None),
                subject.kind.parameters(model),
            )
            try:
                subject.reset(model, *arguments)
            except Exception:
                continue  # constructor and reset differ: sequences and equal say so
            after, now = subject.state(model), subject.kind.parameters(model)
            lost = [k for k in before if k not in after and k not in heads]
            changed = [k for k in changed_keys(before, after) if k not in heads]
            other = [
                k
                for k, value in parameters.items()
                if k in now and k not in heads and subject.kind.moved(value, now[k])
            ]
            if pool is not None and getattr(model, "attn_pool", None) is not pool:
                other = other or ["attn_pool"]
            for keys, what in (
                (lost, "is lost"),
                (changed, "has other numbers"),
                (other, "is another object"),
            ):
                if not keys:
                    continue
                yield Finding(
                    name,
                    "A" if keys is not other else "C",
                    f"after {options.get('global_pool', '')!r}, reset_classifier("
                    f"{', '.join(map(repr, arguments))}) {', '.join(keys[:4])} {what}",
                    subject.snippet(
                        f"heads = {sorted(heads)}",
                        "before = {k: v.clone() if hasattr(v, 'clone') else v.copy()",
                        "          for k, v in model.state_dict().items()}",
                        "parts = dict(model.named_parameters())",
                        f"model.reset_classifier({', '.join(map(repr, arguments))})",
                        "after = model.state_dict()",
                        "now = dict(model.named_parameters())",
                        "for key, value in before.items():",
                        "    if key not in heads:",
                        "        assert key in after, key",
                        "        same = after[key].reshape(-1) == value.reshape(-1)",
                        "        assert same.all(), key",
                        *(
                            [f"assert now[{other[0]!r}] is parts[{other[0]!r}]"]
                            if keys is other and other != ["attn_pool"]
                            else []
                        ),
                        **options,
                    ),
                )


@check(
    "a reset to another pool keeps the backbone bit for bit (what was trained is what "
    "is fine-tuned)"
)
def other_weights_stay(subject: Subject) -> Iterator[Finding | Skip]:
    """Of what is there before and after, only the head has other numbers."""
    name = "other_weights_stay"
    if not subject.pools:
        yield Skip(name, "the class has no pools")
        return
    heads = {
        repr(options): head_keys(subject, **options) for options in starts_of(subject)
    }
    for step in walks(subject):
        changed = [k for k in step.changed if k not in heads[repr(step.options)]]
        if len(step.resets) > 1 or not changed:
            continue
        yield Finding(
            name,
            "A",
            f"after {step} {', '.join(changed[:4])} have other numbers",
            subject.snippet(
                f"key = {changed[0]!r}",
                "before = model.state_dict()[key].reshape(-1)",
                "before = before + 0",
                *step.lines(),
                "assert (model.state_dict()[key].reshape(-1) == before).all(), key",
                **step.options,
            ),
        )
