# SPDX-License-Identifier: Apache-2.0
"""`vitpool finetune`: what is wrong is said before a byte is written; what is left."""

from __future__ import annotations

import csv
import errno
import importlib.util
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapes
from test_cli import DEFAULT, run
from test_plot_report import Page

import vitpool
from vitpool.cli import finetune_run
from vitpool.text import printable
from vitpool.train import PictureList, Trainer

QUICK = ("--epochs", 2, "-b", 8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.folders(tmp_path_factory.mktemp("shapes") / "train")


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """The same, for a test to spoil."""
    shutil.copytree(data, tmp_path / "own")
    return tmp_path / "own"


def finetune(capsys: Any, data: Path, out: Path, *argv: object) -> tuple[int, str]:
    """Exit code and stderr without the word on the default model."""
    code, _, err = run(capsys, "finetune", data, "-o", out, *argv)
    return code, err.replace(f"{DEFAULT}\n", "")


def refused(
    capsys: Any, data: Path, out: Path, *argv: object, code: int = 2, lines: int = 1
) -> str:
    """The last line of a run that ends before anything is written."""
    before = sorted(out.rglob("*")) if out.is_dir() else out.exists()
    got, err = finetune(capsys, data, out, *argv)
    assert got == code, err
    said = err.splitlines()
    assert len(said) == lines, err
    assert all(line.startswith("vitpool: ") for line in said)
    assert (sorted(out.rglob("*")) if out.is_dir() else out.exists()) == before
    return said[-1].removeprefix("vitpool: ")


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------- what is wrong


def test_data_without_classes_to_tell_apart_is_refused(capsys, own, tmp_path) -> None:
    out = tmp_path / "out"
    said = refused(capsys, tmp_path / "none", out)
    assert said == f"{tmp_path}/none: No such file or directory"
    (tmp_path / "empty").mkdir()
    assert "no class folders in it" in refused(capsys, tmp_path / "empty", out)
    assert "no class folders" in refused(capsys, own / "cross", out)
    (own / "blank").mkdir()
    assert refused(capsys, own, out) == (
        f"{own}: class folders without a picture: blank"
    )
    for name in ("blank", "cross", "square"):
        shutil.rmtree(own / name)
    assert "one class only, 'circle'" in refused(capsys, own, out)


def test_a_class_with_one_picture_is_named(capsys, own, tmp_path) -> None:
    for path in (own / "cross").glob("[1-9]*"):
        path.unlink()
    said = refused(capsys, own, tmp_path / "out")
    assert said == (
        f"{own}: classes with fewer than 2 pictures, one to train on and one to judge "
        "by: cross (1)"
    )
    # it is enough where others are there to judge by
    val = shapes.folders(tmp_path / "val", count=1, first=50)
    code, err = finetune(capsys, own, tmp_path / "out", "--val", val, *QUICK)
    assert code == 0, err


def test_a_picture_that_cannot_be_read_stops_or_is_left_out(
    capsys, own, tmp_path
) -> None:
    broken = own / "cross" / "b\nad.png"
    broken.write_bytes((own / "cross" / "0.png").read_bytes()[:60])
    (own / "circle" / "none.jpg").write_text("no picture")
    out = tmp_path / "out"
    said = refused(capsys, own, out, code=1)
    assert said.startswith(f"{own}/circle/none.jpg: not a picture")
    assert said.endswith("(and 1 more pictures); --on-error skip leaves it out")
    code, err = finetune(capsys, own, out, "--on-error", "skip", *QUICK)
    assert code == 1
    first = err.splitlines()[0]
    assert first.startswith("vitpool: 2 of 26 pictures could not be read and are left")
    assert printable(str(broken)) in first
    page = Page(out / "report.html")
    assert "2 pictures could not be read, and were left out." in page.words
    told = json.loads((out / "finetune.json").read_text())
    assert set(told["skipped"]) == {str(broken), f"{own}/circle/none.jpg"}
    # of a run that is done it is known
    code, err = finetune(capsys, own, out, "--on-error", "skip", *QUICK)
    assert code == 1
    assert "this run is done" in err


def test_a_class_that_loses_its_pictures_is_named(capsys, own, tmp_path) -> None:
    for path in (own / "cross").glob("[1-9]*"):
        path.write_bytes(b"none")
    out = tmp_path / "out"
    said = refused(capsys, own, out, "--on-error", "skip", lines=2)
    assert "fewer than 2 pictures" in said
    assert said.endswith("cross (1)")
    (own / "cross" / "0.png").write_bytes(b"none")
    said = refused(capsys, own, out, "--on-error", "skip", lines=2)
    assert said == "no picture of a class could be read: cross"


def test_pictures_to_judge_by_have_the_same_classes(capsys, data, tmp_path) -> None:
    val = shapes.folders(tmp_path / "val", count=2, first=50)
    (val / "cross").rename(val / "crass")
    said = refused(capsys, data, tmp_path / "out", "--val", val)
    assert "class 'crass' is none of those that are known; did you mean 'cross'" in said
    # but not all of them
    shutil.rmtree(val / "crass")
    code, err = finetune(capsys, data, tmp_path / "out", "--val", val, *QUICK)
    assert code == 0
    assert err.splitlines()[-1].startswith("vitpool: ")
    assert "of 4 held-out pictures right" in err


def test_pictures_to_judge_by_that_are_trained_on_are_said(
    capsys, data, tmp_path
) -> None:
    val, out = shapes.folders(tmp_path / "val", count=2, first=7), tmp_path / "out"
    code, err = finetune(capsys, data, out, "--val", val, *QUICK)
    assert code == 0
    said = "3 of 6 held-out pictures are trained on: "
    assert err.startswith(f"vitpool: {said}{val}/circle/7.png")
    assert said in Page(out / "report.html").words


def test_a_csv_is_read_and_its_faults_have_a_line(capsys, data, tmp_path) -> None:
    listed, out = tmp_path / "labels.csv", tmp_path / "out"
    paths = sorted(data.rglob("*.png"))
    rows = [f"{path},{path.parent.name}" for path in paths]
    listed.write_text("\n".join(["path,label", *rows, "x.png"]))
    assert refused(capsys, listed, out).startswith(f"{listed}, line 26: 1 fields")
    listed.write_text("\n".join(["path,label", *rows, "x.png,cross"]))
    said = refused(capsys, listed, out, code=1)
    assert said.startswith(f"{tmp_path}/x.png: No such file or directory")
    listed.write_text("\n".join(["path,label", *rows]))
    code, err = finetune(capsys, listed, out, *QUICK)
    assert code == 0, err
    assert json.loads((out / "config.json").read_text())["label_names"] == [
        *shapes.CLASSES
    ]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--train", 99], "--train must be at most the model's 3 blocks, not 99"),
        (["--lr", -1], "--lr must be at least 0, not -1"),
        (["--holdout", 1], "--holdout: 1.0, allowed is 0 to below 1"),
        (["--mixup", -0.5], "--mixup must be at least 0"),
        (["--epochs", 3, "--warmup", 3], "--warmup must be below epochs, 3, not 3"),
        (["--smoothing", 2], "--label-smoothing must be"),
        (["--gp", "gem"], "--global-pool must be"),
        (["--aa", "rand-m9-x3"], "--auto-augment"),
        (["--aa", "rand-m9", "--no-augment"], "are contrary"),
        (["--patience", 2, "--holdout", 0], "--patience needs pictures to judge by"),
        (["--no-reset"], "keeps the head of vit_digits, of 10 classes; "),
        (["--no-reset", "--gp", "avg"], "--no-reset keeps the model's pool, 'map'"),
        (["--model-kwargs", "num_classes=3"], "is the number of DATA's classes"),
        (["--drop-path", 0.1], "drop"),
        (["--checkpoint", "none.safetensors"], "no such weights file"),
        (["--crop-pct", 0], "--crop-pct"),
        (["-m", "vit_digitz"], "did you mean 'vit_digits'"),
    ],
)
def test_an_option_that_cannot_be_is_named(capsys, data, tmp_path, argv, said) -> None:
    got = refused(capsys, data, tmp_path / "out", *argv)
    assert said in got


def test_a_model_that_no_config_can_tell_is_refused_before_it_is_trained(
    capsys, data, tmp_path, monkeypatch
) -> None:
    """Not after it."""
    odd = vitpool.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=32, depth=1, num_heads=2, seed=0,
        norm_layer=("layernorm", 1e-3),
    )  # fmt: skip
    monkeypatch.setattr(vitpool, "create_model", lambda *_, **__: odd)
    said = refused(capsys, data, tmp_path / "out")
    assert said.startswith("timm's config.json cannot say norm_layer=")


def test_states_are_written_by_the_minute_or_the_hundred(data) -> None:
    """The most that a kill costs."""

    def every(name: str, cached: str | None, train: str | int) -> int:
        model = vitpool.create_model(name)
        trainer = Trainer(model, train, batch_size=64)
        return finetune_run._every(SimpleNamespace(  # type: ignore[arg-type]
            model=model, trainer=trainer, cached=cached
        ))  # fmt: skip

    assert every("vit_digits", None, "all") == 100
    assert every("vit_tiny_patch16_224", "float32", "pool") == 100
    assert every("vit_tiny_patch16_224", "float32", 1) == 6
    assert every("vit_base_patch16_224", None, "pool") == 1


def test_a_folder_that_cannot_be_out_is_refused(capsys, data, tmp_path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert refused(capsys, data, file) == f"{file}: is a file; -o names a folder"
    said = refused(capsys, data, file / "out")
    assert said == f"{file}/out: {file} is a file"
    for out in (data, data / "out"):
        said = refused(capsys, data, out)
        assert said == f"-o {out}: lies in {data}, whose folders are classes"
    model = tmp_path / "model"
    vitpool.create_model("vit_digits", pretrained=True).save_pretrained(model)
    said = refused(capsys, data, model)
    assert said.startswith(f"{model}: has config.json, model.safetensors, of no")


def test_a_disk_that_is_too_small_is_told(capsys, data, tmp_path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    said = refused(capsys, data, tmp_path / "out")
    assert re.search(
        r"needs \d\d MB on the disk, where 1 MB are free; --cache off", said
    )


def test_a_disk_that_is_full_after_all_names_the_file(
    capsys, data, tmp_path, monkeypatch
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, err = finetune(capsys, data, out, *QUICK)
    assert code == 2
    assert err == f"vitpool: {out}/finetune.json: No space left on device\n"
    assert finetune(capsys, data, out, *QUICK)[0] == 0  # where there is room again


def test_a_learning_rate_that_blows_up_says_so(capsys, data, tmp_path) -> None:
    out = tmp_path / "out"
    argv = ["--lr", 1e30, "--weight-decay", 0, "--opt", "sgd", *QUICK]
    code, err = finetune(capsys, data, out, *argv)
    assert code == 2
    assert "training diverged: " in err.splitlines()[-1]
    assert not (out / "config.json").exists()


# ---------------------------------------------------------------------- what it leaves


def test_a_run_leaves_a_model_a_history_and_a_report(capsys, data, tmp_path) -> None:
    out = tmp_path / "out"
    code, out_text, err = run(
        capsys, "finetune", data, "-o", out, "--epochs", 12, "-b", 8, "--seed", 3
    )
    assert code == 0, err
    assert out_text == f"{out}\n"
    assert sorted(path.name for path in out.iterdir()) == [
        *("config.json", "finetune.json", "history.csv", "model.safetensors"),
        *("report", "report.html", "validation.csv"),
    ]
    said = [line for line in err.splitlines() if "epoch " in line]
    assert len(said) == 13
    assert said[0].startswith("vitpool: epoch 1/12: loss ")

    history = table(out / "history.csv")
    assert [row["epoch"] for row in history] == [str(e) for e in range(1, 13)]
    losses = [float(row["loss"]) for row in history]
    assert losses[-1] < losses[0]

    config = json.loads((out / "config.json").read_text())
    assert config["label_names"] == [*shapes.CLASSES]
    assert (config["num_classes"], config["global_pool"]) == (3, "map")

    # a model's folder: it says of the pictures what the run has written down
    judged = table(out / "validation.csv")
    assert len(judged) == 6
    paths = [row["path"] for row in judged]
    _, text, _ = run(capsys, "classify", "-m", out, *paths, "--json", "--topk", 1)
    right = 0
    for line, row in zip(text.splitlines(), judged, strict=True):
        (best,) = json.loads(line)["classes"]
        assert best["label"] == row["predicted"]
        assert best["prob"] == pytest.approx(float(row["probability"]), rel=1e-4)
        assert row["label"] == Path(row["path"]).parent.name
        right += row["label"] == row["predicted"]
    told = json.loads((out / "finetune.json").read_text())
    assert told["done"]
    assert told["result"]["accuracy"] == right / 6
    accuracies = [float(row["val_accuracy"]) for row in history]
    assert max(accuracies) == pytest.approx(right / 6)
    assert f"{right} of 6 held-out pictures right" in err

    page = Page(out / "report.html")
    assert {f"report/{p.name}" for p in (out / "report").iterdir()} == set(page.shown)
    assert f"vitpool finetune {data} -o {out} --epochs 12 -b 8 --seed 3" in page.words


def test_what_was_held_out_can_be_read_as_data(
    capsys, data, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(data.parent)
    out = tmp_path / "out"
    assert finetune(capsys, Path(data.name), out, *QUICK)[0] == 0
    again = PictureList(out / "validation.csv")
    assert again.classes == shapes.CLASSES
    assert [Path(path).parent.parent for path in again.sources] == [data] * 6


def test_names_of_any_bytes_are_classes(capsys, own, tmp_path) -> None:
    odd = os.fsdecode(b"<b>\xff\n")
    (own / "cross").rename(own / odd)
    (own / odd / "0.png").rename(own / odd / os.fsdecode(b"\x1b\xfe.png"))
    out = tmp_path / "out"
    code, err = finetune(capsys, own, out, "--val", own, *QUICK)
    assert code == 0, err
    assert "\x1b" not in err
    assert json.loads((out / "config.json").read_text())["label_names"][0] == odd
    page = Page(out / "report.html")
    assert "<b>\\udcff\\n" in page.words
    _, text, _ = run(capsys, "classify", "-m", out, own, "--topk", 3)
    assert text.count("<b>\\udcff\\n") == 24 + 8
    assert b"\x1b\xfe.png" in (out / "validation.csv").read_bytes()


def test_the_split_is_stratified_and_follows_from_the_seed(
    capsys, data, tmp_path
) -> None:
    held = []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / str(number)
        argv = ["--holdout", 0.25, "--seed", seed, "--epochs", 1]
        assert finetune(capsys, data, out, *argv)[0] == 0
        rows = table(out / "validation.csv")
        labels = [row["label"] for row in rows]
        assert labels == [name for name in shapes.CLASSES for _ in range(2)]
        held.append([row["path"] for row in rows])
    assert held[0] == held[1] != held[2]


@pytest.mark.parametrize(
    ("argv", "changed"),
    [
        (["--train", "head"], {"head"}),
        (["--train", "pool"], {"head", "attn_pool"}),
        (["--train", 1], {"head", "attn_pool", "norm", "blocks.2"}),
        (["--train", "pool", "--cache", "bfloat16"], {"head", "attn_pool"}),
        (["--train", "pool", "--cache", "off", "--cutmix", 1], {"head", "attn_pool"}),
        (["--train", "pool", "--augment"], {"head", "attn_pool"}),
        (
            ["--train", "all", "--aa", "rand-m5-mstd0.5", "--mixup", 0.5, "--ema", 0.5],
            {"head", "attn_pool", "norm", "blocks.0", "blocks.1", "blocks.2",
             "patch_embed", "pos_embed"},
        ),
    ],
)  # fmt: skip
def test_what_trains_is_what_was_asked_for(
    capsys, data, tmp_path, argv, changed
) -> None:
    out = tmp_path / "out"
    code, err = finetune(capsys, data, out, *QUICK, "--lr", 0.01, *argv)
    assert code == 0, err
    before = vitpool.create_model("vit_digits", pretrained=True).state_dict()
    after = vitpool.create_model(f"local-dir:{out}", pretrained=True).state_dict()
    differ = {
        re.match(r"blocks\.\d|\w+", name)[0]
        for name in after
        if not np.array_equal(before[name], after[name])
    }
    assert differ == changed


def test_the_same_run_gives_the_same_bytes_on_any_threads(
    capsys, data, tmp_path
) -> None:
    weights = []
    for threads in (1, 2, 1):
        out = tmp_path / str(len(weights))
        argv = ["--train", 1, "--threads", threads, "-j", threads, *QUICK]
        assert finetune(capsys, data, out, *argv)[0] == 0
        weights.append((out / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]
    finetune(capsys, data, tmp_path / "4", "--train", 1, *QUICK, "--seed", 1)
    assert (tmp_path / "4" / "model.safetensors").read_bytes() != weights[0]


def test_a_pool_that_is_new_is_said_and_saved(capsys, data, tmp_path) -> None:
    out = tmp_path / "out"
    code, err = finetune(capsys, data, out, "--gp", "prr", "--train", "head", *QUICK)
    assert code == 0
    assert err.startswith(
        "vitpool: the model has no prr pool: a fresh one is drawn\n"
        "vitpool: --train head leaves that pool as it was drawn; see --train pool\n"
    )
    model = vitpool.create_model(f"local-dir:{out}", pretrained=True)
    assert model.global_pool == "prr"
    # the pool that is there is kept, and nothing said
    code, err = finetune(capsys, data, tmp_path / "map", "--gp", "map", *QUICK)
    assert "fresh" not in err


def test_a_head_is_kept_if_it_is_of_the_same_classes(capsys, data, tmp_path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert finetune(capsys, data, first, *QUICK)[0] == 0
    argv = ["-m", first, "--no-reset", "--lr", 0, "--train", "head", *QUICK]
    code, err = finetune(capsys, data, second, *argv)
    assert code == 0, err
    assert (first / "model.safetensors").read_bytes() == (
        second / "model.safetensors"
    ).read_bytes()
    renamed = shutil.copytree(data, tmp_path / "renamed")
    (renamed / "cross").rename(renamed / "plus")
    said = refused(capsys, renamed, tmp_path / "third", "-m", first, "--no-reset")
    assert "of other classes: circle, cross, square;" in said


def test_how_pictures_are_prepared_is_saved_with_the_model(
    capsys, data, tmp_path
) -> None:
    out = tmp_path / "out"
    argv = ["--crop-pct", 0.5, "--mean", 0.25, "--interpolation", "bilinear", *QUICK]
    assert finetune(capsys, data, out, *argv)[0] == 0
    cfg = json.loads((out / "config.json").read_text())["pretrained_cfg"]
    assert (cfg["crop_pct"], cfg["interpolation"]) == (0.5, "bilinear")
    assert cfg["mean"] == [0.25, 0.25, 0.25]


def test_without_held_out_pictures_the_last_epoch_is_kept(
    capsys, data, tmp_path
) -> None:
    out = tmp_path / "out"
    code, err = finetune(capsys, data, out, "--holdout", 0, *QUICK)
    assert code == 0
    assert "held out: " not in err
    assert err.endswith("vitpool: 2 epochs; no pictures were held out to judge by\n")
    assert not (out / "validation.csv").exists()
    assert "nothing says how good it is" in Page(out / "report.html").words


def test_early_stop_is_said(capsys, data, tmp_path) -> None:
    out = tmp_path / "out"
    argv = ["--lr", 0, "--epochs", 9, "--patience", 2]
    code, err = finetune(capsys, data, out, *argv)
    assert code == 0
    assert "vitpool: stopped early: no better epoch in 2\n" in err
    assert len((out / "history.csv").read_text().splitlines()) == 1 + 3


def test_a_report_that_cannot_be_drawn_is_left_out_loudly(
    capsys, data, tmp_path, monkeypatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "matplotlib" else find(name, *more),
    )
    out = tmp_path / "out"
    code, err = finetune(capsys, data, out, *QUICK)
    assert code == 0
    assert err.startswith(
        "vitpool: no report: it needs matplotlib (pip install matplotlib)\n"
    )
    assert not (out / "report.html").exists()
    assert (out / "config.json").exists()


def test_quiet_says_nothing_but_the_verdict(capsys, data, tmp_path) -> None:
    code, _, err = run(capsys, "finetune", data, "-o", tmp_path / "out", "-q", *QUICK)
    assert code == 0
    assert len(err.splitlines()) == 1
