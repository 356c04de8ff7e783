# SPDX-License-Identifier: Apache-2.0
"""`vitpool completion`: a script that completes the command in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Any

from ..config import DTYPES
from .errors import OK
from .parser import Parser
from .progress import print_text


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "completion",
        help="print a script that completes the command in a shell",
        description="Print a script that completes commands, options, their values and "
        "models.\nThe line for your shell goes into its startup file.",
        examples=[
            'eval "$(vitpool completion bash)"',
            'eval "$(vitpool completion zsh)"',
            "vitpool completion fish | source",
        ],
    )
    sub.add_argument("shell", choices=("bash", "zsh", "fish"), help="what reads it")
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from ..registry import list_models
    from .command import build_parser

    parsers: dict[str, Parser] = build_parser().commands.choices
    lines = _fish if args.shell == "fish" else _bash
    if args.shell == "zsh":  # which runs what is written for bash
        print_text("autoload -Uz compinit bashcompinit && compinit && bashcompinit")
    for line in lines(parsers, " ".join(list_models())):
        print_text(line)
    return OK


_MODELS = ("model", "reference", "candidate")


def _values(action: argparse.Action, models: str) -> str:
    """The words that a value is one of; '' where it may be another, as a file."""
    return models if action.dest in _MODELS else " ".join(_choices(action))


def _choices(action: argparse.Action) -> Iterable[str]:
    """All that a value may be; the library, not argparse, refuses another dtype."""
    return action.choices or (DTYPES if action.dest == "dtype" else ())


def _bash(parsers: dict[str, Parser], models: str) -> Iterator[str]:
    """Where the function has no words for a place, the shell offers files."""
    yield "_vitpool() {"
    yield "    local word command= offer="
    yield f'    local models="{models}"'
    yield '    local now="${COMP_WORDS[COMP_CWORD]}"'
    yield '    local before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield '    for word in "${COMP_WORDS[@]:1:$((COMP_CWORD-1))}"; do'
    yield f'        case "$word" in {"|".join(parsers)}) command="$word"; break ;; esac'
    yield "    done"
    yield '    case "$command $before $now" in'
    for name, parser in parsers.items():
        for option in parser.options():
            words = _values(option, "$models")
            names = "|".join(f'"{name} {text} "*' for text in option.option_strings)
            if option.nargs != 0:
                yield f'        {names}) offer="{words}" ;;'
        options = " ".join(t for o in parser.options() for t in o.option_strings)
        yield f'        "{name} "*" -"*) offer="{options}" ;;'
        words = next((_values(p, "$models") for p in parser.positionals()), "")
        if words:
            yield f'        "{name} "*) offer="{words}" ;;'
    yield f'        " "*) offer="{" ".join(parsers)} --help --version" ;;'
    yield "    esac"
    yield '    COMPREPLY=($(compgen -W "$offer" -- "$now"))'
    yield "}"
    yield "complete -o default -F _vitpool vitpool"


def _fish(parsers: dict[str, Parser], models: str) -> Iterator[str]:
    """One `complete` for each command and option."""
    for name, parser in parsers.items():
        about = _quoted((parser.description or "").partition("\n")[0])
        yield f"complete -c vitpool -n __fish_use_subcommand -fa {name} -d {about}"
        here = f"complete -c vitpool -n '__fish_seen_subcommand_from {name}'"
        for option in parser.options():
            texts = [
                f"-l {text[2:]}" if text.startswith("--") else f"-s {text[1:]}"
                for text in option.option_strings
            ]
            words = _values(option, models)
            value = "" if option.nargs == 0 else " -x" if _choices(option) else " -r"
            value += f" -a '{words}'" if words else ""  # -r: or a file, -x: or none
            about = _quoted(option.help or "")
            yield f"{here} {' '.join(texts)}{value} -d {about}"
        words = next((_values(p, models) for p in parser.positionals()), "")
        if words:
            only = "-fa" if parser.positionals()[0].choices else "-a"  # or a file
            yield f"{here} {only} '{words}'"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
