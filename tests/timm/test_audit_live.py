# SPDX-License-Identifier: Apache-2.0
"""The audit on timm's own classes: what it finds, and that its programs show it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import ResNet, SwinTransformer, VisionTransformer
from timm.models.deit import VisionTransformerDistilled
from timm.models.resnet import BasicBlock

from vitpool.testing import audit
from vitpool.testing.audit import Audit, Subject

ROOT = Path(__file__).resolve().parents[2]
FRESH = str(ROOT / "tools" / "fresh")
VIT: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 16,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 10,
}
# What TIMM_AUDIT says of timm 1.0.31's ViT, by check: G1, G2, G6, G7, prr to avg, and
# pool(x, pool_type) that an attention pool, or a model without a class token, ignores.
OF_VIT = {
    "a_refused_reset_changes_nothing": "C",
    "new_head_is_initialised_as_built": "C",
    "refusals_survive_optimization": "C",
    "counts_that_are_none_are_refused": "D",
    "output_is_that_of_a_model_built_that_way": "A",
    "asked_pool_is_honoured": "AD",
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new process that imports timm finds torchvision mended."""
    monkeypatch.syspath_prepend(FRESH)


@pytest.fixture(scope="module")
def of_vit() -> Audit:
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = FRESH
    sys.path.insert(0, FRESH)
    try:
        return audit(VisionTransformer, **VIT)
    finally:
        sys.path.remove(FRESH)
        os.environ.pop("PYTHONPATH")
        if path is not None:
            os.environ["PYTHONPATH"] = path


def test_timms_vit_has_what_is_known_of_it_and_no_more(of_vit: Audit) -> None:
    found: dict[str, str] = {}
    for finding in of_vit.findings:
        severities = {*found.get(finding.check, ""), finding.severity}
        found[finding.check] = "".join(sorted(severities))
    assert found == OF_VIT, of_vit
    assert not [skip for skip in of_vit.skips if skip.failed]


def test_programs_show_what_they_tell(of_vit: Audit) -> None:
    for finding in of_vit.findings:
        with pytest.raises(AssertionError):
            exec(finding.reproduce, {})


def test_a_program_needs_nothing_of_the_process_that_found_it(of_vit: Audit) -> None:
    for finding in of_vit.findings[:1]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", finding.reproduce],
            env=os.environ | {"PYTHONPATH": FRESH, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, finding
        assert "AssertionError" in done.stderr.splitlines()[-1], finding


def test_a_refused_reset_of_an_attention_pool_loses_it(of_vit: Audit) -> None:
    (found,) = (f for f in of_vit.findings if "attn_pool" in f.message)
    assert "of a 'map' model raises, after it has changed" in found.message
    assert "num_classes, global_pool, attn_pool" in found.message


def test_swin_takes_softmax_for_max() -> None:
    options = {"img_size": 32, "patch_size": 2, "window_size": 4, "num_classes": 10}
    sizes = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2)}
    only = ["near_misses_are_refused_by_reset"]
    report = audit(SwinTransformer, only=only, **options, **sizes)
    told = {finding.severity: finding.message for finding in report.findings}
    assert "'softmax' (as 'max'), 'not_avg' (as 'avg')" in told["A"]
    assert "'CatAvgMax' (forward raises RuntimeError" in told["B"]
    assert "' avg' (as 'avg'), 'Avg' (as 'avg')" in told["D"]


def test_a_cnn_is_audited_as_well() -> None:
    report = audit(
        ResNet,
        block=BasicBlock,
        layers=(1, 1, 1, 1),
        channels=(8, 8, 8, 8),
        num_classes=10,
        only=["forward_runs_after_resets", "a_refused_reset_changes_nothing"],
    )
    assert {finding.severity for finding in report.findings} == {"B", "C"}
    assert "block=BasicBlock" in report.findings[0].reproduce
    assert not any(skip.failed for skip in report.skips)


def test_heads_of_a_distilled_model_are_both_looked_at() -> None:
    only = ["new_head_is_initialised_as_built", "the_body_is_left_alone"]
    (found,) = audit(VisionTransformerDistilled, only=only, **VIT).findings
    assert "head.weight" in found.message
    assert "head_dist.bias has 0 throughout when built" in found.message


# ------------------------------------------------------ faults that only torch can have


class InTraining(VisionTransformer):
    def reset_classifier(self, *args: Any, **kwargs: Any) -> None:
        super().reset_classifier(*args, **kwargs)
        self.head.train()


class OfFloat32(VisionTransformer):
    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self.head = torch.nn.Linear(self.embed_dim, num_classes)


class Frozen(VisionTransformer):
    def reset_classifier(self, *args: Any, **kwargs: Any) -> None:
        super().reset_classifier(*args, **kwargs)
        self.head.requires_grad_(self.norm.weight.requires_grad)


class Thaws(VisionTransformer):
    def reset_classifier(self, *args: Any, **kwargs: Any) -> None:
        super().reset_classifier(*args, **kwargs)
        self.requires_grad_(True)


class NewNorm(VisionTransformer):
    def reset_classifier(self, *args: Any, **kwargs: Any) -> None:
        super().reset_classifier(*args, **kwargs)
        self.norm = type(self.norm)(self.embed_dim, eps=1e-6)


class NoDropout(VisionTransformer):
    def reset_classifier(self, *args: Any, **kwargs: Any) -> None:
        super().reset_classifier(*args, **kwargs)
        self.head_drop = torch.nn.Dropout(0.0)


FAULTS = {
    InTraining: ("training_mode_is_kept", "after .train(False)"),
    OfFloat32: (
        "dtype_and_device_are_kept",
        "head.weight, head.bias with another dtype",
    ),
    Frozen: ("the_body_is_left_alone", "leaves the new head frozen: head."),
    Thaws: ("the_body_is_left_alone", "unfreezes cls_token"),
    NewNorm: ("the_body_is_left_alone", "changes the numbers of norm.weight"),
    NoDropout: ("head_options_are_kept", "Dropout(p=0.3"),
}


@pytest.mark.parametrize("make", FAULTS, ids=lambda make: str(make.__name__))
def test_a_planted_fault_is_named(make: Any) -> None:
    name, words = FAULTS[make]
    found = audit(make, only=[name], **VIT).findings
    assert words in found[0].message
    program = found[0].reproduce
    with pytest.raises(AssertionError):
        exec(program, {})
    exec(
        program.replace("test_audit_live", "timm.models").replace(
            make.__name__, "VisionTransformer"
        ),
        {},
    )


def test_torchs_threads_are_put_back_after_a_check() -> None:
    class Counts(VisionTransformer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            threads.add(torch.get_num_threads())

    threads: set[int] = set()
    torch.set_num_threads(2)
    try:
        audit(Counts, source="", only=["training_mode_is_kept"], **VIT)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert threads == {1, 2}


def test_modes_are_put_back_after_a_run() -> None:
    subject = Subject(VisionTransformer, kwargs=VIT)
    model = subject.build()
    model.train()
    model.blocks.eval()
    subject.run(model)
    assert model.training
    assert not model.blocks[0].training
