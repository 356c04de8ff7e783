# SPDX-License-Identifier: Apache-2.0
"""The command's help: examples that are right, and completion in a shell."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import SAMPLES, run

import vitpool
from vitpool import cli

PARSERS = cli.build_parser().commands.choices
EXAMPLES = [(name, line) for name in PARSERS for line in PARSERS[name].examples]


@pytest.mark.parametrize("name", PARSERS)
def test_every_help_ends_in_examples(capsys, name) -> None:
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    *_, end = out.partition("\nexamples:\n")
    assert tuple(line.strip() for line in end.splitlines()) == PARSERS[name].examples
    assert PARSERS[name].examples
    assert PARSERS[name].description
    assert out.startswith(f"usage: vitpool {name} [options]")
    assert max(map(len, out.splitlines())) <= 80
    for action in [*PARSERS[name].options(), *PARSERS[name].positionals()]:
        assert action.help, f"{action.dest} has no help"
    for option in PARSERS[name].options():  # an error names an option by this
        assert f"--{option.dest.replace('_', '-')}" in option.option_strings


@pytest.mark.parametrize(("name", "line"), EXAMPLES, ids=[e[1] for e in EXAMPLES])
def test_an_example_can_be_parsed(name, line) -> None:
    found = re.search(r"vitpool ([^|)]+)", line)
    assert found
    args = cli.build_parser().parse_args(shlex.split(found[1]))
    assert args.command == name
    for model in (getattr(args, "model", "vit_digits"), getattr(args, "arch", None)):
        assert model is None or vitpool.is_model(model) or model.endswith(".npz")


def test_an_example_of_a_pipe_works(tmp_path) -> None:
    """In a shell, with the command's own name."""
    (line,) = [line for name, line in EXAMPLES if name == "classify" and "find" in line]
    (tmp_path / "photos").mkdir()
    (tmp_path / "bin").mkdir()
    odd = tmp_path / "photos" / "a\nb.jpg"
    shutil.copy(SAMPLES[0], odd)
    command = tmp_path / "bin" / "vitpool"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vitpool "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f'PATH="{tmp_path}/bin:$PATH"; {line} -q'],
        cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(vitpool.__path__[0]).parent)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(r"photos/a\nb.jpg")


# ------------------------------------------------------------------------ completion


@pytest.fixture(scope="module")
def bash() -> str:
    return script("bash")


def script(shell: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(["completion", shell]) == 0
    return out.getvalue()


def offered(bash: str, line: str) -> list[str]:
    """What bash's function offers for the last word of a line."""
    words = " ".join(f"'{word}'" for word in line.split(" "))
    program = (
        f"{bash}\nCOMP_WORDS=({words}); COMP_CWORD={line.count(' ')}; _vitpool\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-u"], input=program, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_bash_completes_all_there_is(bash) -> None:
    assert offered(bash, "vitpool ") == [*PARSERS, "--help", "--version"]
    assert offered(bash, "vitpool cl") == ["classify"]
    for name, parser in PARSERS.items():
        options = [text for o in parser.options() for text in o.option_strings]
        assert offered(bash, f"vitpool {name} -") == options
        for option in parser.options():
            for text in option.option_strings if option.choices else ():
                assert offered(bash, f"vitpool {name} {text} ") == list(option.choices)
    assert offered(bash, "vitpool classify photo.jpg --crop-mode sq") == ["squash"]
    assert offered(bash, "vitpool classify -m vit_dig") == ["vit_digits"]
    assert offered(bash, "vitpool info --model ") == vitpool.list_models()
    assert offered(bash, "vitpool completion ") == ["bash", "zsh", "fish"]
    # files: nothing of ours, so that the shell offers them
    for line in (
        "vitpool classify ",
        "vitpool embed photos -o ",
        "vitpool list --pretrained ",
    ):
        assert offered(bash, line) == []
    assert "complete -o default -F _vitpool vitpool" in bash


def test_zsh_runs_the_same() -> None:
    first, rest = script("zsh").split("\n", 1)
    assert first.endswith("bashcompinit")
    assert rest == script("bash")


def test_fish_has_a_line_for_each_option() -> None:
    lines = script("fish").splitlines()
    for name, parser in PARSERS.items():
        own = [line for line in lines if f"_from {name}'" in line]
        for option in parser.options():
            (line,) = [
                line
                for line in own
                if all(
                    f" -{'l' if text[:2] == '--' else 's'} {text.lstrip('-')} " in line
                    for text in option.option_strings
                )
            ]
            words = shlex.split(line.replace("\\'", "’"))
            assert words[-2] == "-d"
            assert words[-1] == (option.help or "").replace("'", "’")
            assert (" -r" in line or " -x" in line) == (option.nargs != 0)
