# SPDX-License-Identifier: Apache-2.0
"""Files of models whose matrices are bfloat16, float16 or integers."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import process
import pytest
import safetensors
import safetensors.numpy
from golden import recipe
from models import BASE, X, small

import vitpool
from vitpool import hub

DTYPES = ("float32", "bfloat16", "float16", "int8")
FC2 = "blocks.0.mlp.fc2.weight"
QKV = "blocks.0.attn.qkv.weight"
MIXED = {
    QKV: "int8",
    FC2: "int8_a16",
    "blocks.1.mlp.fc1.weight": "float16",
    "patch_embed.proj.weight": "bfloat16",
    "head.weight": "int8",
}
HEADER = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int8": "I8"}


def of(dtype: str) -> Any:
    """A small model: 'mixed' is of all dtypes."""
    model = small(depth=2)
    if dtype != "mixed":
        return model.to(dtype)
    model._replace(None, {}, (), MIXED)
    return model


def load(folder: Path, **options: Any) -> Any:
    return vitpool.create_model(f"local-dir:{folder}", pretrained=True, **options)


def assert_same(a: Any, b: Any) -> None:
    """Every parameter of the same dtype and bits, and so the outputs."""
    assert a._dtypes() == b._dtypes()
    assert a.dtype == b.dtype
    for name, dtype in a._dtypes().items():
        if dtype.startswith("int8"):
            for one, other in zip(a._integers(name), b._integers(name), strict=True):
                np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(a.get_parameter(name), b.get_parameter(name))
    np.testing.assert_array_equal(a(X), b(X))


def header_of(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    header: dict[str, Any] = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return header


# -------------------------------------------------------------------- what comes back


@pytest.mark.parametrize("dtype", [*DTYPES, "mixed"])
def test_a_saved_model_comes_back_in_its_dtypes_to_the_bit(tmp_path, dtype) -> None:
    model = of(dtype)
    model.save_pretrained(tmp_path / "m")
    assert_same(load(tmp_path / "m"), model)
    weights = tmp_path / "m" / "model.safetensors"
    assert_same(vitpool.create_model(f"local-dir:{weights}", pretrained=True), model)
    hub.save_pretrained(load(tmp_path / "m"), tmp_path / "again")
    again = tmp_path / "again" / "model.safetensors"
    assert again.read_bytes() == weights.read_bytes()


@pytest.mark.parametrize("dtype", [*DTYPES, "mixed"])
def test_the_file_is_one_that_the_safetensors_library_reads(tmp_path, dtype) -> None:
    """And it has what the model keeps, each tensor at a multiple of its size."""
    model = of(dtype)
    model.save_pretrained(tmp_path)
    header = header_of(tmp_path / "model.safetensors")
    assert header.pop("__metadata__") == {"format": "pt"}
    said = {name: entry["dtype"] for name, entry in header.items()}
    want = {}
    for name, kept in model._dtypes().items():
        want[name] = HEADER[kept.removesuffix("_a16")]
        if kept.startswith("int8"):
            want[f"{name}_scale"] = "F32"
    assert said == want
    sizes = {"F32": 4, "BF16": 2, "F16": 2, "I8": 1}
    data = (tmp_path / "model.safetensors").read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    for entry in header.values():
        assert (start + entry["data_offsets"][0]) % sizes[entry["dtype"]] == 0
    theirs = dict(safetensors.deserialize(data))
    for name in (n for n, kept in model._dtypes().items() if kept.startswith("int8")):
        q, scale = model._integers(name)
        assert theirs[name]["data"] == q.tobytes()
        assert theirs[f"{name}_scale"]["data"] == scale.tobytes()


def test_the_config_has_a_key_for_what_is_not_float32(tmp_path) -> None:
    plain, mixed = of("float32"), of("mixed")
    plain.save_pretrained(tmp_path / "plain")
    mixed.save_pretrained(tmp_path / "mixed")
    told = [
        json.loads((tmp_path / name / "config.json").read_text())
        for name in ("plain", "mixed")
    ]
    assert told[1].pop("vitpool") == {"dtypes": MIXED}
    assert told[0] == told[1]


@pytest.mark.parametrize("dtype", [*DTYPES, "mixed"])
@pytest.mark.parametrize("asked", DTYPES)
def test_another_dtype_than_the_folders_is_made_of_its_numbers(
    tmp_path, dtype, asked
) -> None:
    model = of(dtype)
    model.save_pretrained(tmp_path)
    assert_same(load(tmp_path, dtype=asked), model.to(asked))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_a_file_without_our_config_is_float32_and_keeps_its_numbers(
    tmp_path, dtype
) -> None:
    """As timm's checkpoints in bfloat16 or float16; asked for, the dtype is exact."""
    model = of(dtype)
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    told = json.loads(config.read_text())
    del told["vitpool"]
    config.write_text(json.dumps(told))
    wide = load(tmp_path)
    assert set(wide._dtypes().values()) == {"float32"}
    assert_same(wide, model.to("float32"))
    if dtype != "int8":
        assert_same(load(tmp_path, dtype=dtype), model)


@pytest.mark.parametrize("dtype", [*DTYPES, "mixed"])
def test_a_checkpoint_is_loaded_into_a_model_of_its_dtypes_to_the_bit(
    tmp_path, dtype
) -> None:
    model = of(dtype)
    model.save_pretrained(tmp_path)
    other = vitpool.VisionTransformer(**BASE | {"depth": 2}, seed=7)
    other._replace(None, {}, (), model._dtypes())
    vitpool.load_checkpoint(other, tmp_path / "model.safetensors")
    assert_same(other, model)


def test_integers_read_as_floats_are_what_the_model_has(tmp_path) -> None:
    model = of("mixed")
    model.save_pretrained(tmp_path)
    read = vitpool.open_state_dict(tmp_path / "model.safetensors")
    assert set(read) == set(model.param_shapes())
    assert read.shapes() == model.param_shapes()
    for name, array in read.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, model.get_parameter(name))


def test_an_archive_of_numpys_holds_a_state_dict_of_any_dtype(tmp_path) -> None:
    """NumPy writes bfloat16 as two bytes without a name, which are read as such."""
    model = of("mixed")
    state = model.state_dict(dequantize=False)
    assert {a.dtype for a in state.values()} == {
        np.dtype(d) for d in (np.float32, np.float16, np.int8, ml_dtypes.bfloat16)
    }
    np.savez(tmp_path / "m.npz", **state)
    read = vitpool.open_state_dict(tmp_path / "m.npz")
    assert set(read) == set(model.param_shapes())
    for name, array in read.items():
        np.testing.assert_array_equal(array, model.get_parameter(name))
    other = vitpool.VisionTransformer(**BASE | {"depth": 2}, seed=7)
    other._replace(None, {}, (), model._dtypes())
    vitpool.load_checkpoint(other, tmp_path / "m.npz")
    assert_same(other, model)


def test_several_files_with_an_index_are_paired_as_one(tmp_path) -> None:
    """Integers in one file, their scales in another."""
    model = of("mixed")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = model.state_dict(dequantize=False)
    parts = {
        "a.safetensors": {k: v for k, v in state.items() if not k.endswith("_scale")},
        "b.safetensors": {k: v for k, v in state.items() if k.endswith("_scale")},
    }
    where = {}
    for name, tensors in parts.items():
        safetensors.numpy.save_file(tensors, tmp_path / name)
        where |= dict.fromkeys(tensors, name)
    file.unlink()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert_same(load(tmp_path), model)


# ----------------------------------------------------------------- options beside them


def test_a_new_head_is_float32_and_the_blocks_keep_their_integers(tmp_path) -> None:
    model = of("mixed")
    model.save_pretrained(tmp_path)
    for classes in (0, 7):
        other = load(tmp_path, num_classes=classes)
        assert other.num_classes == classes
        kept = {n: d for n, d in other._dtypes().items() if d != "float32"}
        assert kept == {n: d for n, d in MIXED.items() if n != "head.weight"}
        np.testing.assert_array_equal(other._integers(QKV)[0], model._integers(QKV)[0])


def test_another_image_size_resizes_positions_alone(tmp_path) -> None:
    model = of("mixed")
    model.save_pretrained(tmp_path)
    other = load(tmp_path, img_size=48)
    assert other.img_size == (48, 48)
    assert other._dtypes() == model._dtypes()
    for one, two in zip(other._integers(FC2), model._integers(FC2), strict=True):
        np.testing.assert_array_equal(one, two)


def test_random_weights_are_float32_whatever_the_folder_has(tmp_path) -> None:
    of("mixed").save_pretrained(tmp_path)
    model = vitpool.create_model(f"local-dir:{tmp_path}")
    assert set(model._dtypes().values()) == {"float32"}


def test_the_dtypes_are_of_the_folders_weights_and_no_others(tmp_path) -> None:
    of("mixed").save_pretrained(tmp_path / "mixed")
    plain = of("float32")
    plain.save_pretrained(tmp_path / "plain")
    weights = tmp_path / "plain" / "model.safetensors"
    assert_same(load(tmp_path / "mixed", pretrained_cfg_overlay={"file": str(weights)}),
                plain)  # fmt: skip
    other = vitpool.create_model(
        f"local-dir:{tmp_path / 'mixed'}", checkpoint_path=weights
    )
    assert_same(other, plain)


def test_a_dtype_that_is_none_is_refused_before_anything_is_read(tmp_path) -> None:
    for wrong, kind in (("float64", ValueError), (8, TypeError)):
        with pytest.raises(kind, match="dtype must be one of 'float32', 'bfloat16'"):
            vitpool.create_model(f"local-dir:{tmp_path}", True, dtype=wrong)


# ---------------------------------------------------------------------------- memory

WIDE = {"embed_dim": 512, "num_heads": 8, "depth": 6, "img_size": 32}
PEAK = """
import vitpool

def status(key: str) -> int:
    text = open("/proc/self/status").read()
    return int(text.partition(key + ":")[2].split()[0]) * 1024

folder = "local-dir:" + {folder!r}
vitpool.create_model("vit_digits", pretrained=True)  # what is imported, is by now
vitpool.create_model(folder, depth=1)
before = status("VmRSS")
model = vitpool.create_model(folder, pretrained=True)
print(status("VmHWM") - before, model.memory_bytes()["weights"], model.dtype)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("dtype", "most"), [("float32", 1.2), ("bfloat16", 0.65), ("int8", 0.4)]
)
def test_loading_takes_the_memory_of_the_dtype(tmp_path, dtype, most) -> None:
    """The model and a matrix at a time: never its integers as floats."""
    model = vitpool.VisionTransformer(**WIDE, seed=0, weight_init="skip")
    floats = model.memory_bytes()["weights"]
    if dtype == "int8":
        shapes = model.param_shapes().items()
        names = [n for n, s in shapes if n.startswith("blocks.") and len(s) == 2]
        model._replace(None, {}, (), dict.fromkeys(names, dtype))
    else:
        model = model.to(dtype)
    model.save_pretrained(tmp_path)
    done = process.run(PEAK.format(folder=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    peak, weights, loaded = done.stdout.split()
    assert loaded == dtype
    assert int(weights) == model.memory_bytes()["weights"]
    assert int(peak) < most * floats


# -------------------------------------------------------------------- what is broken


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """What a folder's file holds; only for the dtypes that the library has."""
    return safetensors.numpy.load_file(folder / "model.safetensors")


def _change(
    name: str, change: Callable[[np.ndarray], np.ndarray | None]
) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state = tensors_of(folder)
        value = change(state.pop(name))
        if value is not None:
            state[name] = np.ascontiguousarray(value)
        safetensors.numpy.save_file(state, folder / "model.safetensors")

    return damage


def _put(value: float, at: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[at] = value
        return array

    return change


def _say(**dtypes: Any) -> Callable[[Path], None]:
    """A config.json that says other dtypes; None takes one out."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        told = config["vitpool"]["dtypes"] | {
            key.replace("__", "."): dtype for key, dtype in dtypes.items()
        }
        config["vitpool"]["dtypes"] = {k: v for k, v in told.items() if v is not None}
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def _config(ours: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"vitpool": ours}))

    return damage


SCALE = f"{QKV}_scale"
# What is wrong, and words of the error beside the file's name.
BROKEN: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "no scale": (_change(SCALE, lambda a: None), (QKV, "NAME_scale")),
    "a scale too short": (_change(SCALE, lambda a: a[1:]), (SCALE, "(96)")),
    "a scale of one number": (_change(SCALE, lambda a: a.max()), (SCALE, "(96)")),
    "a scale a row": (_change(SCALE, lambda a: a[:, None]), (SCALE, "(96)")),
    "a scale in float64": (
        _change(SCALE, lambda a: a.astype(np.float64)),
        (SCALE, "float64", "float32 scale"),
    ),
    "a scale in int8": (
        _change(SCALE, lambda a: a.astype(np.int8)),
        (SCALE, "int8", "float32 scale"),
    ),
    "a negative scale": (_change(SCALE, _put(-1.0, (3,))), (QKV, "output 3 is -1.0")),
    "an infinite scale": (_change(SCALE, _put(np.inf, (95,))), (QKV, "95 is inf")),
    "-128": (_change(QKV, _put(-128, (5, 7))), (QKV, "-128 at (5, 7)")),
    "floats beside a scale": (
        _change(QKV, lambda a: a.astype(np.float32)),
        (QKV, "float32", "int8"),
    ),
    "uint8 beside a scale": (
        _change(QKV, lambda a: a.astype(np.uint8)),
        (QKV, "uint8", "int8"),
    ),
    "no integers": (_change(QKV, lambda a: None), (QKV, "config.json says int8")),
    "integers of another shape": (
        _change(QKV, lambda a: a[:, 1:]),
        (QKV, "(96, 31)", "(96, 32)"),
    ),
    "a parameter that is not there": (
        _say(blocks__9__mlp__fc2__weight="int8"),
        ("blocks.9.mlp.fc2.weight", "config.json says int8"),
    ),
    "an unknown dtype": (_say(head__weight="int4"), ("head.weight", "'int4'")),
    "a dtype that is a number": (_say(head__weight=8), ("head.weight", "8")),
    "another dtype than the file's": (
        _say(**{QKV.replace(".", "__"): "bfloat16"}),
        (QKV, "is int8", "config.json says bfloat16"),
    ),
    "a dtype left out": (
        _say(**{QKV.replace(".", "__"): None}),
        (QKV, "is int8", "config.json says float32"),
    ),
    "a list for the dtypes": (_config({"dtypes": [1]}), ("'vitpool'", "'dtypes'")),
    "no dtypes": (_config({}), ("'vitpool'", "'dtypes'")),
    "a number for all": (_config(8), ("'vitpool'", "'dtypes'")),
    "a dtype that is a list": (_config({"dtypes": {QKV: []}}), (QKV, "[]")),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder of integers and float32."""
    folder: Path = tmp_path_factory.mktemp("whole")
    model = small(depth=2)
    model._replace(None, {}, (), {QKV: "int8", FC2: "int8_a16"})
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("damage", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_folder_is_one_error_that_names_file_and_tensor(
    tmp_path, whole, damage, words
) -> None:
    shutil.copytree(whole, tmp_path / "m")
    assert_same(load(tmp_path / "m"), load(whole))
    damage(tmp_path / "m")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load(tmp_path / "m")
    message = str(caught.value)
    assert str(tmp_path / "m") in message
    assert "\n" not in message
    assert len(message) < 1000
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", [n for n in BROKEN if n[0] in "a-" and "scale" in n])
def test_a_broken_file_leaves_a_model_as_it_was(tmp_path, whole, name) -> None:
    shutil.copytree(whole, tmp_path / "m")
    BROKEN[name][0](tmp_path / "m")
    model = load(whole)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        vitpool.load_checkpoint(model, tmp_path / "m" / "model.safetensors")
    assert_same(model, load(whole))


def test_a_config_says_dtypes_in_its_own_place_alone(tmp_path, whole) -> None:
    """Anybody's pretrained_cfg with a key of that name says nothing."""
    shutil.copytree(whole, tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    dtypes = config.pop("vitpool")["dtypes"]
    config["dtypes"] = dtypes
    config["pretrained_cfg"]["dtypes"] = dtypes
    path.write_text(json.dumps(config))
    assert "dtypes" not in hub.load_model_config(tmp_path / "m")[1]
    model = load(tmp_path / "m")
    assert set(model._dtypes().values()) == {"float32"}
    assert "dtypes" not in model.pretrained_cfg


def test_an_output_that_is_nan_stays_one(tmp_path) -> None:
    model = small()
    weight = np.array(model.get_parameter(QKV))
    weight[3, 5] = np.nan
    model.load_state_dict({QKV: weight}, strict=False)
    model._replace(None, {}, (), {QKV: "int8"})
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert np.isnan(again.get_parameter(QKV)[3]).all()
    assert not np.isnan(again.get_parameter(QKV)[4]).any()
    assert_same(again, model)


@pytest.mark.parametrize("dtype", ["int8", "mixed"])
def test_a_file_cut_anywhere_is_refused(tmp_path, dtype) -> None:
    of(dtype).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()
    for size in np.linspace(0, len(data) - 1, 40).astype(int):
        file.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            load(tmp_path)


def test_no_damage_to_the_numbers_passes_as_another_models(tmp_path, whole) -> None:
    """Random bytes in place of integers load, or are refused by name: nothing else."""
    shutil.copytree(whole, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    data = bytearray(file.read_bytes())
    random = np.random.default_rng(0)
    names = header_of(file)
    start, stop = names[QKV]["data_offsets"]
    base = 8 + struct.unpack("<Q", data[:8])[0]
    for allowed in (True, False):
        least = -127 if allowed else -128
        q = random.integers(least, 128, stop - start).astype(np.int8)
        q[0] = least
        data[base + start : base + stop] = q.tobytes()
        file.write_bytes(data)
        if allowed:
            got = load(tmp_path / "m")._integers(QKV)[0]
            np.testing.assert_array_equal(got.reshape(-1), q)
        else:
            with pytest.raises(ValueError, match="-128 at"):
                load(tmp_path / "m")


def test_the_recipe_gives_every_output_a_scale_of_its_own() -> None:
    """Else the tests above would not see scales that are exchanged."""
    model = small(depth=2)
    model._replace(None, {}, (), {QKV: "int8"})
    scale = model._integers(QKV)[1]
    assert len(set(scale.tolist())) == len(scale)
    assert recipe.weights(model.param_shapes()).keys() == model.param_shapes().keys()


# ------------------------------------------------- integers that rounding does not give


def hand_made(dtype: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """A model, and integers of it far below 127, with scales of all sizes."""
    model = small(depth=2)
    random = np.random.default_rng(1)
    q = random.integers(-9, 10, (96, 32)).astype(np.int8)
    scale = np.exp(random.uniform(-8, -2, 96)).astype(np.float32)
    model._replace(None, {QKV: (q, scale)}, (), {QKV: dtype})
    return model, q, scale


@pytest.mark.parametrize("dtype", ["int8", "int8_a16"])
def test_integers_that_no_rounding_gives_come_back(tmp_path, dtype) -> None:
    model, q, scale = hand_made(dtype)
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    np.testing.assert_array_equal(again._integers(QKV)[0], q)
    np.testing.assert_array_equal(again._integers(QKV)[1], scale)
    assert_same(again, model)


@pytest.mark.parametrize("dtype", ["int8", "int8_a16"])
def test_integers_that_no_rounding_gives_compute_what_they_are(dtype) -> None:
    """An activation's zero is taken off by the sums of each output's integers."""
    model, q, scale = hand_made(dtype)
    wide = model.to("float32")
    np.testing.assert_array_equal(wide.get_parameter(QKV), q * scale[:, None])
    got, want = model(X), wide(X)
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()


def test_integers_read_as_floats_have_scales_that_can_be(tmp_path, whole) -> None:
    """Also where no model looks at them: `open_state_dict` checks by itself."""
    file = tmp_path / "model.safetensors"
    state = tensors_of(whole)
    for name, at, value in (
        (SCALE, 3, -1.0),
        (SCALE, 95, np.inf),
        (SCALE, 0, -np.inf),
        (QKV, (95, 31), -128),
    ):
        broken = state[name].copy()
        broken[at] = value
        safetensors.numpy.save_file(state | {name: broken}, file)
        read = vitpool.open_state_dict(file)
        with pytest.raises(ValueError, match=QKV) as caught:
            read[QKV]
        assert str(file) in str(caught.value)
        with pytest.raises(ValueError, match=QKV):
            read.kept()[QKV]


def test_the_core_refuses_what_no_weight_is() -> None:
    model, q, scale = hand_made("int8")
    before = model._integers(QKV)
    for where in ((0, 0), (95, 31), (40, 17)):
        bad = q.copy()
        bad[where] = -128
        with pytest.raises(ValueError, match="not -128"):
            model._replace(None, {QKV: (bad, scale)})
    for one, other in zip(before, model._integers(QKV), strict=True):
        np.testing.assert_array_equal(one, other)
    model._replace(None, {QKV: (-np.abs(q) - 118, scale)})  # -127 is one
