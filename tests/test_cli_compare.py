# SPDX-License-Identifier: Apache-2.0
"""`vitpool compare`: its exit codes, what it prints, and which weights it takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from terminal import on_terminal, seen
from test_cli import SAMPLES, run

import vitpool
from vitpool import hub, testing

SMALL = {
    "img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 9, "num_heads": 2,
    "num_classes": 5, "seed": 0,
}  # fmt: skip
NAME = "vit_tiny_patch16_224"
KWARGS = [f"{key}={value}" for key, value in SMALL.items() if key != "seed"]
KEY = "blocks.7.mlp.fc1.weight"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`before`, `same`, and `after`, where one weight of block 7 is another."""
    root = tmp_path_factory.mktemp("compare")
    model = vitpool.create_model(NAME, **SMALL)
    for name in ("before", "same", "after"):
        if name == "after":
            state = model.state_dict()
            state[KEY][3, 4] += 0.5
            model.load_state_dict(state)
        hub.save_pretrained(model, root / name)
    testing.write_record(root / "record.npz", root / "before")
    np.savez(root / "plain.npz", a=np.zeros(3))
    whole = (root / "before" / "model.safetensors").read_bytes()
    (root / "cut.safetensors").write_bytes(whole[:20000])
    (root / "broken.npz").write_bytes((root / "plain.npz").read_bytes()[:100])
    return root


@pytest.fixture(autouse=True)
def there(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folders)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(folders)):
            del sys.modules[name]


# ----------------------------------------------------------- exit codes, and the answer


def test_alike_is_0_and_the_first_line_says_so(capsys) -> None:
    code, out, err = run(capsys, "compare", "before", "same")
    assert (code, err) == (0, "")
    assert out.startswith("alike")
    assert re.search(r"^reference +before$", out, re.MULTILINE)
    assert re.search(r"^candidate +same$", out, re.MULTILINE)


@pytest.mark.parametrize("isolate", [False, True])
def test_a_difference_is_1_and_the_first_line_names_its_stage(capsys, isolate) -> None:
    more = ["--isolate"] if isolate else []
    code, out, err = run(capsys, "compare", "before", "after", *more)
    assert (code, err) == (1, "")
    assert "blocks.7.mlp" in out.splitlines()[0]
    assert KEY in out
    parted = re.findall(r"^(\S+) .* parts ", out, re.MULTILINE)
    assert parted[0] == "blocks.7.mlp"
    assert (len(parted) == 1) == isolate


def test_json_is_alone_on_stdout_and_exact(capsys) -> None:
    code, out, err = run(capsys, "compare", "before", "after", "--json")
    assert (code, err) == (1, "")
    told = json.loads(out)
    assert (told["ok"], told["first"]) == (False, "blocks.7.mlp")
    assert (told["reference"], told["candidate"]) == ("before", "after")
    assert told["stages"][0]["ok"] is True
    code, out, _ = run(capsys, "compare", "before", "same", "--json")
    assert code == 0
    assert json.loads(out)["first"] is None


def test_a_tolerance_makes_them_alike(capsys) -> None:
    first = run(capsys, "compare", "before", "after", "--json")
    needed = max(s["required_rtol"] for s in json.loads(first[1])["stages"])
    code, out, _ = run(capsys, "compare", "before", "after", "--rtol", needed)
    assert code == 0, out
    code, out, _ = run(capsys, "compare", "before", "after", "--atol", 1000)
    assert code == 0, out


def test_a_page_is_written_beside_json_and_said(capsys, tmp_path) -> None:
    page = tmp_path / "page.html"
    argv = ["compare", "before", "after", "--json", "--html", page]
    code, out, err = run(capsys, *argv)
    assert (code, err) == (1, f"vitpool: see {page}\n")
    assert json.loads(out)["first"] == "blocks.7.mlp"
    text = page.read_text(encoding="utf-8")
    assert "blocks.7.mlp" in text
    assert "after" in text
    assert [*tmp_path.iterdir()] == [page]


def test_a_page_that_was_there_stays_where_nothing_is_compared(
    capsys, tmp_path
) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    code, out, _ = run(capsys, "compare", "before", "nowhere", "--html", page)
    assert (code, out) == (2, "")
    assert page.read_text() == "old"
    assert [*tmp_path.iterdir()] == [page]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no/page.html", "no/page.html: No such file or directory"),
        (".", "--html: . is a folder"),
    ],
)
def test_a_page_that_cannot_be_written_is_said_before_the_work(
    capsys, path, words
) -> None:
    code, out, err = run(capsys, "compare", "nowhere", "nothing", "--html", path)
    assert (code, out, err) == (2, "", f"vitpool: {words}\n")


# ------------------------------------------------------------------- which weights


def test_without_any_weights_both_get_the_same(capsys) -> None:
    argv = ["compare", NAME, NAME, "--kwargs", *KWARGS, "--candidate-kwargs"]
    code, out, err = run(capsys, *argv, "seed=1")
    assert code == 0, out
    assert err.startswith("vitpool: neither model has trained weights: both get the ")
    code, out, err = run(capsys, *argv, "act_layer=quick_gelu", "-q")
    assert (code, err) == (1, "")
    assert "blocks.0.mlp" in out.splitlines()[0]


def test_where_one_alone_has_weights_the_user_chooses(capsys) -> None:
    argv = ["compare", "before", NAME, "--candidate-kwargs", *KWARGS]
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err == (
        f"vitpool: {NAME} has no trained weights, before has: --pretrained loads its "
        "own, --candidate-checkpoint those of a file, --randomize draws the same for "
        "both\n"
    )
    assert run(capsys, *argv, "--randomize")[::2] == (0, "")
    file = "before/model.safetensors"
    for weights in ("before", file):
        assert run(capsys, *argv, "--candidate-checkpoint", weights)[::2] == (0, "")
    code, out, _ = run(capsys, *argv, "--candidate-checkpoint", "after")
    assert code == 1
    assert "blocks.7.mlp" in out.splitlines()[0]


def test_a_checkpoint_may_be_that_of_both(capsys) -> None:
    argv = ["compare", NAME, NAME, "--checkpoint", "before", "--kwargs", *KWARGS]
    assert run(capsys, *argv)[::2] == (0, "")
    code, out, _ = run(capsys, *argv, "--candidate-checkpoint", "after")
    assert code == 1
    assert KEY in out


def test_weights_files_and_records_are_sides(capsys) -> None:
    files = [f"{name}/model.safetensors" for name in ("before", "same", "after")]
    assert run(capsys, "compare", *files[:2])[0] == 0
    assert run(capsys, "compare", files[0], files[2])[0] == 1
    assert run(capsys, "compare", "record.npz", "same")[::2] == (0, "")
    code, out, _ = run(capsys, "compare", "record.npz", files[2])
    assert code == 1
    assert out.startswith("they part at ")


# -------------------------------------------------------------- code of the user's own

CODE = f"""\
import vitpool

class Fork(vitpool.VisionTransformer):
    def __init__(self, **options):
        print("as it is built")
        super().__init__(**{{**{SMALL!r}, **options}})

def entry(pretrained=False, **options):
    print("pretrained", pretrained)
    return Fork(**options)

def trained():
    return vitpool.create_model("local-dir:before", pretrained=True)

def none():
    return None

def fails():
    raise RuntimeError("as it should not")

def needs(depth, heads):
    return Fork()
"""


@pytest.fixture
def fork(folders: Path) -> None:
    (folders / "fork.py").write_text(CODE)


def test_what_a_model_prints_is_no_part_of_the_answer(capsys, fork) -> None:
    code, out, err = run(capsys, "compare", "fork.py:Fork", "fork.py:entry", "--json")
    assert code == 0
    assert json.loads(out)["reference"] == "fork.py:Fork"
    assert err.splitlines()[:3] == ["as it is built", "pretrained False", "as it is "
                                    "built"]  # fmt: skip


def test_a_function_gives_its_model_weights_and_a_class_does_not(capsys, fork) -> None:
    assert run(capsys, "compare", "before", "fork.py:trained")[::2] == (0, "")
    code, _, err = run(capsys, "compare", "before", "fork.py:Fork")
    assert code == 2
    assert "fork.py:Fork has no trained weights, before has: --candidate-" in err
    argv = ["compare", "before", "fork.py:Fork", "--checkpoint", "before"]
    assert run(capsys, *argv)[0] == 0
    _, _, err = run(capsys, "compare", "before", "fork.py:entry", "--pretrained")
    assert "pretrained True" in err


def test_a_checkpoint_that_does_not_fit_is_said_by_key(capsys, fork) -> None:
    argv = ["compare", "before", "fork.py:Fork", "--checkpoint", "before"]
    code, out, err = run(capsys, *argv, "--candidate-kwargs", "depth=8", "num_heads=1")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        "vitpool: before/model.safetensors does not fit fork.py:Fork: it has "
        "blocks.8.attn.proj.bias, blocks.8.attn.proj.weight, blocks.8.attn.qkv.bias "
        "and 9 more"
    )
    code, _, err = run(capsys, *argv, "--candidate-kwargs", "num_classes=6")
    assert "of another shape are head.weight (5, 32) for (6, 32), head.bias" in err


# --------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nowhere", "before"], "unknown model 'nowhere'"),
        (["before", "vit_tinny_patch16_224"], "did you mean 'vit_tiny_patch16_224'"),
        (["before", "."], "no config.json"),
        (["before", "fork.py:Frok"], "fork.py:Frok: no such name; did you mean 'Fork'"),
        (["before", "fork.py:none"], "fork.py:none: gives no torch module, got None"),
        (
            ["before", "fork.py:fails"],
            "fork.py:fails: RuntimeError: as it should not (",
        ),
        (["before", "fork.py:needs"], "fork.py:needs: TypeError: needs() missing 2"),
        (["before", "fork.py"], "fork.py: say the class, or the function"),
        (["before", "other.py:Fork"], "other.py: no such file"),
        (["before", "broken.npz"], "broken.npz: "),
        (["before", "cut.safetensors"], "cut.safetensors: truncated: 20000 of"),
        (["before", "cut.safetensors", "--arch", NAME], "cut.safetensors: truncated"),
        (["before", "plain.npz"], "plain.npz is a bare weights file: say its archit"),
        (["before", "no.npz"], "no.npz: no such file"),
        (["before", "no.npz", "--arch", NAME], "no.npz: no such file"),
        (["before", "same", "--arch", NAME], "--arch is for a weights file, not for"),
        (["before", "same", "--candidate-arch", NAME], "--candidate-arch is for a wei"),
        (["before", "fork.py:Fork", "--candidate-arch", NAME], "--candidate-arch is "),
        (["before", "same", "--pretrained"], "--pretrained is for a name, of timm's"),
        (["before", "record.npz", "--candidate-kwargs", "depth=2"], "takes no options"),
        (["before", "same", "--candidate-kwargs", "deptth=2"], "no option 'deptth'"),
        (["before", "same", "--kwargs", "depth"], "--kwargs: 'depth' is not KEY=VALUE"),
        (["before", "same", "--checkpoint", "nothing"], "no such weights file"),
        (["before", "same", "--rtol", "x"], "--rtol: 'x', allowed is a number"),
        (["before", "same", "--rtol", "-1"], "--rtol"),
        (["before", "same", "--atol", "nan"], "--atol"),
        (
            ["before", "same", "--randomize", "--pretrained"],
            "--randomize draws the weights that --pretrained would load",
        ),
        (
            ["before", "same", "--randomize", "--candidate-checkpoint", "before"],
            "--randomize draws the weights that --candidate-checkpoint would load",
        ),
        (
            ["record.npz", "same", "--randomize"],
            "record.npz is a record, whose weights",
        ),
        (["before", "record.npz", "--isolate"], "record.npz is a record: isolate"),
        (["before", "same", "--seed", "-1"], "--seed: '-1', allowed is a whole"),
        (["before", "same", "-z"], "--null is for paths that --images - reads"),
        (["before", "same", "--images", "nothing.png"], "nothing.png: No such file"),
        (["before", "same", "--images", "fork.py"], "fork.py: "),
        (["before"], "missing: CANDIDATE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_compared_is_2_and_one_line(capsys, fork, argv, words) -> None:
    code, out, err = run(capsys, "compare", *argv)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("vitpool: ")]
    assert words in lines[0]
    assert len(lines) == 1 + ("see `vitpool compare --help`" in err)


@pytest.mark.skipif("torch" in sys.modules, reason="torch is here")
def test_timm_is_asked_for_where_it_is_not(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    code, out, err = run(capsys, "compare", f"timm:{NAME}", NAME)
    assert (code, out) == (2, "")
    assert err.startswith(f"vitpool: timm:{NAME} needs torch and timm")
    assert err.endswith(": pip install timm\n")


def test_models_that_do_not_match_are_compared_as_far_as_they_do(capsys) -> None:
    argv = ["compare", NAME, NAME, "-q", "--kwargs", *KWARGS, "--candidate-kwargs"]
    code, out, _ = run(capsys, *argv, "depth=11")
    assert code == 1
    assert "blocks.9.attn" in out.splitlines()[0]
    assert re.search(r"^blocks.8.mlp .* alike ", out, re.MULTILINE)
    assert "depth: 9, 11" in out


# -------------------------------------------------------------------------- pictures


def test_pictures_of_files_are_prepared_by_each_sides_own(capsys, folders) -> None:
    argv = ["compare", "before", "same", "--images", *SAMPLES[:2]]
    code, out, err = run(capsys, *argv)
    assert (code, err) == (0, "")
    assert "preprocessing" in out
    config = json.loads((folders / "same" / "config.json").read_text())
    config["pretrained_cfg"]["interpolation"] = "nearest"
    other = folders / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    (other / "model.safetensors").write_bytes(
        (folders / "same" / "model.safetensors").read_bytes()
    )
    code, out, _ = run(capsys, "compare", "before", other, "--images", SAMPLES[0])
    assert code == 1
    assert "preprocessing.interpolation: 'bicubic', 'nearest'" in out


def test_pictures_come_as_folders_and_lists(folders) -> None:
    command = [sys.executable, "-m", "vitpool", "compare", "before", "same", "--json"]
    for argv, given in (
        ([SAMPLES[0].parent], ""),
        (["-"], "\n".join(map(str, SAMPLES))),
        (["-", "-z"], "\0".join(map(str, SAMPLES))),
    ):
        done = subprocess.run(
            [*command, "--images", *map(str, argv)], input=given, cwd=folders,
            capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["stages"][0]["shape"][0] == len(SAMPLES)


# -------------------------------------------------------------------------- a terminal


@pytest.mark.parametrize("columns", [40, 200])
def test_a_terminal_has_the_answer_alone(folders, columns) -> None:
    argv = ["compare", folders / "before", folders / "after"]
    code, got = on_terminal(*argv, columns=columns)
    assert code == 1
    lines = seen(got)
    assert lines[0].startswith("they part at blocks.7.mlp")
    assert any(line.startswith("head ") for line in lines)


def test_a_reader_that_has_had_enough_is_no_error(folders) -> None:
    done = subprocess.run(
        f"{sys.executable} -m vitpool compare before after | head -1",
        shell=True, cwd=folders, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith("they part at blocks.7.mlp")
    assert done.stderr == ""
