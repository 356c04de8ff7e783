# SPDX-License-Identifier: Apache-2.0
"""The command: what it prints, its exit codes, and errors in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitpool
from vitpool import cli

# Of the command's tests those that embed; test_embed.py as a whole says the same.
needs_pyarrow = pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="pyarrow 26, the first with nulls in fixed-size lists, needs Python 3.11",
)
EMBED = pytest.param("embed", marks=needs_pyarrow)

DIGITS = Path(vitpool.__file__).parent / "models" / "vit_digits"
DEFAULT = "vitpool: vit_digits: scanned digits; -m chooses another"
SAMPLES = sorted((DIGITS / "samples").glob("*.png"))


def run(capsys: pytest.CaptureFixture, *argv: object) -> tuple[int, str, str]:
    code = cli.main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.png"
    path.write_bytes(SAMPLES[0].read_bytes()[:60])
    return path


# ----------------------------------------------------------------------------- classify


def test_samples_are_classified_right(capsys) -> None:
    assert len(SAMPLES) == 10
    code, out, _ = run(capsys, "classify", *SAMPLES, "--topk", 1, "--json")
    assert code == 0
    for line, path in zip(out.splitlines(), SAMPLES, strict=True):
        record = json.loads(line)
        assert record["file"] == str(path)
        (best,) = record["classes"]
        assert set(best) == {"index", "label", "prob"}
        assert str(best["index"]) in path.stem
    code, text, _ = run(capsys, "classify", *SAMPLES, "--topk", 3)
    assert code == 0
    lines = text.splitlines()
    assert lines[0] == str(SAMPLES[0])
    assert lines[1].endswith(best_label(SAMPLES[0]))
    assert len(lines) == 40


def test_probabilities_are_of_each_picture_alone(capsys) -> None:
    argv = [*SAMPLES, "--topk", 99, "--json", "-b", len(SAMPLES)]
    _, out, _ = run(capsys, "classify", *argv)
    _, raw, _ = run(capsys, "classify", *argv, "--output-type", "logit")
    for line, logit in zip(out.splitlines(), raw.splitlines(), strict=True):
        classes = json.loads(line)["classes"]
        logits = np.array([c["logit"] for c in json.loads(logit)["classes"]])
        got = [c["prob"] for c in classes]
        np.testing.assert_allclose(sum(got), 1, rtol=1e-5)
        np.testing.assert_allclose(
            got, np.exp(logits) / np.exp(logits).sum(), rtol=1e-5, atol=1e-7
        )


def test_input_size_is_channels_height_and_width(capsys) -> None:
    argv = ["-m", "vit_tiny_patch16_224", "--input-size", 1, 32, 64, "--json"]
    code, out, _ = run(capsys, "info", *argv)
    assert code == 0
    told = json.loads(out)
    assert told["input"]["input_size"] == [1, 32, 64]
    assert told["grid_size"] == [2, 4]


def best_label(path: Path) -> str:
    model = vitpool.create_model("vit_digits", pretrained=True)
    best = int(model(model.preprocess(path)).argmax())
    return model.pretrained_cfg["label_names"][best]


def test_folders_batches_and_output_types(capsys) -> None:
    code, out, _ = run(
        capsys, "classify", DIGITS / "samples", "-b", 3, "--json", "--topk", 99,
        "--output-type", "logit", "--label-type", "none", "--threads", 1, "-j", 2,
    )  # fmt: skip
    assert code == 0
    records = [json.loads(line) for line in out.splitlines()]
    assert [r["file"] for r in records] == [str(p) for p in SAMPLES]
    model = vitpool.create_model("vit_digits", pretrained=True)
    logits = model(model.preprocess(SAMPLES))
    for record, row in zip(records, logits, strict=True):
        assert [set(c) for c in record["classes"]] == [{"index", "logit"}] * 10
        got = {c["index"]: c["logit"] for c in record["classes"]}
        np.testing.assert_array_equal([got[i] for i in range(10)], row)


def test_a_broken_picture_is_reported_and_the_rest_done(capsys, broken) -> None:
    missing = broken.with_name("missing.png")
    code, out, err = run(
        capsys, "classify", SAMPLES[0], broken, missing, SAMPLES[1], "--json"
    )
    assert code == 1
    records = [json.loads(line) for line in out.splitlines()]
    assert [("classes" in r) for r in records] == [True, False, False, True]
    assert "truncated" in records[1]["error"]
    assert f"vitpool: {broken}: " in err
    assert f"vitpool: {missing}: No such file" in err
    code, out, err = run(capsys, "classify", broken, SAMPLES[0], "--strict")
    assert (code, out) == (1, "")
    assert str(broken) in err


def test_a_folder_a_file_and_a_name_are_the_same_model(capsys, tmp_path) -> None:
    want = run(capsys, "classify", SAMPLES[3], "--json", "-m", "vit_digits")
    copy = tmp_path / "model"
    shutil.copytree(DIGITS, copy)
    for model in (DIGITS, f"local-dir:{copy}", copy):
        assert run(capsys, "classify", SAMPLES[3], "--json", "-m", model) == want
    weights = copy / "model.safetensors"
    assert run(capsys, "classify", SAMPLES[3], "--json", "-m", weights) == want
    (copy / "config.json").unlink()
    got = run(
        capsys, "classify", SAMPLES[3], "--json", "-m", weights, "--arch", "vit_digits"
    )
    assert got == want
    got = run(
        capsys, "classify", SAMPLES[3], "--json", "-m", "vit_digits", "--checkpoint",
        weights,
    )  # fmt: skip
    assert got == want


# --------------------------------------------------------------------- errors and usage


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["classify", "x.png", "-m", "vit_bsae_patch16_224"], "vit_base_patch16_224"),
        (["classify", "x.png", "-m", "/no/such.safetensors"], "no such file"),
        (["classify", "x.png", "-m", "/no/s.safetensors", "--arch", "vit_digits"],
         "/no/s.safetensors"),
        (["classify", "x.png", "--arch", "vit_digits"], "--arch is for"),
        (["classify", "x.png", "--checkpoint", "/no.safetensors"], "/no.safetensors"),
        (["classify", "x.png", "--dtype", "float33"], "float33"),
        (["classify", "x.png", "--interpolation", "cubic"], "bicubic"),
        (["classify", "x.png", "--img-size", "2"], "--img-size (2, 2)"),
        (["classify", "x.png", "--num-classes", "0"], "no classifier"),
        (["classify", "x.png", "--model-kwargs", "depht=3"], "depht"),
        (["attention", "x.png", "-o", "x.tiff"], ".png"),
        # pyarrow, as we need it, is there from Python 3.11 on
        (
            ["embed", "/no/folder", "-o", "/tmp/never"],
            "/no/folder" if sys.version_info >= (3, 11) else "pyarrow>=26",
        ),
        (["embed", "x", "-o", "y", "--actors", "2"], "--engine ray"),
        (["embed", "x", "-o", "y", "--engine", "ray", "-j", "2"], "-j is for"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line_and_exit_code_2(capsys, argv, words) -> None:
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    *before, line = err.splitlines()
    assert words in line
    assert line.startswith("vitpool: ")
    assert before in ([], [DEFAULT])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "missing: COMMAND"),
        (["clasify"], "COMMAND: 'clasify', allowed are classify, embed, "),
        (["clasify"], "; did you mean 'classify'?"),
        (["classify"], "missing: IMAGE"),
        (["classify", "--tokp", "3"], "--tokp: no such option; did you mean '--topk'?"),
        (["classify", "x", "--tokp=3"], "did you mean '--topk'?"),
        (["classify", "x", "-k"], "-k: no such option"),
        (["--json", "list"], "--json: no such option"),
        (["convert", "-o", "x", "y"], "unexpected: y"),
        (["classify", "x", "--topk", "0"],
         "--topk: '0', allowed is a whole number of 1 or more"),
        (["classify", "x", "-b", "-1"], "-b/--batch-size: '-1', allowed is"),
        (["classify", "x", "-z", "-b"], "-b/--batch-size: expected one argument"),
        (["classify", "x", "-j", "two"], "-j/--workers: 'two', allowed is"),
        (["classify", "x", "--mean", "x"], "--mean: 'x', allowed is a number"),
        (["classify", "x", "--crop-mode", "centre"],
         "--crop-mode: 'centre', allowed are center, squash, border; did you mean"),
        (["classify", "x", "--model-kwargs", "a"], "'a' is not KEY=VALUE"),
        (["completion", "tcsh"], "shell: 'tcsh', allowed are bash, zsh, fish"),
    ],
)  # fmt: skip
def test_wrong_usage_says_what_and_points_to_the_help(capsys, argv, words) -> None:
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    said, pointer = err.splitlines()
    assert words in said
    assert said.startswith("vitpool: ")
    commands = cli.build_parser().commands.choices
    name = f" {argv[0]}" if argv and argv[0] in commands else ""
    assert pointer == f"vitpool: see `vitpool{name} --help`"


def test_what_begins_with_a_dash_and_is_no_option(
    capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-x.png", "-1.png"):
        shutil.copy(SAMPLES[0], name)
    code, out, _ = run(capsys, "classify", "--topk", 1, "--", "-x.png", "-1.png")
    assert code == 0
    assert [line for line in out.splitlines() if line[0] != " "] == ["-x.png", "-1.png"]
    argv = ["-b2", "./-x.png", "--top=1", "./-1.png", "--json"]  # in any order
    assert run(capsys, "classify", *argv)[1].count('"file"') == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--threads", "100000"], "--threads must be from 1 to 256, not 100000"),
        (["--crop-pct", "0"], "--crop-pct: 0.0, allowed is above 0"),
        (["--img-size", "2"], "--img-size (2, 2) must be"),
        (["--gp", "mapp"], "--global-pool must be one of"),
        (["--dtype", "float33"], "--dtype must be one of 'float32', 'bfloat16'"),
        (["--interpolation", "cubic"], "--interpolation: 'cubic'"),
        (["--model-kwargs", "img_size=2"], "img_size (2, 2) must be"),
    ],
)
def test_a_wrong_value_is_of_the_option_that_brought_it(capsys, argv, words) -> None:
    code, out, err = run(capsys, "classify", SAMPLES[0], "-m", "vit_digits", *argv)
    assert (code, out) == (2, "")
    assert err.startswith(f"vitpool: {words}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("value", "traced"), [("1", True), ("0", False), ("", False)])
def test_a_traceback_is_shown_where_it_is_asked_for(
    capsys, monkeypatch, value: str, traced: bool
) -> None:
    monkeypatch.setenv("VITPOOL_TRACEBACK", value)
    if traced:
        with pytest.raises(ValueError, match="unknown model"):
            run(capsys, "info", "-m", "no_such")
    else:
        assert run(capsys, "info", "-m", "no_such")[0] == 2


def test_help_of_every_command(capsys) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name in ("classify", "embed", "attention", "audit", "info", "list", "convert",
                 "benchmark"):  # fmt: skip
        assert f"    {name}" in out
        code, text, _ = run(capsys, name, "--help")
        assert code == 0
        assert f"usage: vitpool {name}" in text
    assert run(capsys, "--version") == (0, f"vitpool {vitpool.__version__}\n", "")


# --------------------------------------------------------------------------- the others


def test_list(capsys) -> None:
    code, out, _ = run(capsys, "list", "vit_tiny_patch16_*")
    assert code == 0
    assert "vit_tiny_patch16_224" in out.splitlines()
    code, out, _ = run(capsys, "list", "--json", "--pretrained", "vit_tiny*")
    assert "vit_tiny_patch16_224.augreg_in21k_ft_in1k" in json.loads(out)
    assert run(capsys, "list", "nothing*")[0] == 1


def test_info(capsys) -> None:
    code, out, _ = run(capsys, "info", "--json")
    about = json.loads(out)
    assert code == 0
    assert about["num_classes"] == 10
    assert about["parameters"] == sum(
        v.size for v in vitpool.create_model("vit_digits").state_dict().values()
    )
    assert about["input"]["input_size"] == [3, 32, 32]
    code, out, _ = run(capsys, "info", "-m", "vit_tiny_patch16_224")
    assert code == 0
    assert "parameters: 5717416" in out
    assert run(capsys, "info", "--build")[0] == 0


def test_attention(capsys, tmp_path, broken) -> None:
    out = tmp_path / "a.png"
    code, said, _ = run(capsys, "attention", *SAMPLES[:3], "-o", out)
    assert (code, said) == (0, f"{out}\n")
    with Image.open(out) as image:
        width, height = image.size
    assert width > 448
    assert height > 224
    for layer in ("pool", "0", "-1", "rollout"):
        argv = ("attention", SAMPLES[0], "-o", out, "--layer", layer, "--head", "all")
        assert run(capsys, *argv)[0] == 0
    assert run(capsys, "attention", broken, SAMPLES[0], "-o", out)[0] == 1
    code, _, err = run(capsys, "attention", SAMPLES[0], "-o", out, "--layer", "99")
    assert code == 2
    assert "layer: 99" in err


def test_convert(capsys, tmp_path) -> None:
    out = tmp_path / "model"
    code, said, _ = run(
        capsys, "convert", "-o", out, "--gp", "avg", "--num-classes", 4, "--new-head"
    )
    assert (code, said) == (0, f"{out}\n")
    model = vitpool.create_model(f"local-dir:{out}", pretrained=True)
    assert (model.global_pool, model.num_classes) == ("avg", 4)


def test_benchmark(capsys) -> None:
    argv = ("--num-bench-iter", 3, "--num-warm-iter", 1, "-b", 2, "--json")
    code, out, _ = run(capsys, "benchmark", *argv)
    assert code == 0
    result = json.loads(out)
    assert result["batch_size"] == 2
    assert result["samples_per_sec"] > 0


def test_the_module_is_the_command() -> None:
    argv = [sys.executable, "-m", "vitpool", "list", "vit_digits"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "vit_digits\n")
    done = subprocess.run([*argv[:3], "frob"], capture_output=True, text=True)
    assert done.returncode == 2


def test_list_and_help_load_neither_pillow_nor_tqdm() -> None:
    code = (
        "import sys\nfrom vitpool.cli import main\n"
        "main(['list']); main(['--help'])\n"
        "bad = {'PIL', 'tqdm', 'matplotlib', 'pyarrow', 'ray', 'torch',"
        " 'huggingface_hub', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
