# SPDX-License-Identifier: Apache-2.0
"""`vitpool audit`: its exit codes, its words, its files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli_models import run

from vitpool.testing.audit import chosen

MODELS = """\
import os

from vitpool import VisionTransformer

def sound(**options):
    return VisionTransformer(**options)

class Fork(VisionTransformer):
    def reset_classifier(self, num_classes, global_pool=None):
        pool = global_pool.strip() if isinstance(global_pool, str) else global_pool
        super().reset_classifier(num_classes, pool)

class Dies(VisionTransformer):
    def reset_classifier(self, num_classes, global_pool=None):
        os._exit(7)

def unmade(**options):
    raise OSError("no file")
"""
SMALL = ("img_size=32", "patch_size=16", "embed_dim=32", "depth=1", "num_heads=2")
NAMES = "near_misses_are_refused_by_reset"


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("models_of_mine.py").write_text(MODELS)


def audit(capsys: Any, name: str, *argv: str) -> tuple[int, str, str]:
    text = f"models_of_mine.py:{name}"
    code, out, err = run(capsys, "audit", text, *argv, "--kwargs", *SMALL)
    return code, out, err


def test_no_finding_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = audit(capsys, "sound", "--only", NAMES)
    assert code == 0, (out, err)
    assert "1 model" in out
    assert err == ""


def test_findings_are_1_and_v_prints_their_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = audit(capsys, "Fork", "--only", NAMES)
    assert code == 1
    assert f"D  {NAMES}" in out
    assert "takes 'map ' (as 'map'), ' avg' (as 'avg')" not in out  # a token model
    assert "' avg' (as 'avg')" in out
    assert "model.reset_classifier" not in out
    code, out, _ = audit(capsys, "Fork", "--only", NAMES, "-v")
    assert code == 1
    assert "model.reset_classifier(5, name)" in out


def test_a_crash_is_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = audit(capsys, "Dies", "--only", NAMES)
    assert code == 1
    assert "the process ended with exit code 7" in out


def test_what_cannot_run_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = audit(capsys, "unmade", "--only", NAMES)
    assert code == 2
    assert "no model can be made: OSError: no file" in out
    for argv, words in (
        ((), "say what to audit: timm[:PATTERN]"),
        (("tim:x",), "did you mean 'timm'?"),
        (("vitpool:resnet*",), "no architecture of vitpool matches 'resnet*'"),
        (("models_of_mine.py:For",), "no such name; did you mean 'Fork'?"),
        (
            ("vitpool", "--only", "near"),
            "--only: there is no check 'near'",
        ),
        (("vitpool", "--html", "."), "--html: . is a folder"),
        (("vitpool", "-j", "0"), "-j"),
    ):
        code, out, err = run(capsys, "audit", *argv)
        assert (code, out) == (2, ""), argv
        assert words in err, argv


def test_list_has_every_check_and_its_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "audit", "--list")
    assert code == 0
    told = " ".join(out.split())
    for check in chosen():
        assert check.name in told
        assert " ".join(check.sentence.split()) in told
    code, out, _ = run(capsys, "audit", "--list", "--json", "--skip", NAMES)
    assert json.loads(out).keys() == {c.name for c in chosen(skip=[NAMES])}


def test_json_and_html_tell_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = audit(capsys, "Fork", "--only", NAMES, "--json", "--html", "a.html")
    assert code == 1
    told = json.loads(out)
    assert not told["ok"]
    assert told["counts"]["D"] == 1
    (found,) = told["classes"][0]["findings"]
    assert found["check"] == NAMES
    assert "vitpool" in told
    assert NAMES in Path("a.html").read_text()


def test_several_subjects_come_in_the_order_in_which_they_were_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = [f"models_of_mine.py:{name}" for name in ("Fork", "sound", "Dies")]
    argv = [*texts, "--only", NAMES, "--json", "--kwargs", *SMALL]
    _, out, _ = run(capsys, "audit", *argv)
    assert [told["name"] for told in json.loads(out)["classes"]] == texts


def test_architectures_of_vitpool_are_audited(
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["vitpool:vit_base_patch16_siglip*", "--only", NAMES, "-q"]
    code, out, err = run(capsys, "audit", *argv)
    assert code == 0, (out, err)
    assert "vitpool:vit_base_patch16_siglip_224" in out
