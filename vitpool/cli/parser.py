# SPDX-License-Identifier: Apache-2.0
"""argparse, but that the error comes first, and near words and examples are shown."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..text import did_you_mean
from .errors import CANNOT, say


class _Formatter(argparse.HelpFormatter):
    """A usage of what must be there, and texts of several paragraphs, one a line.

    A line that is indented stays as it is.
    """

    def add_usage(
        self, usage: Any, actions: Any, groups: Any, prefix: str | None = None
    ) -> None:
        """As argparse, but that all other options are one word; they come below."""
        needed = [a for a in actions if a.required or not a.option_strings]
        self._prog += " [options]"
        super().add_usage(usage, needed, (), prefix)

    def add_argument(self, action: argparse.Action) -> None:
        """As argparse, which forgets that the names of commands are indented."""
        super().add_argument(action)
        if action.nargs == argparse.PARSER:
            self._action_max_length += self._indent_increment

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n".join(
            line if line.startswith("  ") else fill(line, width, indent)
            for line in text.splitlines()
        )


class Parser(argparse.ArgumentParser):
    """A parser of the command, or of one of its commands.

    examples: command lines for the end of the help.
    """

    def __init__(
        self, *args: Any, examples: Sequence[str] = (), **options: Any
    ) -> None:
        if examples:
            options["epilog"] = "\n  ".join(["examples:", *examples])
        options["formatter_class"] = _Formatter
        super().__init__(*args, **options)
        self.examples = tuple(examples)
        self.commands: Any = None
        self._mixing = False

    def add_subparsers(self, **options: Any) -> Any:
        """As argparse; `commands` is what it gives, with the parsers as `choices`."""
        self.commands = super().add_subparsers(prog=self.prog, **options)
        return self.commands

    def options(self) -> list[argparse.Action]:
        """Those that begin with a dash."""
        return [action for action in self._actions if action.option_strings]

    def positionals(self) -> list[argparse.Action]:
        """The others."""
        return [action for action in self._actions if not action.option_strings]

    def error(self, message: str) -> NoReturn:
        """What is wrong, and where the usage is told; exit code 2."""
        message = message.removeprefix("argument ")
        say(message.replace("the following arguments are required:", "missing:"))
        say(f"see `{self.prog} --help`")
        self.exit(CANNOT)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action,
                f"{value!r}, allowed are {', '.join(names)}"
                + did_you_mean(str(value), names),
            )

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse, but that an option or argument too many is an error here.

        The parser that has seen all of them knows which ones there could be. That of a
        command takes arguments before, between and after its options, or the rest of
        them behind `--`; the result has it as `parser`, and what it was given as
        `words`.
        """
        words = sys.argv[1:] if args is None else list(args)
        if self._mixing:
            return super().parse_known_args(words, namespace)
        for word in words:
            if word == "--" or (self.commands and not word.startswith("-")):
                break  # the rest is no option, or the command's own
            self._check_option(word)
        if self.commands:
            return super().parse_known_args(words, namespace)
        if "--" in words:  # lost on the other way
            found, more = super().parse_known_args(words, namespace)
        else:
            self._mixing = True  # what follows comes here again, twice
            try:
                found, more = self.parse_known_intermixed_args(words, namespace)
            finally:
                self._mixing = False
        if more:
            self.error(f"unexpected: {' '.join(more)}")
        found.parser, found.words = self, words
        return found, []

    def _check_option(self, word: str) -> None:
        """An error where a word can be no option of ours, nor a number or a text."""
        name = word.partition("=")[0]
        if not re.match(r"--?[^\W\d]", name) or " " in word:
            return
        known = list(self._option_string_actions)
        short = not name.startswith("--") and name[:2] in known  # -j2
        if not short and not any(option.startswith(name) for option in known):
            self.error(f"{name}: no such option{did_you_mean(name, known)}")

    def name_option(self, text: str, args: argparse.Namespace) -> str:
        """An error of the library, by the option that brought what is wrong."""
        found = re.match(r"(\w+)(?=:| must | \()", text)
        for option in self.options():
            given = getattr(args, option.dest, option.default) != option.default
            if found and option.dest == found[1] and given:
                return f"--{option.dest.replace('_', '-')}{text[found.end() :]}"
        return text
