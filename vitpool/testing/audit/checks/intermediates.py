# SPDX-License-Identifier: Apache-2.0
"""forward_intermediates with every flag, what feature_info says of it, and pruning.

Each is looked at for the model as it is and, where there is a class token, for the
model without any prefix tokens: flags about these fail where there are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..finding import Finding, Skip
from ..registry import check
from ..source import flags_of
from ..subject import Subject
from ..walk import REFUSALS, RTOL, parted

BARE = ({"class_token": False, "global_pool": "avg"}, {"class_token": False})


def _models(
    subject: Subject, method: str, name: str
) -> Iterator[tuple[dict[str, Any], Any] | Skip]:
    """(options, model with drawn weights), or why there is none."""
    model = subject.build()
    if not hasattr(model, method):
        yield Skip(name, f"the class has no {method}")
        return
    subject.fill(model)
    yield {}, model
    if (
        not getattr(model, "num_prefix_tokens", 0)
        or "class_token" not in subject.options
    ):
        return
    for options in BARE:
        if subject.refusal(**options) is None:
            model = subject.build(**options)
            subject.fill(model)
            if not model.num_prefix_tokens:
                yield options, model
                return


def _flags(model: Any) -> set[str]:
    return flags_of(model, "forward_intermediates")


def _call(subject: Subject, model: Any, **flags: Any) -> Any:
    return subject.call(model, "forward_intermediates", subject.images(), **flags)


def _alike(one: Any, other: Any) -> bool:
    """Whether two answers, lists of arrays or pairs or dicts, hold the same numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_alike, one, other))
    return parted(one, other) <= RTOL


@check(
    "forward_intermediates ends in what forward_features gives (people take both from "
    "one pass, and train on the one what they then run on the other)"
)
def intermediates_end_in_the_features(subject: Subject) -> Iterator[Finding | Skip]:
    """The first of its two answers is forward_features's."""
    name = "intermediates_end_in_the_features"
    for found in _models(subject, "forward_intermediates", name):
        if isinstance(found, Skip):
            yield found
            return
        options, model = found
        final = _call(subject, model)[0]
        features = subject.call(model, "forward_features", subject.images())
        if not _alike(final, features):
            yield Finding(
                name,
                "A",
                f"forward_intermediates gives other features than forward_features: "
                f"{np.shape(final)} against {np.shape(features)}",
                subject.snippet(
                    *subject.drawing(),
                    "final, wanted = model.forward_intermediates(x)[0], "
                    "model.forward_features(x)",
                    "assert final.shape == wanted.shape, (final.shape, wanted.shape)",
                    f"assert abs(final - wanted).max() <= {RTOL} * abs(wanted).max()",
                    **options,
                ),
            )


# A flag, the call with it, and what that must equal, as an expression of the call
# without any flag: `final, full = model.forward_intermediates(x)`.
Flag = tuple[str, dict[str, Any], str]


def _plain_flags(depth: int) -> list[Flag]:
    only = {"intermediates_only": True}
    both = "{'image_intermediates': full, 'image_features': final}"
    flags: list[Flag] = [
        ("intermediates_only", only, "full"),
        ("output_dict", {"output_dict": True}, both),
        ("output_dict", {"output_dict": True} | only, "{'image_intermediates': full}"),
    ]
    for index in {0, depth // 2, depth - 1}:
        for given in (index, index - depth):
            call = {"indices": [given]} | only
            flags.append(("indices", call, f"[full[{index}]]"))
            flags.append(
                ("stop_early", call | {"stop_early": True}, f"[full[{index}]]")
            )
    for count in {1, depth}:
        flags.append(("indices", {"indices": count} | only, f"full[-{count}:]"))
    return flags


@check(
    "each flag of forward_intermediates gives what the call without it does (timm's "
    "stop early and indices decide which block is the last to run)"
)
def intermediates_flags_agree(subject: Subject) -> Iterator[Finding | Skip]:
    """indices, stop_early, intermediates_only, output_dict: the same numbers."""
    name = "intermediates_flags_agree"
    for found in _models(subject, "forward_intermediates", name):
        if isinstance(found, Skip):
            yield found
            return
        options, model = found
        known = _flags(model)
        final, full = _call(subject, model)
        absent = set()
        for flag, call, text in _plain_flags(len(full)):
            if not known >= call.keys():
                absent.add(flag)
                continue
            try:
                told = _call(subject, model, **call)
            except Exception as error:
                what = f"fails: {type(error).__name__}: {error}"
            else:
                if _alike(told, eval(text, {"final": final, "full": full})):
                    continue
                what = f"does not give {text} of the call without it"
            written = ", ".join(f"{k}={v!r}" for k, v in call.items())
            yield Finding(
                name,
                "A" if "does not" in what else "B",
                f"forward_intermediates({written}) {what}",
                subject.snippet(
                    *ALIKE,
                    "final, full = model.forward_intermediates(x)",
                    f"told = model.forward_intermediates(x, {written})",
                    f"assert alike(told, {text})",
                    **options,
                ),
            )
        if absent and not options:
            yield Skip(name, f"the class has no {', '.join(sorted(absent))}")


ALIKE = [
    "def alike(one, other):",
    "    if isinstance(one, dict):",
    "        same = one.keys() == other.keys()",
    "        return same and all(alike(one[k], other[k]) for k in one)",
    "    if isinstance(one, (list, tuple)):",
    "        return len(one) == len(other) and all(map(alike, one, other))",
    "    same = one.shape == other.shape",
    f"    return same and abs(one - other).max() <= {RTOL} * abs(other).max()",
    "",
]


@check(
    "return_prefix_tokens gives pairs where there are prefix tokens and plain maps "
    "where there are none (timm's Eva and relative position ViTs fail without a class "
    "token)"
)
def prefix_tokens_come_with_intermediates(subject: Subject) -> Iterator[Finding | Skip]:
    """(map, prefix) of each block, or the maps alone; never an accident."""
    name = "prefix_tokens_come_with_intermediates"
    for found in _models(subject, "forward_intermediates", name):
        if isinstance(found, Skip):
            yield found
            return
        options, model = found
        if "return_prefix_tokens" not in _flags(model):
            yield Skip(name, "the class has no return_prefix_tokens")
            return
        prefix = int(getattr(model, "num_prefix_tokens", 0))
        _, full = _call(subject, model)
        try:
            _, pairs = _call(subject, model, return_prefix_tokens=True)
        except Exception as error:
            yield Finding(
                name,
                "B",
                f"with {prefix} prefix tokens, forward_intermediates("
                f"return_prefix_tokens=True) fails: {type(error).__name__}: {error}",
                subject.snippet(
                    "model.forward_intermediates(x, return_prefix_tokens=True)",
                    **options,
                ),
            )
            continue
        maps = [pair[0] if isinstance(pair, tuple) else pair for pair in pairs]
        tokens = [np.shape(pair[1]) for pair in pairs if isinstance(pair, tuple)]
        wanted = [(2, prefix, np.shape(m)[1]) for m in full] if prefix else []
        if not _alike(maps, full) or (tokens != wanted and any(t[1] for t in tokens)):
            yield Finding(
                name,
                "A",
                f"with {prefix} prefix tokens, return_prefix_tokens=True gives prefix "
                f"tokens {tokens}, or other maps than without it",
                subject.snippet(
                    *ALIKE,
                    "full = model.forward_intermediates(x)[1]",
                    "call = model.forward_intermediates",
                    "pairs = call(x, return_prefix_tokens=True)[1]",
                    "maps = [p[0] if type(p) is tuple else p for p in pairs]",
                    "assert alike(maps, full)",
                    "pairs = [p for p in pairs if type(p) is tuple]",
                    f"assert [tuple(p[1].shape) for p in pairs] == {wanted}",
                    **options,
                ),
            )


@check(
    "the formats of intermediates are one another's, transposed (a map that is "
    "reshaped and not transposed has the right shape where it is square)"
)
def intermediates_formats_agree(subject: Subject) -> Iterator[Finding | Skip]:
    """'NCHW', 'NHWC' and 'NLC', those that the class takes."""
    name = "intermediates_formats_agree"
    for found in _models(subject, "forward_intermediates", name):
        if isinstance(found, Skip):
            yield found
            return
        options, model = found
        told = {}
        for fmt in ("NCHW", "NHWC", "NLC"):
            try:
                told[fmt] = _call(
                    subject, model, output_fmt=fmt, intermediates_only=True
                )
            except REFUSALS:
                continue
            except Exception as error:
                yield Finding(
                    name,
                    "B",
                    f"output_fmt={fmt!r} fails: {type(error).__name__}: {error}",
                    subject.snippet(
                        f"model.forward_intermediates(x, output_fmt={fmt!r})", **options
                    ),
                )
        if len(told) < 2 and not options:
            yield Skip(
                name, f"the class takes {' and '.join(told) or 'no'} format alone"
            )
            continue
        first, *rest = told
        for fmt in rest:
            if not _alike(
                [_tokens(m, fmt) for m in told[fmt]],
                [_tokens(m, first) for m in told[first]],
            ):
                shapes = [np.shape(_tokens(told[f][0], f)) for f in (first, fmt)]
                yield Finding(
                    name,
                    "A" if shapes[0] == shapes[1] else "C",
                    f"output_fmt={fmt!r} is not output_fmt={first!r} in another order",
                    subject.snippet(
                        f"a = model.forward_intermediates(x, output_fmt={first!r})[1]",
                        f"b = model.forward_intermediates(x, output_fmt={fmt!r})[1]",
                        "for one, other in zip(a, b):",
                        f"    one, other = {_TOKENS[first].format('one')}, "
                        f"{_TOKENS[fmt].format('other')}",
                        "    assert one.shape == other.shape",
                        f"    assert abs(one - other).max() <= {RTOL} * abs(one).max()",
                        **options,
                    ),
                )


# A map in each format as (B, N, C), written for torch and NumPy alike.
_TOKENS = {
    "NCHW": "{0}.reshape(*{0}.shape[:2], -1).swapaxes(1, 2)",
    "NHWC": "{0}.reshape({0}.shape[0], -1, {0}.shape[-1])",
    "NLC": "{0}",
}


def _tokens(value: Any, fmt: str) -> Any:
    value = np.asarray(value)
    if fmt == "NCHW" and value.ndim > 2:
        return value.reshape(*value.shape[:2], -1).swapaxes(1, 2)
    if fmt == "NHWC":
        return value.reshape(value.shape[0], -1, value.shape[-1])
    return value


@check(
    "norm=True normalises the intermediates as the end of the model does (the last of "
    "them is the features of forward_features)"
)
def normalised_intermediates_end_in_the_features(
    subject: Subject,
) -> Iterator[Finding | Skip]:
    """The last intermediate with norm=True is what the model ends in."""
    name = "normalised_intermediates_end_in_the_features"
    for found in _models(subject, "forward_intermediates", name):
        if isinstance(found, Skip):
            yield found
            return
        options, model = found
        if "norm" not in _flags(model):
            yield Skip(name, "the class has no norm flag")
            return
        try:
            final, maps = _call(subject, model, norm=True)
        except REFUSALS as error:
            yield Skip(name, f"norm=True is refused: {error}")
            continue
        except Exception as error:
            yield Finding(
                name,
                "B",
                f"norm=True fails: {type(error).__name__}: {error}",
                subject.snippet("model.forward_intermediates(x, norm=True)", **options),
            )
            continue
        if isinstance(final, (tuple, list)) or not hasattr(model, "norm"):
            yield Skip(name, "the class has several outputs, or no norm at its end")
            return
        prefix = int(getattr(model, "num_prefix_tokens", 0))
        last, final = _tokens(maps[-1], "NCHW"), np.asarray(final)
        if final.ndim == 3 and final.shape[1] == last.shape[1] + prefix:
            final = final[:, prefix:]
        elif final.ndim == 4:
            fmt = "NCHW" if final.shape[1] == last.shape[-1] else "NHWC"
            final = _tokens(final, fmt)
        if final.shape != last.shape:
            yield Skip(name, "the last intermediate is not of the features' size")
        elif not _alike(last, final):
            yield Finding(
                name,
                "A",
                "the last intermediate with norm=True is not the features",
                subject.snippet(
                    *subject.drawing(),
                    "final, maps = model.forward_intermediates(x, norm=True)",
                    f"last = {_TOKENS['NCHW'].format('maps[-1]')}",
                    *_as_tokens(prefix),
                    f"assert abs(last - final).max() <= {RTOL} * abs(final).max()",
                    **options,
                ),
            )


def _as_tokens(prefix: int) -> list[str]:
    return [
        "if final.ndim == 4 and final.shape[1] == last.shape[-1]:",
        f"    final = {_TOKENS['NCHW'].format('final')}",
        f"final = final.reshape(2, -1, final.shape[-1])[:, {prefix}:]",
    ]


@check(
    "feature_info tells channels, reduction and the module of every intermediate "
    "(features_only and detectors size what follows by it)"
)
def feature_info_tells_the_intermediates(subject: Subject) -> Iterator[Finding | Skip]:
    """num_chs and reduction are those of the maps; the modules are there."""
    name = "feature_info_tells_the_intermediates"
    model = subject.build()
    info = getattr(model, "feature_info", None)
    if info is None:
        yield Skip(name, "the class has no feature_info")
        return
    rows = list(info.get_dicts() if hasattr(info, "get_dicts") else info)
    modules = subject.kind.modules(model)
    if len(modules) > 1:
        lost = [row["module"] for row in rows if row.get("module", "") not in modules]
        if lost:
            yield Finding(
                name,
                "B",
                f"feature_info names modules that are not there: {', '.join(lost[:3])}",
                subject.snippet(
                    "names = dict(model.named_modules())",
                    "rows = model.feature_info",
                    "rows = rows.get_dicts() if hasattr(rows, 'get_dicts') else rows",
                    "assert all(row['module'] in names for row in rows)",
                ),
            )
    if not hasattr(model, "forward_intermediates"):
        yield Skip(name, "the class has no forward_intermediates to compare with")
        return
    maps = _call(subject, model, intermediates_only=True)
    if len(maps) != len(rows):
        yield Finding(
            name,
            "C",
            f"feature_info has {len(rows)} entries for {len(maps)} intermediates",
            subject.snippet(
                "maps = model.forward_intermediates(x, intermediates_only=True)",
                "assert len(maps) == len(model.feature_info)",
            ),
        )
        return
    height = subject.input_size[1]
    for index, (row, value) in enumerate(zip(rows, maps, strict=True)):
        shape = np.shape(value)
        told = (row["num_chs"], row["reduction"])
        side = told[1][0] if isinstance(told[1], (tuple, list)) else told[1]
        if shape[1] == told[0] and _is_reduced(subject, model, index, shape, int(side)):
            continue
        yield Finding(
            name,
            "C",
            f"intermediate {index} is {shape} of pictures {height} high, and "
            f"feature_info tells {told[0]} channels at a reduction of {told[1]}",
            subject.snippet(
                f"value = model.forward_intermediates(x)[1][{index}]",
                f"row = list(model.feature_info)[{index}]",
                "assert value.shape[1] == row['num_chs'], (value.shape, row)",
                "height, side = x.shape[2], row['reduction']",
                "heights = height // side, -(-height // side)",
                "assert value.shape[2] in heights, (value.shape, row)",
            ),
        )
        return


def _is_reduced(
    subject: Subject, model: Any, index: int, shape: tuple[int, ...], side: int
) -> bool:
    """Whether a map has that reduction: by its height, or by how it grows.

    Convolutions without padding leave maps smaller than the pictures divided by it.
    """
    count, chans, height, width = subject.images().shape
    if shape[2] in (height // side, -(-height // side)):
        return True
    taller = np.zeros((count, chans, height + 4 * side, width), np.float32)
    try:
        maps = subject.call(
            model, "forward_intermediates", taller, intermediates_only=True
        )
    except Exception:  # a size that is fixed: the nearest power of two
        return 2**-0.5 < height / shape[2] / side < 2**0.5
    return bool(np.shape(maps[index])[2] == shape[2] + 4)
