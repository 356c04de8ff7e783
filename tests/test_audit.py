# SPDX-License-Identifier: Apache-2.0
"""The audit: silent on sound models, vitpool's among them; planted faults are named.

The faults are planted in a small classifier over arrays; those of a Vision Transformer
in torch are in tests/timm.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import POOLS, Colours

import vitpool
from vitpool.testing import audit
from vitpool.testing.audit import CHECKS, Finding, Skip, Subject, checks_of, chosen
from vitpool.testing.audit.own import own_models
from vitpool.testing.audit.run import run_check

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent
SMALL = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}


class TakesNearMisses(Colours):
    """The pool is looked for at the end of the name."""

    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        if isinstance(global_pool, str):
            global_pool = next((p for p in POOLS if global_pool.endswith(p)), "none")
        super().reset_classifier(num_classes, global_pool)


class BuildsNearMisses(Colours):
    def __init__(self, num_classes: int = 4, global_pool: str = "avg") -> None:
        super().__init__(num_classes, global_pool.strip().lower())


class RefusesItsOwn(Colours):
    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        if global_pool == self.global_pool == "max":
            raise ValueError("max cannot be set again")
        super().reset_classifier(num_classes, global_pool)


class Asserts(Colours):
    @staticmethod
    def check(num_classes: Any, global_pool: Any) -> None:
        assert type(num_classes) is int and num_classes >= 0  # noqa: PT018
        assert global_pool in POOLS


class HalfChanged(Colours):
    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        self.num_classes = num_classes
        super().reset_classifier(num_classes, global_pool)


class ForgetsItsScale(Colours):
    """The output of a refused reset is another, and no attribute is."""

    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        self.scale *= 2
        super().reset_classifier(num_classes, global_pool)
        self.scale /= 2


class TakesAnyCount(Colours):
    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        if type(num_classes) is int and num_classes < 0:
            num_classes = 0
        super().reset_classifier(num_classes, global_pool)


class WideHead(Colours):
    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        rng = np.random.default_rng()
        self.weight = rng.normal(0, 0.1, self.weight.shape).astype(np.float32)


class BiasedHead(Colours):
    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self.bias = self.bias - 4


class Talks(Colours):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        print("made a model")


class IgnoresClasses(Colours):
    def __init__(self, num_classes: int = 4, global_pool: str = "avg") -> None:
        super().__init__(4, global_pool)


class IgnoresPool(Colours):
    def __init__(self, num_classes: int = 4, global_pool: str = "avg") -> None:
        super().__init__(num_classes, "avg")


class Copies(Colours):
    def __deepcopy__(self, memo: Any) -> Colours:
        return Colours(self.num_classes)


class Unpickled(Colours):
    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["num_classes"] != 4:
            raise RuntimeError("not these classes")
        vars(self).update(state)


class Headless(Colours):
    get_classifier = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name == "get_classifier":
            raise AttributeError(name)
        return super().__getattribute__(name)


class Dropless(Colours):
    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self.drop_rate = 0.0

    def __str__(self) -> str:
        return f"Colours(drop_rate={self.drop_rate})"


FAULTS = {
    TakesNearMisses: ("near_misses_are_refused_by_reset", "A"),
    BuildsNearMisses: ("near_misses_are_refused_by_the_constructor", "D"),
    RefusesItsOwn: ("own_pool_is_accepted_by_reset", "C"),
    Asserts: ("refusals_survive_optimization", "C"),
    HalfChanged: ("a_refused_reset_changes_nothing", "C"),
    ForgetsItsScale: ("a_refused_reset_changes_nothing", "C"),
    TakesAnyCount: ("counts_that_are_none_are_refused", "D"),
    WideHead: ("new_head_is_initialised_as_built", "C"),
    BiasedHead: ("new_head_is_initialised_as_built", "C"),
    Talks: ("nothing_is_printed", "D"),
    IgnoresClasses: ("options_are_heeded", "B"),
    IgnoresPool: ("options_are_heeded", "C"),
    Copies: ("copies_after_a_reset_are_true", "B"),
    Unpickled: ("copies_after_a_reset_are_true", "B"),
    Headless: ("classifier_methods_are_there", "C"),
    Dropless: ("head_options_are_kept", "C"),
}


def run_program(text: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(HERE), str(HERE.parent)))
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_sound_classifier_has_no_finding() -> None:
    report = audit(Colours)
    assert report.ok, report
    assert {*report.passed} == {*CHECKS} != set()


@pytest.mark.parametrize("make", FAULTS, ids=lambda make: str(make.__name__))
def test_a_planted_fault_is_named_and_its_program_fails(make: Any) -> None:
    name, severity = FAULTS[make]
    report = audit(make, only=[name])
    assert [(f.check, f.severity) for f in report.findings][:1] == [(name, severity)]
    program = report.findings[0].reproduce
    done = run_program(program)
    assert done.returncode != 0
    assert "Error" in done.stderr.splitlines()[-1]
    mended = program.replace(make.__name__, "Colours").replace("test_audit", "fakes")
    done = run_program(mended)
    assert done.returncode == 0, done.stderr


def test_a_near_miss_is_told_with_what_it_was_taken_for() -> None:
    report = audit(TakesNearMisses, only=["near_misses_are_refused_by_reset"])
    wrong, spelt = report.findings
    assert wrong.severity == "A"
    assert "'softmax' (as 'max'), 'not_avg' (as 'avg')" in wrong.message
    assert (spelt.severity, "' avg' (as 'avg')" in spelt.message) == ("D", True)


def test_damage_is_told_once_a_kind_with_its_calls() -> None:
    found, other = audit(HalfChanged, only=["a_refused_reset_changes_nothing"]).findings
    assert "num_classes, weight, bias" in other.message  # where it had none before
    assert found.message.startswith("reset_classifier(5, 'map ') (and ")
    told = "raises, after it has changed what it tells of itself: num_classes"
    assert found.message.endswith(told)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"global_pool": "map", "class_token": False},
        {"global_pool": "avg", "reg_tokens": 2, "qk_norm": True},
        {"global_pool": "prr", "img_size": (16, 48), "init_values": 0.1},
        {"block_fn": "ParallelScalingBlock", "final_norm": False, "num_classes": 3},
    ],
    ids=str,
)
def test_vitpools_models_have_no_finding(options: dict[str, Any]) -> None:
    report = audit(vitpool.VisionTransformer, **(SMALL | options))
    assert report.ok, report


def test_vitpools_architectures_are_entries_without_twins() -> None:
    entries = own_models("*siglip*")
    assert 1 < len(entries) < len(vitpool.list_models("*siglip*"))
    for entry in entries:
        model = entry.subject().build()
        assert model(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 10)
    with pytest.raises(ValueError, match="no architecture"):
        own_models("resnet*")
    with pytest.raises(ValueError, match="Beit are not audited"):
        own_models("beit_*")


# ------------------------------------------------------------------------- the engine


def test_unknown_checks_are_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match=r"only: .*'the_body_is_left'; did you mean"):
        audit(Colours, only=["the_body_is_left"])
    with pytest.raises(ValueError, match="skip: there is no check 'x'"):
        audit(Colours, skip=["x"])
    with pytest.raises(TypeError, match="only: a list"):
        audit(Colours, only="nothing_is_printed")


def test_what_make_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="no number of classes: -1"):
        audit(Colours, num_classes=-1)


def test_a_check_that_breaks_says_so_and_the_model_does_not_pass() -> None:
    class Broken(Colours):
        def state_dict(self) -> Any:
            raise RuntimeError("no state")

    report = audit(Broken, only=["a_refused_reset_changes_nothing"], source="make = 0")
    (skip,) = report.skips
    assert skip.failed
    assert "RuntimeError: no state" in skip.reason
    assert not report.ok
    assert "broke" in str(report)


def test_skipped_checks_and_chosen_ones() -> None:
    names = [check.name for check in chosen(skip=["nothing_is_printed"])]
    assert len(names) == len(CHECKS) - 1
    report = audit(Talks, skip=["nothing_is_printed"])
    assert report.ok, report


def test_a_class_without_the_method_is_skipped_by_name() -> None:
    class Fixed:
        def __call__(self, x: np.ndarray) -> np.ndarray:
            return x.mean((2, 3))

    report = audit(Fixed, only=["a_refused_reset_changes_nothing"])
    assert report.skips == (
        Skip("a_refused_reset_changes_nothing", "its models have no reset_classifier"),
    )


def test_every_check_has_a_sentence() -> None:
    for check in chosen():
        assert len(check.sentence) > 40, check.name
        assert check.run.__doc__ is not None, check.name


def test_an_audit_as_plain_values_and_as_text() -> None:
    report = audit(HalfChanged, only=["a_refused_reset_changes_nothing"])
    told = report.to_dict()
    assert told["counts"] == {"A": 0, "B": 0, "C": 2, "D": 0}
    assert told["findings"][0]["check"] == "a_refused_reset_changes_nothing"
    assert str(report).startswith("HalfChanged: 2 C\n  C a_refused_reset")
    assert "make(" in "\n".join(report.lines(verbose=True))
    assert Finding(**told["findings"][0]) == report.findings[0]


def test_each_check_is_a_test_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        import sys
        sys.path.insert(0, {str(HERE)!r})
        from fakes import Colours
        from test_audit import HalfChanged
        from vitpool.testing.audit import parametrize_with_checks

        ONLY = ["a_refused_reset_changes_nothing", "nothing_is_printed"]

        @parametrize_with_checks([Colours, HalfChanged], only=ONLY)
        def test_sound(check):
            check()

        @parametrize_with_checks([Colours], only=["dtype_and_device_are_kept"])
        def test_skipped(check):
            check()
        """
    )
    result = pytester.runpytest("-v", "-rs")
    result.assert_outcomes(passed=3, failed=1, skipped=1)
    result.stdout.fnmatch_lines_random(
        [
            "*test_sound[[]HalfChanged-a_refused_reset_changes_nothing[]] FAILED*",
            "*test_sound[[]HalfChanged-nothing_is_printed[]] PASSED*",
            "*C a_refused_reset_changes_nothing: reset_classifier*",
            "*SKIPPED*its models are no torch modules*",
        ]
    )


def test_checks_of_gives_each_with_its_subject() -> None:
    for subject, check in checks_of(Colours, num_classes=3):
        assert subject.kwargs == {"num_classes": 3}
        assert not run_check(check, subject) or check.name in CHECKS


# ---------------------------------------------------------------- programs and subjects


def test_a_program_runs_by_itself_with_options_that_are_classes() -> None:
    make = functools.partial(Colours, drop_rate=0.5)
    subject = Subject(make, kwargs={"num_classes": 3, "global_pool": "max"})
    program = subject.snippet("assert model(x).shape == (2, 3)", num_classes=3)
    assert "from fakes import Colours" in program
    assert "drop_rate=0.5" in program
    assert run_program(program).returncode == 0


def test_what_cannot_be_imported_is_said_by_the_program() -> None:
    subject = Subject(lambda: Colours())
    done = run_program(subject.snippet("model"))
    assert "define `make` here" in done.stderr


def test_drawn_weights_are_the_same_by_key_and_put_into_any_model() -> None:
    subject = Subject(Colours)
    one, other = subject.build(), subject.build()
    for model in (one, other):
        subject.fill(model, seed=3)
    np.testing.assert_array_equal(subject.run(one), subject.run(other))
    subject.fill(other, seed=4)
    assert np.abs(subject.run(one) - subject.run(other)).max() > 0.1


def test_pools_are_found_by_trying() -> None:
    assert Subject(Colours).pools == ("avg", "max")
    assert Subject(vitpool.VisionTransformer, kwargs=SMALL).pools == (
        *("token", "avg", "max", "avgmax", "map", "prr", ""),
    )


def test_the_size_of_pictures_is_found_by_trying() -> None:
    class Picky(Colours):
        def __call__(self, x: np.ndarray) -> np.ndarray:
            if x.shape[2] < 96:
                raise ValueError("too small")
            return super().__call__(x)

    assert Subject(Picky).input_size == (3, 96, 96)
    assert Subject(Picky, input_size=(3, 100, 120)).input_size == (3, 100, 120)


def test_nothing_of_it_is_imported_with_vitpool() -> None:
    code = "import sys, vitpool; print([m for m in sys.modules if 'testing' in m])"
    assert run_program(code).stdout.strip() == "[]"
