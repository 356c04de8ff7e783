# SPDX-License-Identifier: Apache-2.0
"""The constructor's options: one that is taken works, and does something."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from ..finding import Finding, Skip
from ..registry import check
from ..subject import Subject
from ..variants import EFFECTIVE, Variant, variants


@check(
    "an option, or two, that the constructor takes give a model that runs (timm's "
    "distilled DeiT takes no_embed_class, and its positions do not fit)"
)
def options_that_are_taken_run(subject: Subject) -> Iterator[Finding | Skip]:
    """Constructors refuse what forward cannot do."""
    if subject.slow:
        yield Skip("options_that_are_taken_run", f"pairs of options: {subject.slow}")
    made = variants(subject)
    broken: list[dict[str, object]] = []
    for variant in made:
        if variant.error is None or any(
            one.items() <= variant.options.items() for one in broken
        ):
            continue
        broken.append(variant.options)
        yield Finding(
            "options_that_are_taken_run",
            "B",
            f"built {variant}, forward fails: {variant.error}"
            if not variant.options
            else f"{variant} is built, then forward fails: {variant.error}",
            subject.snippet("model(x)", **variant.options),
        )


@check(
    "every trained parameter has a say in some output (timm's distilled DeiT has "
    "register tokens, or a final norm, that nothing reads; DDP stops at such "
    "parameters)"
)
def every_parameter_is_used(subject: Subject) -> Iterator[Finding | Skip]:
    """No parameter is without a path to an output in both eval and train mode."""
    base, *others = variants(subject)
    known: set[str] = set()
    for variant in (base, *others):
        if variant.no_gradient is not None:
            kind = type(variant.no_gradient).__name__
            yield Skip("every_parameter_is_used", f"{variant}: no gradient, but {kind}")
        unused = sorted(variant.unused - known)
        if not unused:
            continue
        known.update(unused)
        some = ", ".join(unused[:4]) + (" ..." if len(unused) > 4 else "")
        yield Finding(
            "every_parameter_is_used",
            "A" if variant.options else "D",
            f"{variant}: no output depends on {some}",
            subject.snippet(*subject.kind.use(unused[0]), **variant.options),
        )


@check(
    "an option that says what is computed is not taken and ignored (timm's distilled "
    "DeiT has position embeddings with pos_embed='none' too)"
)
def options_that_are_taken_matter(subject: Subject) -> Iterator[Finding | Skip]:
    """Of an option's values at least two give different models."""
    made = [v for v in variants(subject) if v.output is not None]
    for name in EFFECTIVE:
        if name not in subject.options:
            continue
        ones = [v for v in made if list(v.options) == [name]]
        if len(ones) < 2:
            yield Skip(
                "options_that_are_taken_matter",
                f"{name}: of its values {EFFECTIVE[name]} fewer than two are taken",
            )
            continue
        first, *rest = ones
        if any(first.parts_from(other) for other in rest):
            continue
        if not _could_matter(name, subject):
            yield Skip(
                "options_that_are_taken_matter", f"{name} has nothing to act upon here"
            )
            continue
        yield Finding(
            "options_that_are_taken_matter",
            "A",
            f"{' and '.join(map(str, ones))} give the same parameters and the same "
            "numbers",
            _same(subject, first, rest[-1]),
        )


def _could_matter(name: str, subject: Subject) -> bool:
    """Whether the small model has what the option is about."""
    model = subject.build()
    prefix = getattr(model, "num_prefix_tokens", 0)
    if name == "no_embed_class":
        return bool(prefix) and getattr(model, "pos_embed", None) is not None
    if name == "pool_include_prefix":
        # 'prr' reads the prefix tokens whatever the option says, in timm as in vitpool
        deaf = ("token", "prr", "")
        return bool(prefix) and getattr(model, "global_pool", "") not in deaf
    if name == "fc_norm":  # it says where the norm is, not whether there is one
        return bool(subject.kwargs.get("final_norm", True))
    return True


def _same(subject: Subject, one: Variant, other: Variant) -> str:
    options = [
        ", ".join(f"{k}={v!r}" for k, v in v.options.items()) for v in (one, other)
    ]
    return subject.snippet(
        *subject.drawing(),
        f"other = build({options[1]})",
        "shapes = [{k: tuple(v.shape) for k, v in m.state_dict().items()}",
        "          for m in (model, other)]",
        "if shapes[0] == shapes[1]:",
        "    other.load_state_dict(model.state_dict())",
        f"    assert abs(model(x) - other(x)).max() > 0, {options[1]!r}",
        **one.options,
    )


@check(
    "a constructor leaves its arguments as they are (timm's EfficientNet empties the "
    "list of blocks that it is given: a second model of it cannot be built)"
)
def arguments_are_left_alone(subject: Subject) -> Iterator[Finding | Skip]:
    """The same arguments give the same model again."""
    kwargs = copy.deepcopy(subject.kwargs)
    before = repr(kwargs)
    with subject.quiet():
        subject.make(**kwargs)
    if repr(kwargs) == before:
        return
    changed = [k for k, v in kwargs.items() if repr(v) != repr(subject.kwargs.get(k))]
    yield Finding(
        "arguments_are_left_alone",
        "B",
        f"the constructor changes what it is given as {', '.join(changed)}",
        subject.snippet(
            "original = make",
            "def make(**kwargs):",
            "    before = repr(kwargs)",
            "    model = original(**kwargs)",
            "    assert repr(kwargs) == before, 'the arguments have been changed'",
            "    return model",
            "build()",
        ),
    )
