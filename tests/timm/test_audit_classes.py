# SPDX-License-Identifier: Apache-2.0
"""timm's own classes audited: the table is whole, and what is found is there.

`make audit` audits all of them and runs every program; here it is a sample.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import audited
import prepare  # noqa: F401
import pytest
import torch

from vitpool.testing.audit import Audit, chosen
from vitpool.testing.audit.process import audit_many
from vitpool.testing.audit.timm import classes, entries, installed, table, unaudited
from vitpool.testing.audit.timm.installed import own_classes

PAGE = Path(__file__).parents[2] / "docs" / "audited.md"
# One of each family of faults: a table of positions, a head over the width of a map,
# names by their ends, an attention pool, options without a say, no head to reset.
SAMPLE = (
    "beit.Beit[window 5x13]",
    "resnet.ResNet",
    "swin_transformer.SwinTransformer",
    "vision_transformer.VisionTransformer[prr]",
    "deit.VisionTransformerDistilled",
    "qwen3_vit.Qwen3VitEncoder",
)
# A fault of each, as it was found by hand: the check, and a word of what it says.
KNOWN = {
    "beit.Beit[window 5x13]": [
        ("a_refused_reset_changes_nothing", "num_classes"),
        ("own_checkpoint_passes_the_filter", "relative_position_bias_table"),
    ],
    "resnet.ResNet": [
        ("forward_runs_after_resets", "''"),
        ("near_misses_are_refused_by_reset", "'CatAvgMax'"),
    ],
    "swin_transformer.SwinTransformer": [
        ("near_misses_are_refused_by_reset", "'softmax'"),
        ("near_misses_are_refused_by_reset", "' avg'"),
    ],
    "vision_transformer.VisionTransformer[prr]": [
        (
            "output_is_that_of_a_model_built_that_way",
            "'prr', reset_classifier(7, 'avg')",
        ),
    ],
    "deit.VisionTransformerDistilled": [
        ("every_parameter_is_used", "fc_norm"),
        ("every_parameter_is_used", "reg_token"),
        ("options_that_are_taken_run", "no_embed_class"),
        ("attributes_tell_classes_and_pool", "''"),
    ],
    "qwen3_vit.Qwen3VitEncoder": [
        ("classifier_methods_are_there", "reset_classifier"),
    ],
}


@pytest.fixture(scope="module")
def audits() -> dict[str, Audit]:
    chosen = [entry for name in SAMPLE for entry in classes(name)]
    found = {audit.name: audit for audit in audit_many(chosen)}
    assert sorted(found) == sorted(SAMPLE)
    return found


def test_the_table_has_every_class_of_timm_and_no_other():
    assert {entry.cls for entry in entries()} == set(own_classes())
    assert unaudited() == []


def test_a_class_that_the_table_lacks_is_named(monkeypatch):
    rest = tuple(entry for entry in entries() if entry.cls != "resnet.ResNet")
    monkeypatch.setattr(installed, "entries", lambda: rest)
    (audit,) = unaudited()
    assert audit.name == "resnet.ResNet"
    assert not audit.ok
    assert unaudited("regnet*") == []


@pytest.mark.parametrize("entry", entries(), ids=[entry.name for entry in entries()])
def test_each_small_model_is_of_its_class_and_runs(entry):
    module, name = entry.cls.split(".")
    cls = getattr(importlib.import_module(f"timm.models.{module}"), name)
    make = entry.subject().make
    with torch.device("meta"):
        model = make(**entry.kwargs).eval()
        assert type(model) is cls
        model(torch.zeros(2, *entry.input_size))


@pytest.mark.parametrize("name", SAMPLE)
def test_what_is_known_is_found(name, audits):
    told = [(finding.check, finding.message) for finding in audits[name].findings]
    for check, word in KNOWN[name]:
        assert any(c == check and word in message for c, message in told), (check, word)


@pytest.mark.parametrize("name", SAMPLE)
def test_no_check_breaks(name, audits):
    assert [skip for skip in audits[name].skips if skip.failed] == []


def test_programs_show_their_findings_in_fresh_processes(audits):
    """One of each check that finds what is worst; `make audit` runs them all."""
    worst = [
        replace(audit, findings=tuple(f for f in audit.findings if f.severity in "AB"))
        for audit in audits.values()
    ]
    programs = {
        name.partition(": ")[2]: (name, message, program)
        for name, message, program in audited.programs_of(worst, True)
    }
    assert audited.objections([*programs.values()]) == []


@pytest.mark.parametrize(
    ("program", "word"),
    [
        ("pass", "passes"),
        ("raise KeyError('x')", "fails otherwise: KeyError: 'x'"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
)
def test_a_program_that_shows_something_else_is_objected_to(program, word):
    (line,) = audited.objections([("a.A: check", "forward fails: shapes", program)])
    assert word in line
    shown = ("a.A: check", "forward fails: KeyError", "raise KeyError('x')")
    assert audited.objections([shown]) == []


@pytest.mark.parametrize("name", SAMPLE)
def test_the_page_tells_what_the_command_finds(name, audits):
    """Each class with a finding of a check is named in that check's section."""
    findings, _, _ = PAGE.read_text("utf-8").partition("\n## By class\n")
    sections = findings.split("\n### ")[1:]
    told = {
        section.partition("\n")[0]
        for section in sections
        if f"{name}," in section or f"{name}.\n" in section
    }
    found = {finding.check for finding in audits[name].findings}
    assert told == found


def test_an_entry_is_built_as_its_line_says():
    entry = table._read("resnet.ResNet[wide]  32x64  ResNet(BasicBlock, layers=(1,))")
    assert entry.kwargs == {"layers": (1,)}
    assert entry.input_size == (3, 32, 64)
    assert entry.source == (
        "from timm.models.resnet import BasicBlock, ResNet\n\n"
        "def make(**kwargs):\n    return ResNet(BasicBlock, **kwargs)"
    )


def test_the_page_has_words_of_vitpool_for_each_check_and_no_other():
    assert set(audited.WORDS["vitpool"]) == {check.name for check in chosen()}
