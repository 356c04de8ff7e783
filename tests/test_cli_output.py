# SPDX-License-Identifier: Apache-2.0
"""The command: no option without effect, and nothing printed that a terminal obeys."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import DIGITS, SAMPLES, run

from vitpool import cli

# ------------------------------------------------------------- every option is used


def options_of(*argv: str) -> dict[str, object]:
    return cli.model_arguments(cli.build_parser().parse_args(["info", *argv]))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--crop-pct", "0"], "--crop-pct: 0.0, allowed is above 0"),
        (["--interpolation", ""], "interpolation: ''"),
        (["--std", "0"], "std: "),
        (["--checkpoint", ""], "is a folder; a weights file"),
        (["--arch", ""], "--arch is for a weights file"),
        (["--img-size", "32", "--input-size", "3", "32", "32"], "img_size is given"),
        (["--in-chans", "3", "--input-size", "1", "32", "32"], "in_chans is given"),
        (["--gp", "avg", "--model-kwargs", "global_pool=map"], "by --gp and --model-"),
        (["--num-classes", "3", "--model-kwargs", "num_classes=4"], "num_classes is"),
        (["--dtype", "float32", "--model-kwargs", "dtype=float16"], "dtype is given"),
    ],
)  # fmt: skip
def test_an_option_is_used_or_refused(capsys, argv, words) -> None:
    code, out, err = run(capsys, "classify", SAMPLES[0], *argv)
    assert (code, out) == (2, "")
    assert words in err


def test_what_counts_as_nothing_is_used(capsys) -> None:
    assert options_of("--num-classes", "0")["num_classes"] == 0
    assert options_of("--gp", "")["global_pool"] == ""
    code, black, _ = run(capsys, "classify", SAMPLES[0], "--json", "--mean", 0)
    assert code == 0
    assert black != run(capsys, "classify", SAMPLES[0], "--json")[1]


# ------------------------------------------------------------ what a terminal gets

EVIL = "a\x1b[2J\x07\r\x9b31m\u202eb\n"
SHOWN = r"a\x1b[2J\x07\r\x9b31m\u202eb\n"


@pytest.fixture
def evil(tmp_path: Path) -> tuple[Path, Path]:
    """A model whose texts hold what a terminal obeys, and such a picture's path."""
    folder = tmp_path / "model"
    shutil.copytree(DIGITS, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["label_names"] = [f"{EVIL}{i}" for i in range(10)]
    config["pretrained_cfg"]["license"] = EVIL
    path.write_text(json.dumps(config))
    picture = tmp_path / f"{EVIL}.png"
    shutil.copy(SAMPLES[0], picture)
    return folder, picture


def harmless(text: str) -> bool:
    return all(c == "\n" or (c.isprintable() and c != "\x9b") for c in text)


def test_text_is_free_of_what_a_terminal_obeys(capsys, tmp_path, evil) -> None:
    folder, picture = evil
    bad = tmp_path / f"bad{EVIL}.png"
    bad.write_bytes(b"none")
    code, out, err = run(capsys, "classify", "-m", folder, picture, bad)
    assert code == 1
    assert harmless(out + err)
    assert out.splitlines()[0] == f"{tmp_path}/{SHOWN}.png"
    assert f"  {SHOWN}" in out
    assert f"bad{SHOWN}.png: " in err
    for argv in (
        ["info", "-m", folder],
        ["info", "-m", tmp_path / EVIL],
        ["list", EVIL],
        ["convert", "-o", tmp_path / f"out{EVIL}"],
        ["attention", picture, "-o", tmp_path / f"{EVIL}.png"],
        ["embed", tmp_path / EVIL, "-o", tmp_path / "out"],
        ["embed", bad.parent, "-m", folder, "-o", tmp_path / f"vectors{EVIL}"],
        ["benchmark", "-m", folder, "--num-bench-iter", 1, "--profile"],
    ):
        _, out, err = run(capsys, *argv)
        assert out + err
        assert harmless(out + err), argv
    assert SHOWN in run(capsys, "info", "-m", folder)[1]


def test_json_is_exact_and_free_of_it_too(capsys, evil) -> None:
    folder, picture = evil
    code, out, _ = run(capsys, "classify", "-m", folder, picture, "--json")
    assert code == 0
    assert harmless(out)
    record = json.loads(out)
    assert record["file"] == str(picture)
    assert all(c["label"] == f"{EVIL}{c['index']}" for c in record["classes"])
    about = json.loads(run(capsys, "info", "-m", folder, "--json")[1])
    assert about["license"] == EVIL


def test_a_name_that_is_no_text_is_printed(tmp_path) -> None:
    """Bytes that are no UTF-8 come as halves of characters, which cannot be encoded."""
    name = os.fsencode(tmp_path) + b"/\xff.png"
    with open(name, "wb") as file:
        file.write(SAMPLES[0].read_bytes())
    argv = [sys.executable, "-m", "vitpool", "classify", "-q", name]
    done = subprocess.run([*argv, "--json"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.fsencode(json.loads(done.stdout)["file"]) == name
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path}/\\udcff.png\n")


def test_commands_print_through_the_functions_that_clean() -> None:
    folder = Path(cli.__file__).parent
    calls = {
        f"{path.name}: {node.func.id}"
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    }
    assert calls == {"errors.py: print"}


def test_list_is_like_grep_where_nothing_matches(capsys) -> None:
    code, out, err = run(capsys, "list", "nothing*")
    assert (code, out) == (1, "")
    assert "no model matches 'nothing*'" in err
    code, out, _ = run(capsys, "list", "nothing*", "--json")
    assert (code, json.loads(out)) == (1, [])


# -------------------------------------------------------------------- closed pipes


@pytest.mark.parametrize(
    "argv", [["list"], ["--help"], ["classify", "-q", *map(str, SAMPLES), "--json"]]
)
def test_a_reader_that_has_had_enough_is_no_error(argv) -> None:
    code = (
        "import os, sys\nreader, writer = os.pipe()\nos.dup2(writer, 1)\n"
        "os.close(reader)\n"
        f"from vitpool.cli import main\nsys.exit(main({argv!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_error_that_nobody_reads_keeps_its_exit_code() -> None:
    code = (
        "import os, sys\nreader, writer = os.pipe()\nos.dup2(writer, 2)\n"
        "os.close(reader)\nfrom vitpool.cli import main\n"
        "sys.exit(main(['classify', 'missing.png', '--strict']))"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (1, b"")
