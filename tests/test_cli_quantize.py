# SPDX-License-Identifier: Apache-2.0
"""`vitpool quantize`: the folder it writes, its report, its exit codes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from terminal import COMMAND, on_terminal
from test_cli import SAMPLES, broken, run  # noqa: F401 - broken is a fixture

import vitpool
from vitpool.testing import images

FOLDER = Path(SAMPLES[0]).parent


def loaded(path: Path) -> Any:
    return vitpool.create_model(f"local-dir:{path}", pretrained=True)


def test_the_folder_holds_the_model_that_is_told_of(capsys, tmp_path: Path) -> None:
    out = tmp_path / "int8"
    code, text, _ = run(capsys, "quantize", "vit_digits", "--images", FOLDER, "-o", out)
    assert code == 0
    lines = text.splitlines()
    assert lines[0].startswith("float32 -> int8: 12 matrices")
    assert "top-1 agrees on 10 of 10" in lines
    assert lines[-1] == str(out)
    model, float32 = loaded(out), vitpool.create_model("vit_digits", pretrained=True)
    assert model.dtype == "int8"
    want = vitpool.quantize(float32, images=SAMPLES).model
    x = images(float32, 3)
    assert model(x).tobytes() == want(x).tobytes()
    assert (out / "model.safetensors").stat().st_size < 0.5 * (
        FOLDER.parent / "model.safetensors"
    ).stat().st_size
    [cosine] = [line.split()[3] for line in lines if line.startswith("pooled features")]
    assert 0.999 < float(cosine) < 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_without_pictures(capsys, tmp_path: Path, dtype: str) -> None:
    argv = ["quantize", "vit_digits", "--dtype", dtype, "-o", tmp_path / "half"]
    code, text, _ = run(capsys, *argv)
    assert code == 0
    assert text.startswith(f"float32 -> {dtype}\n")
    assert loaded(tmp_path / "half").dtype == dtype


def test_json_has_the_report(capsys, tmp_path: Path) -> None:
    argv = ["quantize", "vit_digits", "--images", *SAMPLES, "--limit", 4, "--json"]
    code, text, _ = run(capsys, *argv, "-o", tmp_path / "a")
    assert code == 0
    told = json.loads(text)
    assert told["output"] == str(tmp_path / "a")
    assert told["pictures"] == 4
    assert told["features"]["worst"] in map(str, SAMPLES[:4])
    assert len(told["layers"]) == 12


def test_what_is_kept_and_a_target(capsys, tmp_path: Path) -> None:
    argv = ["quantize", "vit_digits", "--images", FOLDER]
    keep = ["--keep", "blocks.1", "--keep", "*.fc2"]
    assert run(capsys, *argv, *keep, "-o", tmp_path / "a")[0] == 0
    dtypes = loaded(tmp_path / "a")._dtypes()
    wide = {n for n in dtypes if n.startswith("blocks.1.") or ".fc2." in n}
    assert {dtypes[name] for name in wide} == {"float32"}
    assert dtypes["blocks.0.attn.qkv.weight"] == "int8"
    code, text, _ = run(
        capsys, *argv, "--target-cosine", 0.99998, "--json", "-o", tmp_path / "b"
    )
    assert code == 0
    assert json.loads(text)["features"]["worst_cosine"] >= 0.99998
    kept = loaded(tmp_path / "b")._dtypes()
    assert any(kept[n] != "int8" for n in kept if n.endswith("qkv.weight"))
    code, _, err = run(capsys, *argv, "--target-cosine", 1, "-o", tmp_path / "c")
    assert code == 2
    assert "takes more than half of the model in float32" in err
    assert not (tmp_path / "c").exists()


def test_a_broken_picture_among_good_ones(
    capsys,
    tmp_path: Path,
    broken: Path,  # noqa: F811
) -> None:
    out = tmp_path / "out"
    argv = ["quantize", "vit_digits", "--images", *SAMPLES[:3], broken, "-o", out]
    code, text, err = run(capsys, *argv)
    assert code == 1
    assert f"{broken}: image file is truncated; skipped" in err
    assert "top-1 agrees on 3 of 3" in text
    assert loaded(out).dtype == "int8"
    strict = tmp_path / "strict"
    code, text, err = run(capsys, *argv[:-1], strict, "--strict")
    assert (code, text) == (1, "")
    assert not strict.exists()
    code, text, err = run(
        capsys, "quantize", "vit_digits", "--images", broken, "-o", strict
    )
    assert (code, text) == (2, "")
    assert "none of the pictures can be read" in err
    assert not strict.exists()


def test_nothing_is_overwritten_unless_asked(capsys, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    argv = ["quantize", "vit_digits", "-o", out]
    assert run(capsys, *argv)[0] == 0  # an empty folder is no model
    before = (out / "model.safetensors").read_bytes()
    code, _, err = run(capsys, *argv, "--dtype", "bfloat16")
    assert code == 2
    assert "is not empty; give another -o, or --overwrite" in err
    assert (out / "model.safetensors").read_bytes() == before
    assert run(capsys, *argv, "--dtype", "bfloat16", "--overwrite")[0] == 0
    assert loaded(out).dtype == "bfloat16"


def test_a_folder_of_halves_becomes_int8(capsys, tmp_path: Path) -> None:
    half, out = tmp_path / "half", tmp_path / "out"
    run(capsys, "quantize", "vit_digits", "--dtype", "bfloat16", "-o", half)
    code, text, _ = run(capsys, "quantize", half, "-o", out)
    assert code == 0
    assert text.startswith("bfloat16 -> int8: 12 matrices, float32: 7 matrices\n")
    assert loaded(out).dtype == "int8"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-o", "o"], "missing: MODEL"),
        (["vit_digits"], "missing: -o/--output"),
        (
            ["vit_digits", "-o", "o", "--dtype", "float32"],
            "--dtype: 'float32', allowed",
        ),
        (["vit_digits", "-o", "o", "--target-cosine", "2"], "--target-cosine must be"),
        (["vit_digits", "-o", "o", "--target-cosine", "x"], "allowed is a number"),
        (["vit_digits", "-o", "o", "--keep", "nothing"], "--keep: 'nothing' matches"),
        (["vit_digits", "-o", "o", "--limit", "3"], "--limit is for pictures"),
        (["vit_digits", "-o", "o", "--null"], "--null is for pictures"),
        (["vit_digits", "-o", "o", "--limit", "0"], "a whole number of 1 or more"),
        (["vit_digits", "-o", "o", "--images", "nowhere"], "nowhere"),
        (["no_model", "-o", "o"], "no_model"),
        (["vit_digits", "-o", "file"], "file is no folder"),
    ],
)
def test_wrong_usage(
    capsys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    code, out, err = run(capsys, "quantize", *argv)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[0]
    assert err.startswith("vitpool: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_on_a_terminal(tmp_path: Path) -> None:
    argv = ["quantize", "vit_digits", "--images", FOLDER, "-o", tmp_path / "out"]
    code, text = on_terminal(*argv)
    assert code == 0
    assert "float32 -> int8" in text
    assert "signal to noise, dB" in text
    assert loaded(tmp_path / "out").dtype == "int8"


def test_paths_come_on_stdin(tmp_path: Path) -> None:
    text = "\0".join(map(str, [*SAMPLES[:5], ""]))
    argv = ["vit_digits", "--images", "-", "-z", "-q", "-o", tmp_path / "out"]
    done = subprocess.run(
        [*COMMAND, "quantize", *argv], input=text, text=True, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "top-1 agrees on 5 of 5" in done.stdout


def test_sizes_and_classes_are_those_asked_for(capsys, tmp_path: Path) -> None:
    argv = ["quantize", "vit_digits", "--num-classes", 3, "--new-head"]
    code, _, _ = run(capsys, *argv, "-o", tmp_path / "out")
    assert code == 0
    model = loaded(tmp_path / "out")
    assert model.num_classes == 3
    assert np.isfinite(model(images(model, 1))).all()
