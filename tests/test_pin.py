# SPDX-License-Identifier: Apache-2.0
"""Pinning: seeded pictures, models held to each other, the pytest plugin."""

from __future__ import annotations

import copy
import hashlib
import re
from pathlib import Path

import numpy as np
import process
import pytest
from models import small

import vitpool
import vitpool.testing.plugin  # else pytester forgets it, and has a class of ours twice
from vitpool import testing
from vitpool.testing import tolerances

pytest_plugins = ["pytester"]


def test_seeded_pictures_are_the_same_bytes_everywhere() -> None:
    x = testing.images(small(), seed=7)
    assert x.shape == (2, 3, 32, 32)
    assert x.dtype == np.float32
    digest = hashlib.sha256(x.astype("<f4").tobytes()).hexdigest()
    assert digest[:16] == "6f8a95e973f04ecc"


def test_seeded_pictures_begin_alike_whatever_their_number() -> None:
    model = small()
    np.testing.assert_array_equal(
        testing.images(model, 5)[:2], testing.images(model, 2)
    )


def test_seeded_pictures_have_the_models_size_and_another_seed_others() -> None:
    model = small(img_size=(32, 48), in_chans=1)
    x = testing.images(model, 1)
    assert x.shape == (1, 1, 32, 48)
    assert not np.array_equal(x, testing.images(model, 1, seed=1))
    assert -2 <= x.min() < -1.9
    assert 1.9 < x.max() < 2


@pytest.mark.parametrize(
    ("n", "seed", "error"),
    [(0, 0, ValueError), (2.0, 0, TypeError), (2, -1, ValueError), (2, "0", TypeError)],
)
def test_seeded_pictures_refuse_other_counts_and_seeds(n, seed, error) -> None:
    with pytest.raises(error, match=r"^(n|seed) must be"):
        testing.images(small(), n, seed)


# What a user's test has beside it. Weights are fresh; `off` moves one of them.
MADE = """
import vitpool

def model(off=0.0, depth=2, **options):
    made = vitpool.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=32, depth=depth, num_heads=2,
        num_classes=10, seed=0, **options,
    )
    key = "blocks.1.mlp.fc1.bias"
    made.load_state_dict({key: made.get_parameter(key) + off}, strict=False)
    return made
"""
TEST = """
from made import model

def test_pinned(model_regression):
    model_regression.check(model(%s)%s)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with MADE, and TEST as test_a.py."""
    pytester.makepyfile(made=MADE, test_a=TEST % ("", ""))
    return pytester


def outcomes(result: pytest.RunResult) -> dict[str, int]:
    return {k: v for k, v in result.parseoutcomes().items() if k != "warnings"}


def passes(suite: pytest.Pytester, *options: str) -> bool:
    return outcomes(suite.runpytest(*options)) == {"passed": 1}


def text(result: pytest.RunResult) -> str:
    """What a run printed, without pytest's marks before the lines of an error."""
    return "\n".join(line.removeprefix("E   ").strip() for line in result.outlines)


def test_a_first_run_writes_the_record_and_says_so(suite) -> None:
    first = suite.runpytest()
    assert outcomes(first) == {"failed": 1}
    first.stdout.fnmatch_lines(["File not found in data directory, created:"])
    record = testing.open_record(suite.path / "test_a" / "test_pinned.npz")
    assert [*record.stored] == ["pool", "head"]
    assert passes(suite)


def test_a_change_is_told_as_a_comparison_facts_first(suite) -> None:
    suite.runpytest()
    suite.makepyfile(test_a=TEST % ("off=1, act_layer='relu'", ", intermediates=[1]"))
    suite.runpytest("--regen-all")
    record = testing.open_record(suite.path / "test_a" / "test_pinned.npz")
    suite.makepyfile(test_a=TEST % ("off=2, act_layer='gelu'", ", intermediates=[1]"))
    result = suite.runpytest()
    assert outcomes(result) == {"failed": 1}
    said = text(result)
    assert "they part at blocks.1: " in said
    facts, stages = said.index(record.made["weights"]), said.index("required rtol")
    assert facts < stages
    assert "'relu', 'gelu'" in said[facts:stages]
    assert "none to compare" in said  # of parameters a record has a digest
    assert "--force-regen writes the record anew" in said
    assert "Individual errors" not in said  # pytest-regressions' own words


def test_force_regen_tells_the_change_and_accepts_it(suite) -> None:
    suite.runpytest()
    suite.makepyfile(test_a=TEST % ("off=1", ""))
    forced = suite.runpytest("--force-regen")
    assert outcomes(forced) == {"failed": 1}
    assert "--force-regen set, regenerating" in text(forced)
    assert "they part at pool" in text(forced)
    assert passes(suite)
    suite.makepyfile(test_a=TEST % ("", ""))
    assert not passes(suite)


def test_regen_all_accepts_a_change_at_once(suite) -> None:
    assert passes(suite, "--regen-all")
    suite.makepyfile(test_a=TEST % ("off=1", ""))
    assert passes(suite, "--regen-all")
    assert passes(suite)


def test_a_run_leaves_the_records_alone_unless_told(suite) -> None:
    def files() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (suite.path / "test_a").iterdir()}

    suite.runpytest()
    before = files()
    assert passes(suite)
    assert passes(suite, "--force-regen")
    suite.makepyfile(test_a=TEST % ("off=1", ""))
    assert not passes(suite)
    assert files() == before


def test_a_difference_within_the_tolerance_passes(suite) -> None:
    suite.runpytest()
    for tolerance, alike in (("rtol=9", True), ("atol=9", True), ("rtol=.1", False)):
        suite.makepyfile(test_a=TEST % ("off=1", f", {tolerance}"))
        assert passes(suite) is alike, tolerance


def test_a_model_that_gives_nan_fails(suite) -> None:
    suite.runpytest()
    suite.makepyfile(test_a=TEST % ("off=float('nan')", ", rtol=1e9"))
    assert "NaN" in text(suite.runpytest())


def test_own_pictures_are_kept_and_others_are_named(suite) -> None:
    own = ", np.full((3, 3, 32, 32), %s, np.float32)"
    test = "import numpy as np\n" + TEST
    suite.makepyfile(test_a=test % ("", own % 0.5))
    suite.runpytest()
    assert passes(suite)
    record = testing.open_record(suite.path / "test_a" / "test_pinned.npz")
    assert record.seed is None
    assert (record.images == 0.5).all()
    suite.makepyfile(test_a=test % ("", own % 0.25))
    assert "the pictures are others" in text(suite.runpytest())
    assert outcomes(suite.runpytest("--force-regen")) == {"failed": 1}
    assert passes(suite)


def test_intermediates_that_the_record_has_not_are_named(suite) -> None:
    suite.runpytest()
    suite.makepyfile(test_a=TEST % ("", ", intermediates=[0]"))
    said = text(suite.runpytest())
    assert "they part at blocks.0: only the candidate has it" in said


def test_a_model_of_another_depth_is_compared_as_far_as_it_goes(suite) -> None:
    suite.makepyfile(test_a=TEST % ("", ", intermediates=[0, 1, 'norm']"))
    suite.runpytest()
    suite.makepyfile(test_a=TEST % ("depth=3", ", intermediates=[0, 2, 'norm']"))
    said = text(suite.runpytest())
    assert "they part at blocks.1: only the reference has it" in said
    assert "only the candidate has it" in said


def test_a_test_of_another_name_has_a_record_of_its_own(suite) -> None:
    suite.runpytest()
    suite.makepyfile(test_a=(TEST % ("", "")).replace("test_pinned", "test_renamed"))
    first = suite.runpytest()
    assert outcomes(first) == {"failed": 1}
    assert "test_renamed.npz" in text(first)
    assert passes(suite)


PARAMETERS = """
import pytest
from made import model

@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("off", [0.0, -1.5])
def test_pinned(model_regression, pool, off):
    model_regression.check(model(off, global_pool=pool))
"""


def test_each_parameter_has_a_record(suite) -> None:
    suite.makepyfile(test_a=PARAMETERS)
    assert outcomes(suite.runpytest()) == {"failed": 4}
    # another order of the tests is no other record
    suite.makepyfile(test_a=PARAMETERS.replace("[0.0, -1.5]", "[-1.5, 0.0]"))
    assert outcomes(suite.runpytest()) == {"passed": 4}
    assert len([*(suite.path / "test_a").iterdir()]) == 4


def test_workers_write_and_read_records_side_by_side(suite) -> None:
    suite.makepyfile(test_a=PARAMETERS)
    assert outcomes(suite.runpytest("-n2")) == {"failed": 4}
    assert outcomes(suite.runpytest("-n2")) == {"passed": 4}


def test_two_names_of_one_file_are_refused(suite) -> None:
    suite.makepyfile(
        test_a=PARAMETERS.replace(
            '"off", [0.0, -1.5]', '"off", [0, 1], ids=["a.", "a-"]'
        )
    )
    result = suite.runpytest()
    assert outcomes(result) == {"failed": 4}
    assert "is the record of test_a.py::test_pinned[a.-avg]: give a basename" in text(
        result
    )


TWICE = """
from made import model

def test_pinned(model_regression):
    model_regression.check(model()%s)
    model_regression.check(model(off=1)%s)
"""


def test_a_second_check_of_a_test_needs_a_basename(suite) -> None:
    suite.makepyfile(test_a=TWICE % ("", ""))
    suite.runpytest("--regen-all")
    assert "is the record of test_a.py::test_pinned: give a basename" in text(
        suite.runpytest()
    )
    suite.makepyfile(test_a=TWICE % (", basename='a.1'", ", basename='b/a.2'"))
    assert passes(suite, "--regen-all")
    assert passes(suite)
    assert (suite.path / "test_a" / "a.1.npz").is_file()
    assert (suite.path / "test_a" / "b" / "a.2.npz").is_file()


def test_two_checks_may_share_a_record_on_purpose(suite) -> None:
    twice = TWICE % (", basename='a'", ", basename='a'")
    suite.makepyfile(test_a=twice)
    suite.runpytest("--regen-all")  # the second has the last word
    assert "they part at pool" in text(suite.runpytest())
    suite.makepyfile(test_a=twice.replace("off=1", ""))
    suite.runpytest("--regen-all")
    assert passes(suite)


def test_a_folder_that_cannot_be_written_is_named(suite) -> None:
    suite.path.joinpath("test_a").write_text("a file in its place")
    result = suite.runpytest()
    assert outcomes(result) == {"failed": 1}
    assert re.search(r"Error: .*/test_a'", text(result))


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def turned(data: bytes) -> bytes:
    """A byte within the last array is another."""
    at = data.rindex(b"PK\3\4") + 100
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


@pytest.mark.parametrize("spoil", [cut, turned, lambda data: b"", lambda data: b"{}"])
def test_a_damaged_record_is_named_and_written_anew_on_demand(suite, spoil) -> None:
    suite.runpytest()
    path = suite.path / "test_a" / "test_pinned.npz"
    path.write_bytes(spoil(path.read_bytes()))
    for options in ([], ["--force-regen"]):
        result = suite.runpytest(*options)
        assert outcomes(result) == {"failed": 1}
        said = text(result)
        assert f"ValueError: {path}: " in said
        assert "; --regen-all writes it anew" in said
    assert passes(suite, "--regen-all")
    assert passes(suite)


def test_without_pytest_regressions_only_the_fixture_fails(suite) -> None:
    suite.makepyfile(test_b="def test_other(): pass")
    result = suite.runpytest("-p", "no:regressions")
    assert outcomes(result) == {"passed": 1, "errors": 1}
    assert "pip install 'vitpool[testing]'" in text(result)


def test_class_names_are_in_the_name_on_demand(suite) -> None:
    suite.makepyfile(
        test_a="""
        from made import model

        class TestA:
            def test_pinned(self, model_regression):
                model_regression.check(model())
        """
    )
    suite.runpytest("--with-test-class-names")
    assert (suite.path / "test_a" / "TestA_test_pinned.npz").is_file()
    assert passes(suite, "--with-test-class-names")
    assert not passes(suite)


def test_the_plugin_costs_a_start_of_pytest_nothing() -> None:
    done = process.run(
        "import sys, pytest, typing; had = set(sys.modules); import pytest_vitpool;"
        "print(*sorted(set(sys.modules) - had))"
    )
    assert done.stdout.split() == ["pytest_vitpool"], done.stderr


def moved(model: object, key: str, off: float) -> object:
    """A copy, of which one number of one weight is another."""
    copied = copy.deepcopy(model)
    weight = np.array(copied.get_parameter(key))
    weight.flat[0] += off
    copied.load_state_dict({key: weight}, strict=False)
    return copied


def test_models_that_are_close_pass_and_others_are_told_apart() -> None:
    model = small(depth=2)
    testing.assert_models_close(copy.deepcopy(model), model)
    other = moved(model, "blocks.1.attn.proj.weight", 0.5)
    with pytest.raises(AssertionError) as caught:
        testing.assert_models_close(other, model)
    said = str(caught.value)
    assert said == str(testing.compare(model, other))  # desired is the reference
    assert said.startswith("they part at blocks.1.attn: ")
    with pytest.raises(AssertionError, match=r"^fine-tuned\nthey part at [^\n]*$"):
        testing.assert_models_close(other, model, err_msg="fine-tuned", verbose=False)
    testing.assert_models_close(other, model, rtol=9)
    testing.assert_models_close(other, model, rtol=0, atol=9)
    with pytest.raises(AssertionError):
        testing.assert_models_close(other, model, rtol=0)
    dark = np.full((1, 3, 32, 32), -1, np.float32)
    testing.assert_models_close(model, model, dark)
    with pytest.raises(AssertionError, match=r"part at blocks\.1\.attn"):
        testing.assert_models_close(other, model, dark, isolate=True)


@pytest.mark.parametrize(
    "key",
    ["patch_embed.proj.bias", "blocks.2.mlp.fc2.weight", "norm.bias", "head.weight"],
)
def test_the_default_tolerance_catches_a_weight_that_changed(key) -> None:
    model = vitpool.create_model("vit_digits", pretrained=True)
    scale = float(np.abs(model.get_parameter(key)).max())
    with pytest.raises(AssertionError, match="they part at"):
        testing.assert_models_close(moved(model, key, 0.02 * scale), model)


MODEL = "import vitpool; model = vitpool.create_model('vit_digits', pretrained=True)"
TARGETS = vitpool.show_config()["targets"]
# The largest difference between two targets that was measured.
BETWEEN = max(targets for targets, _ in tolerances.MEASURED["float32"].values())


def test_the_default_tolerance_is_a_margin_over_what_was_measured() -> None:
    largest = max(max(pair) for pair in tolerances.MEASURED["float32"].values())
    assert 10 * largest <= tolerances.default_rtol() <= 20 * largest
    with pytest.raises(ValueError, match="must be one of float32, not 'int8'"):
        tolerances.default_rtol("int8")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """Records of the packaged model, one made on each target of this machine."""
    folder = tmp_path_factory.mktemp("records")
    for target in TARGETS:
        code = (
            f"{MODEL}; path = {str(folder / target)!r} + '.npz'\n"
            "vitpool.testing.write_record(path, model, intermediates=[0, 1, 2, 'norm'])"
        )
        done = process.run(code, VITPOOL_TARGET=target)
        assert not done.returncode, done.stderr
    return folder


@pytest.mark.parametrize("target", TARGETS)
def test_a_record_of_each_target_passes_on_each_other(recorded, target) -> None:
    code = (
        f"{MODEL}\nfor target in {TARGETS}:\n"
        f"    path = {str(recorded)!r} + f'/{{target}}.npz'\n"
        "    assert vitpool.testing.open_record(path).made['target'] == target\n"
        f"    vitpool.testing.assert_models_close(model, path, rtol={BETWEEN})\n"
    )
    done = process.run(code, VITPOOL_TARGET=target)
    assert not done.returncode, done.stderr
