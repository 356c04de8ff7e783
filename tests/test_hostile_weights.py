# SPDX-License-Identifier: Apache-2.0
"""Damaged and lying weight files give a ValueError that names the file."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
import rerun
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from vitpool.checkpoint import Spec, StateDict, convert_state_dict, open_state_dict
from vitpool.checkpoint.fit import Fit
from vitpool.checkpoint.lazy import LazyTensor
from vitpool.checkpoint.safetensors_file import MAX_HEADER

WEIGHTS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.bias": np.ones(5, np.float16),
    "c": np.zeros((), np.float64),
    "d": np.zeros((0, 3), np.float32),
}
GOOD = safetensors.numpy.save(WEIGHTS)
HEADER_END = 8 + struct.unpack("<Q", GOOD[:8])[0]
HEADER: dict[str, Any] = json.loads(GOOD[8:HEADER_END])
DATA = GOOD[HEADER_END:]


def pack(header: Any, data: bytes = DATA) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def changed(key: str, **entry: Any) -> bytes:
    return pack(HEADER | {key: HEADER[key] | entry})


def read_all(path: Path) -> StateDict:
    weights = open_state_dict(path)
    for key in weights:
        assert weights[key].shape == weights.shapes()[key]
    return weights


def refused(path: Path, data: bytes | None = None) -> str:
    """Reading everything fails with ValueError, which names the file."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_all(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message) < 1000  # whatever the file holds
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_the_undamaged_file_is_read(path: Path) -> None:
    path.write_bytes(GOOD)
    got = read_all(path)
    assert set(got) == set(WEIGHTS)
    for key, value in WEIGHTS.items():
        np.testing.assert_array_equal(got[key], value)


def test_truncated_anywhere(path: Path) -> None:
    for size in np.linspace(0, len(GOOD) - 1, 200).astype(int):
        refused(path, GOOD[:size])


def test_longer_than_it_says(path: Path) -> None:
    refused(path, GOOD + b"\0")


def test_flipped_bits_never_get_past_as_anything_but_data(path: Path) -> None:
    """A flip in the header is refused, or gives other names, dtypes or shapes."""
    rng = random.Random(0)
    for _ in range(400):
        bad = bytearray(GOOD)
        at = rng.randrange(HEADER_END)
        bad[at] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            read_all(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017


LIES: dict[str, bytes] = {
    "empty": b"",
    "a length alone": GOOD[:8],
    "not JSON": pack(b"{" + b"x" * 40),
    "a list": pack([1, 2]),
    "a number": pack(b"7"),
    "not UTF-8": pack(b'{"\xff": 1}'),
    "JSON nested too deep": pack(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "arrays nested too deep": pack(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "an integer of 10,000 digits": pack(
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,4]}}'
    ),
    "an entry that is a list": pack(HEADER | {"c": []}),
    "an entry that is null": pack(HEADER | {"c": None}),
    "no dtype": pack(HEADER | {"c": {"shape": [], "data_offsets": [58, 66]}}),
    "an unknown dtype": changed("c", dtype="F31"),
    "a dtype that is a list": changed("c", dtype=["F32"]),
    "a larger dtype": changed("a.weight", dtype="F64"),
    "a smaller dtype": changed("a.weight", dtype="F16"),
    "a negative dimension": changed("a.weight", shape=[-3, -4]),
    "a fractional dimension": changed("a.weight", shape=[3.0, 4]),
    "a true dimension": changed("d", shape=[False, 3]),
    "a dimension as text": changed("a.weight", shape=["3", 4]),
    "no shape": changed("a.weight", shape=None),
    "a shape of a megabyte": changed("a.weight", shape=[-1] * 400_000),
    "a key of a megabyte": pack({"x" * 2**20: 1}),
    "another shape": changed("a.weight", shape=[3, 5]),
    "dimensions whose product overflows": changed("a.weight", shape=[2**33, 2**33]),
    "65 dimensions": changed("c", shape=[1] * 65),
    "offsets that go backwards": changed("a.weight", data_offsets=[48, 0]),
    "three offsets": changed("a.weight", data_offsets=[0, 48, 48]),
    "negative offsets": changed("a.weight", data_offsets=[-48, 0]),
    "offsets beyond the end": changed("a.weight", data_offsets=[2**60, 2**60 + 48]),
    "overlapping tensors": pack(
        {
            "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
            "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
        },
        bytes(24),
    ),
    "two tensors on the same bytes": pack(
        {
            "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
            "b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        },
        bytes(16),
    ),
    "a hole": pack(
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
        },
        bytes(12),
    ),
    "a key twice": pack(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "a key with and without a prefix": pack(
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "module.a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        },
        bytes(8),
    ),
    "no tensors": pack({}, b""),
    "metadata alone": pack({"__metadata__": {"format": "pt"}}, b""),
    "a pickle": b"\x80\x04\x95" + bytes(100),
    "a zip archive": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES.keys())
def test_lie_is_refused(data: bytes, path: Path) -> None:
    refused(path, data)


@pytest.mark.parametrize("claim", [2**63, 2**64 - 1, 100_000_001, 100_000_000])
def test_header_length_is_checked_before_it_is_read(claim: int, path: Path) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", claim) + b"{")
        file.truncate(200_000_000)  # sparse: the bytes are there, and cost nothing
    tracemalloc.start()
    try:
        assert str(MAX_HEADER) in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_integers_are_refused_as_weights(path: Path) -> None:
    safetensors.numpy.save_file({"w": np.arange(4)}, path)
    with pytest.raises(ValueError, match="w: has dtype int64"):
        open_state_dict(path)["w"]


def test_file_that_shrinks_between_opening_and_reading(path: Path) -> None:
    """A mapped file would end the process here, with SIGBUS."""
    safetensors.numpy.save_file({"w": np.zeros(2**20, np.float32)}, path)
    weights = open_state_dict(path)
    os.truncate(path, 4096)
    with pytest.raises(ValueError, match="ended while it was read") as caught:
        weights["w"]
    assert str(path) in str(caught.value)


def test_replaced_file_is_still_read_as_it_was_opened(path: Path) -> None:
    """Whoever writes a new file beside it and renames it disturbs no reader."""
    path.write_bytes(GOOD)
    weights = open_state_dict(path)
    other = path.with_name("other")
    other.write_bytes(b"x")
    other.replace(path)
    np.testing.assert_array_equal(weights["a.weight"], WEIGHTS["a.weight"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "X"]) | JSON,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-4, 80), min_size=2, max_size=2) | JSON,
    }
)


@rerun.settings(400)
@given(
    header=st.dictionaries(st.sampled_from(["a.weight", "c", "e"]), ENTRY | JSON),
    size=st.integers(0, 80),
)
def test_what_safetensors_refuses_we_refuse(
    header: dict[str, Any], size: int, path: Path
) -> None:
    data = pack(HEADER | header if size % 2 else header, bytes(size))
    path.write_bytes(data)
    try:
        theirs = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError:
        refused(path)
        return
    try:
        ours = open_state_dict(path).shapes()
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    assert ours == {key: tuple(entry["shape"]) for key, entry in theirs.items()}


@rerun.settings(300)
@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "a.safetensors.index.json"])
def test_any_bytes_are_refused(data: bytes, name: str, tmp_path: Path) -> None:
    refused(tmp_path / name, data)


# An index of several files


def index(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "model.safetensors.index.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text)
    return path


INDEXES: dict[str, Any] = {
    "not JSON": "{",
    "a list": [],
    "no map": {"metadata": {}},
    "a map of another kind": {"weight_map": ["a"]},
    "an empty map": {"weight_map": {}},
    "a path above": {"weight_map": {"a": "../model.safetensors"}},
    "a path below": {"weight_map": {"a": "sub/model.safetensors"}},
    "an absolute path": {"weight_map": {"a": "/etc/passwd"}},
    "a pickle": {"weight_map": {"a": "model.bin"}},
    "a folder": {"weight_map": {"a": ".."}},
    "a key that the file has not": {"weight_map": {"z": "model.safetensors"}},
    "nested too deep": '{"weight_map":' + "[" * 100_000 + "]" * 100_000 + "}",
}


@pytest.mark.parametrize("content", INDEXES.values(), ids=INDEXES.keys())
def test_hostile_index_is_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(GOOD)
    message = refused(index(tmp_path, content))
    if isinstance(content, dict) and "/" in str(content):
        assert "is not a safetensors file beside it" in message


def test_index_with_a_damaged_file_names_that_file(tmp_path: Path) -> None:
    part = tmp_path / "model.safetensors"
    part.write_bytes(GOOD[:-1])
    path = index(tmp_path, {"weight_map": {"c": part.name}})
    with pytest.raises(ValueError, match=f"{part.name}: .*truncated") as caught:
        open_state_dict(path)
    assert str(path) in str(caught.value)


# NumPy archives


def archive(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def member(data: bytes, name: str = "a.npy", **options: Any) -> bytes:
    """An archive of one member with the given bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(name, data, **options)
    return stream.getvalue()


def npy(shape: tuple[int, ...], count: int, descr: str = "<f4") -> bytes:
    """A .npy file whose header claims `shape`, with `count` bytes of data."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue() + bytes(count)


def test_archive_truncated_anywhere(tmp_path: Path) -> None:
    good = archive(a=np.arange(100.0), b=np.ones((3, 4), np.float32))
    for size in np.linspace(0, len(good) - 1, 100).astype(int):
        refused(tmp_path / "a.npz", good[:size])


def test_archive_with_flipped_bits(tmp_path: Path) -> None:
    """The checksum of each member catches what the structure does not."""
    good = archive(a=np.random.default_rng(0).random(50), b=np.ones((3, 4), np.float32))
    rng = random.Random(1)
    path = tmp_path / "a.npz"
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            read_all(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017


def twice() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        zipped.writestr("a.npy", npy((1,), 4))
        with pytest.warns(UserWarning, match="Duplicate name"):
            zipped.writestr("a.npy", npy((1,), 4))
    return stream.getvalue()


def pickled() -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([{}], object), allow_pickle=True)
    return member(stream.getvalue())


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "objects": pickled,
    "a name twice": twice,
    "more claimed than held": lambda: member(npy((10**12,), 4)),
    "less claimed than held": lambda: member(npy((1,), 400)),
    "a product that overflows": lambda: member(npy((2**40, 2**40), 4)),
    "a negative dimension": lambda: member(npy((-1,), 4)),
    "no magic": lambda: member(b"x" * 100),
    "a short header": lambda: member(b"\x93NUMPY\x01\x00\xff\xff{"),
    "an unknown version": lambda: member(b"\x93NUMPY\x09\x00" + bytes(100)),
    "no arrays": lambda: member(b"hello", "readme.txt"),
    "one array without an archive": lambda: npy((1,), 4),
    "text": lambda: member(npy((2,), 16, "<U2")),
}


@pytest.mark.parametrize("make", ARCHIVES.values(), ids=ARCHIVES.keys())
def test_hostile_archive_is_refused(make: Callable[[], bytes], tmp_path: Path) -> None:
    refused(tmp_path / "a.npz", make())


def test_archive_bomb_costs_nothing_until_it_is_asked_for(tmp_path: Path) -> None:
    """256 MB of zeros in 256 KB: a model of another shape never reads them."""
    path = tmp_path / "a.npz"
    path.write_bytes(member(npy((2**26,), 2**28)))
    tracemalloc.start()
    try:
        assert open_state_dict(path).shapes() == {"a": (2**26,)}
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


# Known keys with other shapes

TINY = {"embed_dim": 8, "depth": 2, "num_heads": 2, "img_size": 32, "num_classes": 3}
OPTIONS = {
    "timm": TINY,
    "map": TINY | {"class_token": False, "global_pool": "map"},
    "registers": TINY | {"reg_tokens": 2, "no_embed_class": True},
    "avg": TINY | {"global_pool": "avg", "patch_size": 8, "in_chans": 1},
}
# Part of what transformers writes, as (key, shape).
HUGGING_FACE = {
    "embeddings.patch_embeddings.projection.weight": (8, 3, 16, 16),
    "embeddings.cls_token": (1, 1, 8),
    "embeddings.position_embeddings": (1, 5, 8),
    "embeddings.register_tokens": (1, 2, 8),
    "encoder.layer.0.attention.attention.query.weight": (8, 8),
    "encoder.layer.0.attention.attention.key.weight": (8, 8),
    "encoder.layer.0.attention.attention.value.weight": (8, 8),
    "encoder.layer.0.mlp.gate_proj.weight": (16, 8),
    "encoder.layer.0.mlp.up_proj.weight": (16, 8),
    "layernorm.weight": (8,),
    "head.probe": (1, 1, 8),
    "head.attention.in_proj_weight": (24, 8),
    "visual_projection.weight": (3, 8),
    "classifier.weight": (3, 8),
}


def zeros_for(name: str) -> dict[str, np.ndarray]:
    shapes = Spec.from_options(OPTIONS[name]).shapes
    return {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}


KNOWN = {
    "timm": zeros_for("timm"),
    "jax": published.jax(zeros_for("timm"), 2),
    "siglip": published.jax(zeros_for("map"), 2, "params/img/", True),
    "stacked": published.jax(zeros_for("map"), 2, "params/", True, True),
    "clip": published.openai_clip(zeros_for("timm")),
    "trunk": published.openclip_trunk(zeros_for("map")),
    "dinov2": published.dinov2(zeros_for("registers")),
    "tips": published.tips(zeros_for("registers")),
    "aimv2": published.aimv2(zeros_for("timm")),
    "beit3": published.beit3(zeros_for("timm")),
    "radio": published.radio(zeros_for("registers")),
    "transformers": {k: np.zeros(shape) for k, shape in HUGGING_FACE.items()},
}
SHAPE = st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 16, 24]), max_size=5)


@rerun.settings(150)
@given(data=st.data())
@pytest.mark.parametrize("layout", KNOWN)
@pytest.mark.filterwarnings("ignore:.*its head is loaded:UserWarning")
@pytest.mark.filterwarnings("ignore::vitpool.LeftOutWarning")
def test_known_keys_with_any_shapes_are_refused_or_read(
    layout: str, data: st.DataObject
) -> None:
    """No layout trusts that a key comes with others, or with the axes it needs."""
    shapes = {key: array.shape for key, array in KNOWN[layout].items()}
    for key in data.draw(st.lists(st.sampled_from(list(shapes)), max_size=4)):
        changed = data.draw(st.none() | SHAPE)
        if changed is None:
            shapes.pop(key, None)
        else:
            shapes[key] = tuple(changed)
    tensors = {
        key: LazyTensor(shape, lambda shape=shape: np.zeros(shape, np.float32))
        for key, shape in shapes.items()
    }
    options = OPTIONS[data.draw(st.sampled_from(list(OPTIONS)))]
    spec = Spec.from_options(options, {"num_classes": 3, "label_offset": 1})
    try:
        weights = convert_state_dict(StateDict(tensors, "a file"), spec)
        Fit.of(weights, spec).check(weights, spec, strict=True)
        for key in weights:
            assert weights[key].shape == spec.shapes[key]
    except ValueError as error:
        assert "a file" in str(error)  # noqa: PT017


# Names


def test_names_that_are_no_weights_files(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="path must be a path, got int"):
        open_state_dict(3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        open_state_dict(tmp_path / "absent.safetensors")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        open_state_dict(tmp_path)
    pipe = tmp_path / "a.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="a pipe or a device"):
        open_state_dict(pipe)


@pytest.mark.parametrize("name", ["a.pth", "a.bin", "a.pt", "a.ckpt"])
def test_pickle_is_not_touched_without_torch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refused(tmp_path / name, b"\x80\x04.")
    assert "torch, which is not installed" in message
    assert "convert the file" in message
    assert "\n" not in message
