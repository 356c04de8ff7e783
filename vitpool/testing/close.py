# SPDX-License-Identifier: Apache-2.0
"""Two models held to each other, as numpy.testing and torch.testing hold arrays."""

from __future__ import annotations

from typing import Any

from .comparison import compare


def assert_models_close(
    actual: Any,
    desired: Any,
    images: Any = None,
    *,
    rtol: float | None = None,
    atol: float = 0.0,
    float64: bool = False,
    isolate: bool = False,
    err_msg: str = "",
    verbose: bool = True,
) -> None:
    """AssertionError unless two models give the same, stage by stage.

    The error is the Comparison that `compare(desired, actual)` gives. actual, desired:
    whatever `compare` takes, a record too; images, float64 and isolate as there. rtol,
    atol: a stage may differ by atol + rtol * max|desired|; rtol is by default that of
    `compare`. err_msg: said first. verbose: False leaves the error at its first line.
    Raises TypeError and ValueError as `compare` does.
    """
    __tracebackhide__ = True
    comparison = compare(
        desired, actual, images, rtol=rtol, atol=atol, float64=float64, isolate=isolate
    )
    if not comparison.ok:
        said = str(comparison)
        if not verbose:
            said, *_ = said.splitlines()
        raise AssertionError(f"{err_msg}\n{said}".lstrip())
