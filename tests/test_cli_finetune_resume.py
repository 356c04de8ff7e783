# SPDX-License-Identifier: Apache-2.0
"""`vitpool finetune`, stopped: it goes on to the same weights, and only in its own
folder."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shapes
from rerun import SEED
from terminal import EAGER, on_terminal, seen
from test_cli import DEFAULT, run

import vitpool
from vitpool.cli import finetune_run, run_folder
from vitpool.files import locked
from vitpool.train import checkpoint

# `make kills` asks for more.
KILLS = int(os.environ.get("VITPOOL_KILLS", "3"))
# Whatever a state has to hold: moments, a mean, a best; pictures drawn anew and mixed.
ARGV = (
    *("--train", "1", "--augment", "--mixup", "0.4", "--ema", "0.9", "-b", "8"),
    *("--epochs", "8", "--lr", "0.003"),
)
CACHED = ("--train", "pool", "--epochs", "8", "-b", "8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.folders(tmp_path_factory.mktemp("shapes") / "train")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a run of these arguments that was never stopped."""
    made: dict[tuple[str, ...], Path] = {}

    def run_of(*argv: str) -> Path:
        if argv not in made:
            made[argv] = tmp_path_factory.mktemp("whole") / "out"
            command(data, made[argv], *argv).wait(120)
        return made[argv]

    return run_of


def command(data: Path, out: Path, *argv: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "vitpool", "finetune", data, "-o", out, *argv, "-q"]
    return subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(vitpool.__path__[0]).parent)},
    )


def left(out: Path) -> dict[str, Any]:
    """All that a run leaves and that does not tell the time."""
    with open(out / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"]
    names = ("config.json", "model.safetensors", "validation.csv")
    return {"history": rows} | {name: (out / name).read_bytes() for name in names}


def check_whole(out: Path, like: Path) -> None:
    assert left(out) == left(like)
    assert not (out / ".finetune").exists()
    assert not list(out.glob(".*"))


# --------------------------------------------------------------------------- stopped


def test_kills_at_any_time_change_no_bit(data, whole, tmp_path) -> None:
    """SIGKILL and SIGTERM, at random, until there have been enough of them."""
    rng, out = random.Random(int(SEED or 0)), tmp_path / "out"
    like, kills = whole(*ARGV), 0
    while kills < KILLS:
        process, sent = command(data, out, *ARGV), 0
        try:
            process.wait(rng.uniform(0.2, 3))
        except subprocess.TimeoutExpired:
            sent = rng.choice([signal.SIGKILL, signal.SIGTERM])
            process.send_signal(sent)
        # 0, too, of one that ended by itself just as the signal was sent
        code = process.wait(60)
        assert code in (0, -sent)
        if code:
            kills += 1
            # never half a model
            if (out / "config.json").exists():
                vitpool.create_model(f"local-dir:{out}", pretrained=True)
        else:
            check_whole(out, like)
            shutil.rmtree(out)
    assert command(data, out, *ARGV).wait(120) == 0
    check_whole(out, like)


@pytest.mark.parametrize("argv", [ARGV, CACHED])
def test_a_stop_at_each_state_that_is_written_changes_no_bit(
    capsys, monkeypatch, data, whole, tmp_path, argv
) -> None:
    monkeypatch.setattr(finetune_run, "_STEPS", 2)
    write, out = checkpoint.write, tmp_path / "out"

    def stop(*args: Any) -> None:
        """Once the second state of this start is written."""
        write(*args)
        written.append(args)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write", stop)
    starts = 0
    while True:
        written: list[Any] = []
        starts += 1
        code, _, err = run(capsys, "finetune", data, "-o", out, *argv, "-q")
        if code == 0:
            break
        assert code == 130, err
        assert f"interrupted; what is done is in {out}: the same command" in err
        assert not (out / "config.json").exists()
    assert starts > 6
    check_whole(out, whole(*argv))


@pytest.mark.parametrize(
    "step", ["_judged", "_write_history", "_write_judged", "_report", "_save"]
)
@pytest.mark.parametrize("before", [True, False])
def test_a_stop_between_what_is_left_changes_no_bit(
    capsys, monkeypatch, data, whole, tmp_path, step, before
) -> None:
    out, real = tmp_path / "out", getattr(finetune_run, step)

    def stop(*args: Any) -> None:
        if not before:
            real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finetune_run, step, stop)
        assert run(capsys, "finetune", data, "-o", out, *CACHED)[0] == 130
    for name in (".model.99.tmp", ".config.99.tmp", ".history.csv.tmp"):
        (out / name).write_text("what a kill leaves")
    code, _, err = run(capsys, "finetune", data, "-o", out, *CACHED)
    assert code == 0
    assert "epoch " not in err.replace("with the weights of epoch", "")
    check_whole(out, whole(*CACHED))


def test_features_are_not_made_again(
    capsys, monkeypatch, data, whole, tmp_path
) -> None:
    out = tmp_path / "out"

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finetune_run, "_fitted", stop)
        assert run(capsys, "finetune", data, "-o", out, *CACHED)[0] == 130
    assert len(list((out / ".finetune").glob("features-*.npy"))) == 2
    batch = finetune_run._Watched.batch
    monkeypatch.setattr(finetune_run._Watched, "batch", stop)
    assert run(capsys, "finetune", data, "-o", out, *CACHED)[0] == 0
    monkeypatch.setattr(finetune_run._Watched, "batch", batch)
    check_whole(out, whole(*CACHED))


def test_ctrl_c_on_a_terminal_ends_in_one_line(data, whole, tmp_path) -> None:
    out = tmp_path / "out"
    argv = ["finetune", data, "-o", out, *ARGV]
    code, got = on_terminal(*argv, command=EAGER, interrupt_at="epoch 3/8:")
    assert code == 130
    lines = seen(got)
    assert lines[-1].startswith(f"vitpool: interrupted; what is done is in {out}: the ")
    code, got = on_terminal(*argv, command=EAGER)
    assert code == 0
    lines = seen(got)
    assert lines[:2] == [DEFAULT, f"vitpool: {out}: goes on from where it was stopped"]
    assert lines[-1] == str(out)
    assert all(line.startswith("vitpool: ") for line in lines[:-1])
    check_whole(out, whole(*ARGV))


# --------------------------------------------------------------------- another run


def test_a_run_that_is_done_is_left_alone_unless_told(capsys, data, tmp_path) -> None:
    out = tmp_path / "out"
    argv = ["finetune", data, "-o", out, *CACHED]
    assert run(capsys, *argv)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    code, text, err = run(capsys, *argv)
    assert (code, text) == (0, f"{out}\n")
    assert err.endswith(f"{out}: this run is done; --overwrite makes it anew\n")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    code, _, err = run(capsys, *argv, "--overwrite")
    assert code == 0
    assert "epoch 8/8" in err
    assert (out / "config.json").stat().st_mtime_ns > before[out / "config.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--lr", "0.5"], "with other lr (0.001, now 0.5)"),
        (["--seed", "1"], "with other seed (0, now 1)"),
        (["--train", "head"], "with other train (pool, now head), "),
        (["--cache", "bfloat16"], "with other cache (float32, now bfloat16)"),
        (["--augment"], "with other augment, cache (float32, now none)"),
        (["--crop-pct", "0.5"], "with other transform"),
        (["--gp", "avg"], "with other options: "),
        (["--smoothing", "0.1"], "with other label smoothing (0.0, now 0.1)"),
    ],
)
def test_a_folder_of_another_run_is_refused_by_what_differs(
    capsys, data, whole, change, said
) -> None:
    out = whole(*CACHED)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    code, _, err = run(capsys, "finetune", data, "-o", out, *CACHED, *change)
    assert code == 2
    line = err.splitlines()[-1]
    assert line.startswith(f"vitpool: {out}: holds another run, {said}")
    assert line.endswith(": give another -o, or --overwrite to replace it")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_threads_and_words_are_no_other_run(capsys, data, whole) -> None:
    argv = ["-j", "1", "--threads", "1", "-q"]
    code, _, err = run(capsys, "finetune", data, "-o", whole(*CACHED), *CACHED, *argv)
    assert code == 0
    assert "this run is done" in err


def test_other_pictures_are_another_run(capsys, monkeypatch, data, tmp_path) -> None:
    own, out = tmp_path / "own", tmp_path / "out"
    shutil.copytree(data, own)  # with the times of the files
    assert run(capsys, "finetune", own, "-o", out, *CACHED)[0] == 0
    monkeypatch.chdir(tmp_path)
    assert "done" in run(capsys, "finetune", "own", "-o", out, *CACHED)[2]
    os.utime(own / "cross" / "0.png")
    _, _, err = run(capsys, "finetune", own, "-o", out, *CACHED)
    assert "holds another run, with other pictures: " in err
    (own / "cross").rename(own / "plus")
    _, _, err = run(capsys, "finetune", own, "-o", out, *CACHED)
    assert "with other classes, pictures: " in err


def test_another_runs_state_is_never_taken(
    capsys, monkeypatch, data, whole, tmp_path
) -> None:
    """--overwrite of a run that was stopped, itself stopped at the worst places."""
    out = tmp_path / "out"
    other = ["finetune", data, "-o", out, *CACHED, "--seed", 9]
    argv = ["finetune", data, "-o", out, *CACHED, "--overwrite"]

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    for name in ("_save", "_fitted"):
        for place in (run_folder.RunFolder, "_write"), (run_folder, "_remove"):
            with monkeypatch.context() as patch:
                patch.setattr(finetune_run, name, stop)
                assert run(capsys, *other, "--overwrite")[0] == 130
            with monkeypatch.context() as patch:
                patch.setattr(*place, stop)
                assert run(capsys, *argv)[0] == 130
            assert run(capsys, *argv)[0] == 0
            check_whole(out, whole(*CACHED))


def test_overwrite_goes_on_where_it_was_stopped_itself(
    capsys, monkeypatch, data, tmp_path
) -> None:
    out = tmp_path / "out"
    argv = ["finetune", data, "-o", out, *CACHED, "--overwrite"]
    shutil.copytree(data, out)  # files of others stay

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    (out / "config.json").write_text("{}")
    assert "has config.json, of no" in run(capsys, *argv[:-1])[2]
    with monkeypatch.context() as patch:
        patch.setattr(finetune_run, "_save", stop)
        assert run(capsys, *argv)[0] == 130
    assert not (out / "config.json").exists()
    code, _, err = run(capsys, *argv)
    assert code == 0
    assert f"{out}: goes on from where it was stopped" in err
    assert len(list((out / "cross").iterdir())) == 8


def test_one_run_at_a_time_is_in_a_folder(capsys, monkeypatch, data, tmp_path) -> None:
    out = tmp_path / "out"
    (out / ".finetune").mkdir(parents=True)
    with locked(out / ".finetune"):
        code, _, err = run(capsys, "finetune", data, "-o", out, *CACHED)
    assert code == 2
    assert err.endswith(f"vitpool: {out}/.finetune: another run is writing there\n")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"identity": 3}', "\xff"])
def test_a_file_that_tells_of_no_run_is_refused(capsys, data, tmp_path, text) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "finetune.json").write_text(text, encoding="latin-1")
    code, _, err = run(capsys, "finetune", data, "-o", out, *CACHED)
    assert code == 2
    assert "finetune.json: not of `vitpool finetune`; give another -o" in err


def test_a_state_that_was_spoilt_is_named(capsys, monkeypatch, data, tmp_path) -> None:
    out = tmp_path / "out"

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finetune_run, "_save", stop)
        assert run(capsys, "finetune", data, "-o", out, *CACHED)[0] == 130
    state = out / ".finetune" / "checkpoint.safetensors"
    state.write_bytes(state.read_bytes()[:-9])
    code, _, err = run(capsys, "finetune", data, "-o", out, *CACHED)
    assert code == 2
    assert f"{state} is no whole checkpoint" in err.splitlines()[-1]


def test_finetune_json_tells_the_run(whole, data) -> None:
    out = whole(*CACHED)
    told = json.loads((out / "finetune.json").read_text())
    assert told["command"].startswith(f"vitpool finetune {data} -o {out} ")
    assert told["done"]
    assert told["identity"]["classes"] == [*shapes.CLASSES]
    assert told["identity"]["epochs"] == 8
