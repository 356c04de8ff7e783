# SPDX-License-Identifier: Apache-2.0
"""What the fixture `model_regression` gives; the fixture is in pytest_vitpool.py."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .comparison import compare
from .comparison.opened import opened
from .record import Record, record_of
from .records import FACTS, arrays_of, facts_of, open_record

# The records that tests have named after themselves, and which test it was.
_NAMED: pytest.StashKey[dict[Path, str]] = pytest.StashKey()


class ModelRegression:
    """Holds models to their records, which pytest-regressions keeps.

    A record lies where those of its `ndarrays_regression` do, in a folder beside the
    test's file and of its name. Its options are these records' too: `--force-regen`
    writes those anew that are no longer met, `--regen-all` every one.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._own: set[Path] = set()
        try:
            self._arrays = request.getfixturevalue("ndarrays_regression")
        except pytest.FixtureLookupError:
            raise ModuleNotFoundError(
                "model_regression needs pytest-regressions, which is not installed or "
                "switched off: pip install 'vitpool[testing]'"
            ) from None

    def check(
        self,
        model: Any,
        images: Any = None,
        *,
        rtol: float | None = None,
        atol: float = 0.0,
        intermediates: Iterable[int | str] = (),
        basename: str | None = None,
    ) -> None:
        """Fail unless the model gives what its record has, stage by stage.

        The record has the logits, what the head gets, and `intermediates`; its failure
        is a Comparison, which begins with the facts that changed: weights, version,
        target, configuration. Where there is no record it is written, and the test
        fails once.

        model: one of vitpool's, a torch module, or whatever else `compare` takes.
        images: (B, C, H, W), or files, kept in the record; by default
        `testing.images` of the model, of which it keeps the seed. rtol, atol: a stage
        may differ by atol + rtol * max|recorded|; rtol is by default that of `compare`.
        intermediates: blocks by index, from the last where negative, and stages by
        name, as [0, -1, 'norm']. basename: of the record, by default the test's name;
        a second check in one test needs one.
        Raises AssertionError; TypeError and ValueError as `compare` does, for a record
        that cannot be read, and for a name that another record has.
        """
        __tracebackhide__ = True
        path = self._path(basename)
        now = record_of(opened(model), images, intermediates)
        said = ""
        if path.is_file() and not self._request.config.getoption("regen_all"):
            said = _difference(_open(path), now, rtol, atol)
            if not said:
                return
        try:
            # They differ, or there is nothing to differ from: it says so, or writes.
            self._arrays.check(
                {**arrays_of(now), FACTS: facts_of(now)},
                fullpath=path,
                default_tolerance={"rtol": 0, "atol": 0},
            )
        except AssertionError:
            here = os.path.relpath(path)  # as pytest names files
            accept = "--force-regen writes the record anew"
            raise AssertionError(f"not as in {here}\n{said}\n{accept}") from None
        except pytest.fail.Exception as written:
            why = f"{written}\n{said}".rstrip()
            raise pytest.fail.Exception(why, pytrace=False) from None

    def _path(self, basename: str | None) -> Path:
        folder: Path = self._request.getfixturevalue("original_datadir")
        if basename is not None:
            return folder / f"{basename}.npz"
        node = self._request.node
        name = re.sub(r"\W", "_", node.name)
        if node.cls and self._request.config.getoption("with_test_class_names"):
            name = re.sub(r"\W", "_", f"{node.cls.__name__}_{name}")
        path = folder / f"{name}.npz"
        owner = self._request.config.stash.setdefault(_NAMED, {})
        if path in self._own or owner.setdefault(path, node.nodeid) != node.nodeid:
            raise ValueError(
                f"{path.name} is the record of {owner[path]}: give a basename"
            )
        self._own.add(path)
        return path


def _open(path: Path) -> Record:
    try:
        return open_record(path)
    except ValueError as error:
        raise ValueError(f"{error}; --regen-all writes it anew") from None


def _difference(stored: Record, now: Record, rtol: float | None, atol: float) -> str:
    """What is no longer as it was; nothing where it all is."""
    if not np.array_equal(stored.images, now.images, equal_nan=True):
        shapes = f"{now.images.shape}, recorded {stored.images.shape}"
        return f"the pictures are others: {shapes}"
    comparison = compare(stored, now, rtol=rtol, atol=atol)
    return "" if comparison.ok else str(comparison)
