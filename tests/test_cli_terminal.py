# SPDX-License-Identifier: Apache-2.0
"""The command on a terminal: a bar and a result never share a line."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from terminal import EAGER, on_terminal, seen
from test_cli import DEFAULT, EMBED, SAMPLES, needs_pyarrow

ROOT = Path(__file__).resolve().parents[1]
BAR = re.compile(r"\d+%|\d+picture|picture/s|s/picture|\d+/\d+ \[")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, and one that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        shutil.copy(SAMPLES[number % 10], folder / f"{number}.png")
    (folder / "none.png").write_bytes(b"none")
    return folder


def apart(line: str) -> None:
    """A line is a bar or something of ours, not both."""
    ours = "vitpool: " in line or ".png" in line or "scanned digit" in line
    assert not (BAR.search(line) and ours), line


def test_the_demo_is_clean_on_a_terminal(tmp_path) -> None:
    """The commands of `make demo`, as they stand in the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.split("\ndemo:")[1].split("\n\n")[0]
    commands = re.findall(r"\$\(BIN\)/vitpool (.+)", recipe)
    assert [line.split()[0] for line in commands] == ["classify", "attention"]
    for line in commands:
        words: list[object] = []
        for word in line.replace("$(firstword $(SAMPLES))", "FIRST").split():
            words += {"$(SAMPLES)": SAMPLES, "FIRST": SAMPLES[:1]}.get(word, [word])
        if "-o" in words:
            words[words.index("-o") + 1] = tmp_path / "attention.png"
        code, got = on_terminal(*words)
        assert code == 0
        assert "\r" not in got.replace("\r\n", "\n")  # too quick for a bar
        assert got.splitlines()[0] == DEFAULT
        assert not BAR.search(got.replace("%  ", ""))
        if words[0] == "classify":
            lines = [line for line in got.splitlines() if not line.startswith("  ")]
            assert lines[1:] == list(map(str, SAMPLES))
        else:
            assert got.splitlines()[1:] == [str(tmp_path / "attention.png")]


@pytest.mark.parametrize("columns", [200, 40])
def test_a_bar_goes_before_a_result_comes(pictures, columns) -> None:
    argv = ["classify", str(pictures), "-b", "2", "--topk", "1"]
    code, got = on_terminal(*argv, command=EAGER, columns=columns)
    assert code == 1
    bars = []
    lines = seen(got, lambda line: (apart(line), bars.append(BAR.search(line))))
    assert any(bars)
    # what stays is what there is without a bar
    _, plain = on_terminal(*argv, TERM="dumb")
    assert lines == plain.splitlines()


def test_a_bar_is_there_while_results_go_to_a_file(pictures, tmp_path) -> None:
    out = tmp_path / "out.jsonl"
    argv = ["classify", pictures, "--json", "-b", 2]
    with open(out, "wb") as file:
        code, got = on_terminal(*argv, command=EAGER, stdout=file)
    assert code == 1
    assert BAR.search(got)
    assert seen(got, apart) == [
        DEFAULT,
        f"vitpool: {pictures}/none.png: not a picture that Pillow can read; skipped",
    ]
    assert len([json.loads(line) for line in out.read_text().splitlines()]) == 13


def test_no_bar_beside_what_another_program_prints(pictures) -> None:
    """`vitpool classify ... | cat`: cat writes to our terminal when it likes."""
    reader, writer = os.pipe()
    argv = ["classify", pictures, "--topk", 1]
    with os.fdopen(reader), os.fdopen(writer, "wb") as file:
        code, got = on_terminal(*argv, command=EAGER, stdout=file)
    assert code == 1
    assert "\r" not in got.replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("more", "environment"), [(["-q"], {}), ([], {"TERM": "dumb"})]
)
def test_no_bar_where_none_is_wanted(pictures, more, environment) -> None:
    argv = ["classify", pictures, "--topk", 1, *more]
    code, got = on_terminal(*argv, command=EAGER, **environment)
    assert code == 1
    assert "\r" not in got.replace("\r\n", "\n")
    assert (DEFAULT in got) == (not more)


@pytest.mark.parametrize("command", ["classify", EMBED])
def test_an_error_does_not_share_the_bars_line(pictures, tmp_path, command) -> None:
    argv = [command, pictures, "-b", 2, "--strict"]
    argv += ["-o", tmp_path / "out"] if command == "embed" else []
    code, got = on_terminal(*argv, command=EAGER)
    assert code == 1
    assert BAR.search(got)
    assert seen(got, apart)[-1].startswith(f"vitpool: {pictures}/none.png: ")


def test_a_warning_is_a_line_of_ours(tmp_path) -> None:
    argv = ["convert", "-o", tmp_path / "out", "--num-classes", 3, "--new-head"]
    code, got = on_terminal(*argv, "-m", "vit_digits", "--gp", "avg")
    assert code == 0
    said = got.splitlines()
    assert "vitpool: the head of 3 classes is new and untrained" in said
    assert all(line.startswith("vitpool: ") for line in said[:-1])
    assert said[-1] == str(tmp_path / "out")


# ------------------------------------------------------------------------ Ctrl-C


@pytest.fixture
def waiting(pictures: Path, tmp_path: Path) -> Iterator[tuple[Path, Callable[[], Any]]]:
    """The same pictures, but the tenth comes through a pipe, when it is asked for."""
    folder = tmp_path / "waiting"
    shutil.copytree(pictures, folder)
    (folder / "9.png").unlink()
    os.mkfifo(folder / "9.png")
    with open(folder / "9.png", "r+b", buffering=0) as pipe:

        def go_on() -> None:
            pipe.write(SAMPLES[9].read_bytes())
            pipe.close()

        yield folder, go_on


@needs_pyarrow
def test_what_is_done_stays_when_interrupted(waiting, pictures, tmp_path) -> None:
    import pyarrow.parquet as pq

    folder, go_on = waiting
    out = tmp_path / "out"
    argv = ["embed", folder, "-o", out, "-b", 1, "--part-size", 4, "-j", 1]
    keys = {"interrupt_at": "9/13", "then": go_on}
    code, got = on_terminal(*argv, command=EAGER, **keys)
    assert code == 130
    assert seen(got, apart)[-1] == (
        f"vitpool: interrupted; what is done is in {out}: the same command goes on"
    )
    (folder / "9.png").unlink()
    shutil.copy(pictures / "9.png", folder)
    code, got = on_terminal(*argv)
    assert code == 1
    assert "vitpool: 13 pictures, 8 of them from before, 1 not readable" in got
    parts = [pq.read_metadata(part).num_rows for part in out.glob("part-*")]
    assert sum(parts) == 13


def test_an_interrupted_list_of_results_ends_in_a_line(waiting) -> None:
    folder, go_on = waiting
    argv = ["classify", folder, "-b", 1, "-j", 1]
    keys = {"interrupt_at": "8.png", "then": go_on}
    code, got = on_terminal(*argv, command=EAGER, **keys)
    assert code == 130
    assert seen(got, apart)[-1] == "vitpool: interrupted"
