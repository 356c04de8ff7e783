# SPDX-License-Identifier: Apache-2.0
"""Records: what they hold, both layouts, and files that are none."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import process
import pytest
from models import X, small
from safetensors.numpy import load_file, save_file

import vitpool
from vitpool.testing import compare, images, open_record, write_record
from vitpool.testing.record import Record, digest_of
from vitpool.testing.records import FACTS

LAYOUTS = ("npz", "safetensors")


@pytest.fixture(scope="module")
def model() -> Any:
    return small(depth=2, global_pool="avg", fc_norm=True)


def same_record(a: Record, b: Record) -> None:
    np.testing.assert_array_equal(a.images, b.images)
    assert [*a.stored] == [*b.stored]
    for name, output in a.stored.items():
        np.testing.assert_array_equal(output, b.stored[name])
    assert a.facts() == b.facts()
    assert (a.roles, a.made, a.seed) == (b.roles, b.made, b.seed)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_record_has_the_models_own_outputs(model, tmp_path: Path, layout) -> None:
    path = tmp_path / f"a.{layout}"
    write_record(path, model, intermediates=[0, -1, "features", "fc_norm"])
    record = open_record(path)
    x = images(model)
    blocks = model.forward_intermediates(x, intermediates_only=True, output_fmt="NLC")
    tokens = model.forward_features(x)
    expected = {
        "blocks.0": blocks[0],
        "blocks.1": blocks[1],
        "pre_logits": model.forward_head(tokens, pre_logits=True),
        "features": tokens,
        "output": model(x),
    }
    np.testing.assert_array_equal(record.images, x)
    assert record.input_size == (3, 32, 32)
    assert record.roles["pre_logits"] == "fc_norm"
    for name, output in expected.items():
        stored = record.stored[record.roles.get(name, name)]
        if name.startswith("blocks"):
            stored = stored[:, 1:]  # of which ours has the class token too
        np.testing.assert_allclose(stored, output, 0, 1e-5, err_msg=name)
    assert record.facts()["global_pool"] == "avg"
    assert record.made["weights"] == digest_of(model.state_dict())
    assert record.made["vitpool"] == vitpool.__version__
    assert record.made["target"] == vitpool.show_config()["target"]


def test_files_are_recorded_as_the_model_prepares_them(tmp_path: Path) -> None:
    digits = vitpool.create_model("vit_digits", pretrained=True)
    path, files = tmp_path / "record.npz", vitpool.samples()[:2]
    write_record(path, digits, files)
    np.testing.assert_array_equal(open_record(path).images, digits.preprocess(files))
    with pytest.raises(ValueError, match="at least one picture"):
        write_record(path, digits, [])


def test_either_layout_is_written_from_the_other(model, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.npz", "b.safetensors", "c.npz")]
    write_record(paths[0], model, X, intermediates=["features", 0])
    for there, here in zip(paths[1:], paths, strict=False):
        write_record(there, open_record(here))
        same_record(open_record(there), open_record(here))
    assert paths[0].read_bytes() == paths[2].read_bytes()


def test_the_arrays_have_timms_names_and_are_written_once(
    model, tmp_path: Path
) -> None:
    write_record(tmp_path / "a.npz", model, X, intermediates=[0])
    with np.load(tmp_path / "a.npz") as stored:
        assert {*stored} == {"input", "output", "pre_logits", "blocks.0", FACTS}
        assert json.loads(str(stored[FACTS]))["format"] == 1
    write_record(tmp_path / "b.npz", model)
    with np.load(tmp_path / "b.npz") as stored:  # a seed is smaller than its pictures
        assert {*stored} == {"output", "pre_logits", FACTS}
    write_record(tmp_path / "c.safetensors", model)
    assert {*load_file(tmp_path / "c.safetensors")} == {
        *("input", "output", "pre_logits", "features")
    }


def test_an_array_in_another_order_is_written_as_it_reads(
    model, tmp_path: Path
) -> None:
    turned = np.asfortranarray(X)
    for layout in LAYOUTS:
        path = tmp_path / f"a.{layout}"
        tokens = np.arange(30, dtype=np.float32).reshape(2, 3, 5).transpose(0, 2, 1)
        stored = {"norm": tokens, "head": model(X)}
        roles = {"output": "head", "pre_logits": "head", "features": "norm"}
        write_record(path, Record("a", turned, stored, roles))
        record = open_record(path)
        np.testing.assert_array_equal(record.images, X)
        np.testing.assert_array_equal(record.stored["norm"], tokens)


@pytest.fixture
def timms(model, tmp_path: Path) -> Path:
    """A file as timm's repositories have it: four tensors and no word."""
    tokens = model.forward_features(X)
    arrays = {
        "input": X,
        "output": model(X),
        "features": tokens,
        "pre_logits": model.forward_head(tokens, pre_logits=True),
    }
    save_file(arrays, tmp_path / "rand_tensors.safetensors")
    return tmp_path / "rand_tensors.safetensors"


def test_timms_own_files_are_read(model, timms: Path) -> None:
    record = open_record(timms)
    assert [*record.stored] == ["norm", "fc_norm", "head"]
    assert record.facts() == {}
    comparison = compare(record, model, rtol=1e-6)
    assert comparison.ok, comparison
    assert len(comparison.stages) == 3
    assert not comparison.configuration


@pytest.mark.parametrize(
    "options",
    [
        {"global_pool": "avg"},  # which moves the norm behind the pool
        {"global_pool": "token", "fc_norm": False},
        {"global_pool": "avg", "final_norm": False},
        {"global_pool": "map"},
        {"global_pool": "avg", "num_classes": 0},
    ],
    ids=str,
)
def test_timms_names_are_found_in_models_that_lack_a_stage(
    tmp_path: Path, options
) -> None:
    model = small(**options)
    tokens = model.forward_features(X)
    pooled = model.forward_head(tokens, pre_logits=True)
    arrays = {"input": X, "output": model(X), "features": tokens, "pre_logits": pooled}
    save_file(arrays, tmp_path / "a.safetensors")
    comparison = compare(tmp_path / "a.safetensors", model, rtol=1e-6)
    assert comparison.ok, comparison
    assert len(comparison.stages) == 3
    write_record(tmp_path / "b.safetensors", model, X)
    written = load_file(tmp_path / "b.safetensors")
    for name, array in arrays.items():
        np.testing.assert_allclose(written[name], array, 0, 1e-6, err_msg=name)


def test_a_record_is_a_reference_and_a_candidate(model, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_record(path, model, intermediates=[0, 1])
    other = small(depth=2, global_pool="avg", fc_norm=True)
    key = "blocks.1.attn.proj.bias"
    other.load_state_dict({key: other.get_parameter(key) + 1}, strict=False)
    for pair in ((path, other), (other, path)):
        comparison = compare(*pair)
        assert comparison.first is not None
        assert comparison.first.name == "blocks.1"
        assert [row.name for row in comparison.stages] == [
            *("blocks.0", "blocks.1", "fc_norm", "head")
        ]
        assert [name for name, *_ in comparison.configuration] == ["weights"]
        assert not comparison.parameters
    assert compare(path, model).ok
    assert compare(model, path).ok


def test_a_record_refuses_what_only_a_model_can(model, tmp_path: Path) -> None:
    write_record(tmp_path / "a.npz", model)
    record = open_record(tmp_path / "a.npz")
    for refused in (
        record.exact,
        lambda: record.drawn(0),
        lambda: record.pixels(["a.png"]),
    ):
        with pytest.raises(TypeError, match=r"^a\.npz is a record"):
            refused()
    with pytest.raises(ValueError, match="of other pictures"):
        next(record.stages(record.images + 1))
    stages = record.stages(record.images)
    name, output = next(stages)
    with pytest.raises(TypeError, match=f"nothing goes on from {name}"):
        stages.send(output)


def test_digests_tell_any_change_of_a_weight_and_nothing_else() -> None:
    def digest(**other: Any) -> str:
        return digest_of({"a": np.zeros((2, 3)), "b": np.ones(3)} | other)

    assert digest() == digest_of(
        {"b": np.ones(3), "a": np.zeros((3, 2), order="F").T[:, ::-1]}
    )
    changes = [
        {"a": np.zeros((3, 2))},
        {"b": np.array([1, 1, np.nextafter(1, 2)])},
        {"b": np.ones(3, np.float32)},
        {"c": np.ones(0)},
    ]
    assert len({digest(), *(digest(**change) for change in changes)}) == 5


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([2], ValueError, "no block 2, there are 2"),
        ([-3], ValueError, "no block -3, there are 2"),
        (["norm_pre"], ValueError, "has no stage 'norm_pre'"),
        (["head.weight"], ValueError, "'head.weight'"),
        ([1.0], TypeError, "float"),
        (3, TypeError, "several blocks or stages"),
        ("norm", TypeError, "several blocks or stages"),
    ],
)
def test_stages_that_a_model_has_not_are_refused(
    model, tmp_path: Path, given, error, message
) -> None:
    with pytest.raises(error, match=message):
        write_record(tmp_path / "a.npz", model, intermediates=given)
    assert not [*tmp_path.iterdir()]


def test_what_cannot_be_written_is_refused(model, tmp_path: Path) -> None:
    for name in ("a", "a.pt", "npz"):
        with pytest.raises(ValueError, match=r"\.npz or a \.safetensors"):
            write_record(tmp_path / name, model)
    write_record(tmp_path / "a.npz", model)
    record = open_record(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="no features, which timm's layout needs"):
        write_record(tmp_path / "a.safetensors", record)
    with pytest.raises(TypeError, match="of its own"):
        write_record(tmp_path / "b.npz", record, X)
    with pytest.raises(ValueError, match="must be \\(B, C, H, W\\)"):
        write_record(tmp_path / "b.npz", model, X[0])
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def arrays(model: Any, facts: dict[str, Any] | None = None) -> dict[str, Any]:
    """The arrays of a sound record of X, with other facts."""
    told = {
        "format": 1,
        "roles": {"output": "head"},
        "pictures": {"seed": None, "shape": [2, 3, 32, 32]},
        "made": {},
        "model": {},
    }
    return {"input": X, "output": model(X), FACTS: json.dumps(told | (facts or {}))}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"format": 2}, "a later version of vitpool"),
        ({"format": "1"}, "not those of a record"),
        ({"roles": {"logits": "head"}}, "not those of a record"),
        ({"roles": {"output": "blocks"}}, "'blocks'"),
        ({"roles": {"output": ["head"]}}, "not those of a record"),
        ({"roles": []}, "not those of a record"),
        ({"made": None}, "not those of a record"),
        ({"model": [1]}, "not those of a record"),
        ({"pictures": {"seed": 0}}, "not those of a record"),
        ({"pictures": {"seed": 0, "shape": [1 << 40, 3, 32, 32]}}, "not those of"),
        ({"pictures": {"seed": 0, "shape": [2, 3, 32, -32]}}, "not those of a record"),
        ({"pictures": {"seed": -1, "shape": [2, 3, 32, 32]}}, "seed must be"),
        ({"pictures": {"seed": "0", "shape": [2, 3, 32, 32]}}, "not those of a record"),
    ],
)
def test_facts_of_no_record_are_refused(model, tmp_path: Path, facts, message) -> None:
    path = tmp_path / "a.npz"
    held = arrays(model, facts)
    if "pictures" in facts:
        del held["input"]
    np.savez(path, **held)
    with pytest.raises(ValueError, match=message) as caught:
        open_record(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": None}, "it has no 'input'"),
        ({"output": None}, "and nothing"),
        (
            {"output": np.zeros((3, 10), np.float32)},
            r"head \(3, 10\) is not of 'input'",
        ),
        ({"input": np.zeros((2, 3), np.float32)}, "'input' \\(2, 3\\)"),
        ({"input": np.zeros((2, 3, 32, 32), np.int64)}, "input: has dtype int64"),
        ({"blocks.x": np.zeros((2, 3), np.float32)}, "'blocks.x'"),
        ({FACTS: "{"}, "not those of a record"),
        ({FACTS: "[1]"}, "not those of a record"),
        ({FACTS: np.zeros(3)}, "not those of a record"),
    ],
    ids=str,
)
def test_arrays_of_no_record_are_refused(
    model, tmp_path: Path, change, message
) -> None:
    held = {k: v for k, v in (arrays(model) | change).items() if v is not None}
    np.savez(tmp_path / "a.npz", **held)
    with pytest.raises(ValueError, match=message) as caught:
        open_record(tmp_path / "a.npz")
    assert str(caught.value).startswith(f"{tmp_path}/a.npz: ")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_was_cut_is_refused_wherever(model, tmp_path: Path, layout) -> None:
    path = tmp_path / f"a.{layout}"
    write_record(path, model)
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 23):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"^{path}: "):
            open_record(path)


def test_files_of_another_kind_are_named(model, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such record"):
        open_record(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError, match="no such record"):
        open_record(tmp_path)
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
        archive.writestr("archive/version", b"3")
    with pytest.raises(ValueError, match=f"^{path}: .*pickle"):
        open_record(path)
    with pytest.raises(TypeError):
        open_record(model)


@pytest.mark.parametrize("module", ["record", "records", "close", "comparison.opened"])
def test_each_module_can_be_the_first_that_is_imported(module) -> None:
    done = process.run(f"import vitpool.testing.{module}")
    assert not done.returncode, done.stderr
