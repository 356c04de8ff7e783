# SPDX-License-Identifier: Apache-2.0
"""The folder of a training run: whose it is, and where one that was stopped goes on.

`finetune.json` tells the run: what its result depends on, and whether it is done. What
is needed to go on lies in `.finetune/`, which is gone when the run is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import locked, replacing, sync
from ..text import some
from .errors import UsageError

TOLD, STATE = "finetune.json", ".finetune"
# What a run leaves. The first makes it a model's folder: it goes first and comes last.
RESULTS = (
    *("config.json", "model.safetensors", "history.csv", "validation.csv"),
    *("report.html", "report"),
)
# As `replacing` and `save_pretrained` name what they are writing.
_HALF = re.compile(
    r"\.((config|model|old)\.\d+|finetune\.json|\w+\.csv|report\.html)\.tmp"
)
_INSTEAD = "give another -o, or --overwrite to replace it"


class RunFolder:
    """The folder of -o, beside the run that is asked for.

    identity: all that the weights depend on, by name, as JSON has it. overwrite: the
    run may take the place of another one, or of itself where it is done.

    Making one only looks. UsageError: the folder is another run's, or no run's;
    NotADirectoryError, PermissionError: it cannot be written to.
    """

    def __init__(
        self, path: str, identity: Mapping[str, Any], overwrite: bool = False
    ) -> None:
        self.path = Path(path)
        self.identity = json.loads(json.dumps(identity))
        self.done = False  # the same run is there, and has ended
        self.told: dict[str, Any] | None = None  # of the same run, if it is there
        _check_place(self.path)
        self._seen = there = self._read()
        if there is None:
            found = [name for name in RESULTS if (self.path / name).exists()]
            if found and not overwrite:
                raise UsageError(
                    f"{path}: has {some(found)}, of no `vitpool finetune`: {_INSTEAD}"
                )
        elif differ := _differences(there.get("identity", {}), self.identity):
            if not overwrite:
                raise UsageError(
                    f"{path}: holds another run, with other {some(differ)}: {_INSTEAD}"
                )
        elif not (overwrite and there.get("done")):
            self.told, self.done = there, bool(there.get("done"))
        self.resumed = self.told is not None and not self.done

    @property
    def state(self) -> Path:
        """The folder of what is needed to go on."""
        return self.path / STATE

    @contextlib.contextmanager
    def held(self, told: Mapping[str, Any]) -> Iterator[None]:
        """The folder made ours for the time of the run; ValueError: another one's.

        told: what else to note of a run that begins; one that goes on has its own.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.state.mkdir(exist_ok=True)
        with locked(self.state):
            if self._read() != self._seen:
                raise UsageError(f"{self.path}: another run was there meanwhile")
            if self.told is None:
                # in this order: what is left of another run is never taken for ours
                for path in self.state.iterdir():
                    if path.name != ".lock":
                        _remove(path)
                self._write({**told, "identity": self.identity, "done": False})
            for name in RESULTS:  # of another run, or half of ours
                _remove(self.path / name)
            for path in self.path.glob(".*.tmp"):  # what a kill left half written
                if _HALF.fullmatch(path.name):
                    path.unlink()
            yield

    def finish(self, result: Mapping[str, Any]) -> None:
        """Note that all is done, and what came out of it."""
        assert self.told is not None
        self._write({**self.told, "done": True, "result": dict(result)})
        shutil.rmtree(self.state, ignore_errors=True)

    def _read(self) -> dict[str, Any] | None:
        path = self.path / TOLD
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
            told = None
        if not isinstance(told, dict) or not isinstance(told.get("identity"), dict):
            raise UsageError(f"{path}: not of `vitpool finetune`; give another -o")
        return told

    def _write(self, told: dict[str, Any]) -> None:
        with replacing(self.path / TOLD) as file:
            file.write(json.dumps(told, indent=2).encode() + b"\n")
        sync(self.path)
        self.told = told


def _check_place(path: Path) -> None:
    """An error where a folder can neither be nor be made."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path}: is a file; -o names a folder")
    above = path.absolute()
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise NotADirectoryError(f"{path}: {above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: no permission to write in {above}")


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs, by name, with both values where they are short."""
    found = []
    for name in {**here, **there}:
        old, new = there.get(name), here.get(name)
        if old != new:
            short = all(
                isinstance(value, (int, float, bool, type(None)))
                or (isinstance(value, str) and len(value) <= 24 and value.isascii())
                for value in (old, new)
            )
            digests = name in ("weights", "pictures", "val")  # which say nothing
            words = name.replace("_", " ")
            shown = f" ({_word(old)}, now {_word(new)})"
            found.append(words + shown * (short and not digests))
    return found


def _word(value: Any) -> str:
    return "none" if value is None else str(value)


def _remove(path: Path) -> None:
    """A file or a folder, where it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
