# SPDX-License-Identifier: Apache-2.0
"""Code without its asserts, as `python -O` compiles it, within this process."""

from __future__ import annotations

import functools
import gc
import linecache
from collections.abc import Callable
from types import CodeType, FunctionType, TracebackType

Key = tuple[str, int]  # name, first line: the same with asserts and without


class WithoutAsserts:
    """Calls that an assert refuses, tried again without it.

    Each file whose assert ends a call is compiled anew, and its functions run that code
    until the end of the `with`.
    """

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[FunctionType, CodeType]]] = {}

    def __enter__(self) -> WithoutAsserts:
        return self

    def __exit__(self, *error: object) -> None:
        for kept in self._kept.values():
            for function, code in kept:
                function.__code__ = code

    def refused(self, call: Callable[[], object]) -> bool:
        """Whether a call raises under `python -O` as well.

        Raises:
            OSError: the source of an assert is not there.
        """
        while True:
            try:
                call()
            except AssertionError as error:
                file = _origin(error.__traceback__)
                if file in self._kept:  # raised by hand, not by an assert
                    return True
                self._kept[file] = _optimize(file)
            except Exception:
                return True
            else:
                return False


def _origin(trace: TracebackType | None) -> str:
    """The file that raised."""
    file = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    return file


def _optimize(file: str) -> list[tuple[FunctionType, CodeType]]:
    """Let every function of a file run without its asserts; what each ran before."""
    codes, kept = _compiled(file), []
    for function in gc.get_objects():
        if type(function) is FunctionType and function.__code__.co_filename == file:
            old = function.__code__
            new = codes.get((old.co_name, old.co_firstlineno))
            # What an assert alone takes from around a function is not taken any more.
            if new is not None and new.co_freevars == old.co_freevars:
                kept.append((function, old))
                function.__code__ = new
    return kept


@functools.cache
def _compiled(file: str) -> dict[Key, CodeType]:
    """The code of each function of a file, without asserts."""
    text = "".join(linecache.getlines(file))
    if not text:
        raise OSError(f"there is no source of {file}")
    found: dict[Key, CodeType] = {}
    codes = [compile(text, file, "exec", dont_inherit=True, optimize=1)]
    while codes:
        code = codes.pop()
        if code.co_name != "<lambda>":  # a line may have several; none has an assert
            found[code.co_name, code.co_firstlineno] = code
        codes += [item for item in code.co_consts if isinstance(item, CodeType)]
    return found
