# SPDX-License-Identifier: Apache-2.0
"""The command's models: the default one, heads without training, and the list."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_cli import DEFAULT, DIGITS, EMBED, SAMPLES, run

import vitpool
from vitpool.cli.list import MODULES


def commands(tmp_path: Path) -> dict[str, list[object]]:
    return {
        "classify": [SAMPLES[0]],
        "embed": [SAMPLES[0], "-o", tmp_path / "out"],
        "attention": [SAMPLES[0], "-o", tmp_path / "a.png"],
        "convert": ["-o", tmp_path / "model"],
        "info": [],
        "benchmark": ["--num-bench-iter", 1],
    }


NAMES = ("classify", EMBED, "attention", "convert", "info", "benchmark")


@pytest.mark.parametrize("name", NAMES)
def test_the_default_model_says_what_it_is_once(capsys, tmp_path, name) -> None:
    argv = [name, *commands(tmp_path)[name]]
    code, out, err = run(capsys, *argv)
    assert code == 0
    assert (err.count(DEFAULT), DEFAULT in out) == (1, False)
    for more in (["-m", "vit_digits"], ["--model=vit_digits"], ["-m", DIGITS]):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        code, _, err = run(capsys, *argv, *more)
        assert (code, "chooses" in err) == (0, False)


@pytest.mark.parametrize("name", NAMES[:4])
@pytest.mark.parametrize(
    "classes", [["--num-classes", 5], ["--model-kwargs", "num_classes=5"]]
)
def test_a_head_without_training_is_refused(capsys, tmp_path, name, classes) -> None:
    argv = [name, *commands(tmp_path)[name], *classes]
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err == (
        "vitpool: the weights of vit_digits have a head of 10 classes: one of 5 would "
        "be untrained; --new-head takes it so\n"
    )
    assert list(tmp_path.iterdir()) == []
    assert run(capsys, *argv, "--new-head")[0] == 0
    code, _, err = run(capsys, name, *commands(tmp_path)[name], "--new-head")
    assert code == 2
    assert "--new-head: say with --num-classes" in err


def test_it_is_refused_before_weights_are_fetched(capsys, monkeypatch) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("vitpool.registry.create._weights_file", fetch)
    argv = ["-m", "vit_base_patch16_siglip_224", "--num-classes", 3]
    code, _, err = run(capsys, "classify", SAMPLES[0], *argv)
    assert code == 2
    assert "have no head: one of 3 would be untrained" in err


def test_a_folder_knows_which_head_it_has(capsys, tmp_path) -> None:
    folder = tmp_path / "model"
    argv = ["-m", "vit_digits", "--num-classes", 3, "--new-head"]
    assert run(capsys, "convert", *argv, "-o", folder)[0] == 0
    argv = ["classify", SAMPLES[0], "-m", folder, "--num-classes"]
    assert run(capsys, *argv, 3)[0] == 0
    assert run(capsys, *argv, 10)[0] == 2


# ---------------------------------------------------------------------- list --long


def test_the_long_list_is_what_the_models_are(capsys) -> None:
    code, out, err = run(capsys, "list", "-l", "--json")
    assert (code, err) == (0, "")
    models = {model["name"]: model for model in json.loads(out)}
    assert list(models) == vitpool.list_models()
    for name in ("vit_digits", "vit_tiny_patch16_224", "vit_wee_patch16_reg1_gap_256"):
        model = vitpool.create_model(name)
        told = models[name]
        assert told["parameters"] == sum(
            int(np.prod(shape)) for shape in model.param_shapes().values()
        )
        assert told["img_size"] == list(model.patch_embed.img_size)
        assert told["global_pool"] == model.global_pool
        assert told["num_classes"] == model.num_classes
        assert told["license"] == model.pretrained_cfg["license"]


def test_its_columns_stand_under_each_other(capsys) -> None:
    code, out, _ = run(capsys, "list", "-l", "--pretrained", "*siglip*")
    assert code == 0
    head, *lines = out.splitlines()
    names = head.split()
    assert names == ["name", "parameters", "size", "pool", "classes", "licence"]
    assert [line.split()[0] for line in lines] == vitpool.list_pretrained("*siglip*")
    assert len({line.index(" M ") for line in lines}) == 1
    assert all(line[head.index("licence") - 2 :][:2] == "  " for line in lines)
    assert "vit_base_patch16_siglip_224.webli" in out
    line = next(
        line for line in lines if line.startswith("vit_base_patch16_siglip_224")
    )
    assert line.split()[1:] == ["92.9", "M", "224x224", "map", "-", "apache-2.0"]
    code, out, err = run(capsys, "list", "-l", "nothing*")
    assert (code, out) == (1, "")
    assert "no model matches" in err


def test_a_module_is_timms(capsys) -> None:
    assert list(MODULES) == vitpool.list_modules()
    for module in MODULES:
        code, out, _ = run(capsys, "list", "--module", module)
        assert (code, out.split()) == (0, vitpool.list_models(module=module))
    code, out, _ = run(capsys, "list", "--module", "eva", "*dinov3*")
    assert (code, out.split()) == (0, vitpool.list_models("*dinov3*", "eva"))
    assert "vit_base_patch16_dinov3" in out
    code, out, err = run(capsys, "list", "--module", "deit", "*dinov3*")
    assert (code, out) == (1, "")
    assert "no model matches '*dinov3*' in timm's module 'deit'" in err


def test_another_module_is_refused_with_those_that_are_here(capsys) -> None:
    code, _, err = run(capsys, "list", "--module", "resnet")
    assert code == 2
    assert "'resnet'" in err
    assert "eva, naflexvit" in err


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_distilled_patch16_224",
        "vit_small_patch16_dinov3",
        "beit_base_patch16_224",
        "vit_relpos_small_patch16_224",
        "naflexvit_base_patch16_gap",
        "vit_base_mci_224",
    ],
)
def test_the_long_list_and_info_know_every_class(capsys, name) -> None:
    [row] = json.loads(run(capsys, "list", "-l", "--json", name)[1])
    about = json.loads(run(capsys, "info", "--json", "--model", name)[1])
    assert about["parameters"] == row["parameters"] > 1e6
    assert about["architecture"] == name
    assert about["global_pool"] == row["global_pool"]
    assert about["num_classes"] == row["num_classes"]
