# SPDX-License-Identifier: Apache-2.0
"""What people have in place of weights is named, with the way out."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from vitpool.checkpoint import open_state_dict, shard_names

WEIGHTS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
SAFETENSORS = safetensors.numpy.save(WEIGHTS)
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:" + b"0" * 64 + b"\nsize 346284714\n"
)
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202e"


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **WEIGHTS)
    return stream.getvalue()


def zip_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("model/model.safetensors")
        info.size = len(SAFETENSORS)
        archive.addfile(info, io.BytesIO(SAFETENSORS))
    return stream.getvalue()


def document(**content: object) -> bytes:
    return json.dumps(content).encode()


# The bytes, and words of the message that they must get.
IN_PLACE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "a git-lfs pointer": (POINTER, r"git-lfs pointer.* 346284714 bytes.*git lfs pull"),
    "a pointer without a size": (POINTER[:43], "git-lfs pointer.*git lfs pull"),
    "a page": (PAGE, "an HTML page.*download the file itself"),
    "a page with a mark": (b"\xef\xbb\xbf\r\n \t" + PAGE, "an HTML page"),
    "a page of UTF-16": (b"\xff\xfe" + PAGE.decode().encode("utf-16-le"),
                         "an HTML page"),
    "a page of XHTML": (b'<?xml version="1.0"?>\n' + PAGE, "an HTML page"),
    "a page of Latin-1": (b"<html><body>acc\xe8s refus\xe9</body>", "an HTML page"),
    "an XML error": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
                     "an XML document.*AccessDenied"),
    "a JSON error": (document(error="not found"), "a JSON document.*'error'"),
    "a JSON list": (b'["a", "b"]', "a text file"),
    "half of a JSON document": (b'{"weight_map": {"a": ', "starts like JSON"),
    "a model's configuration": (document(model_type="vit", hidden_size=8),
                                "a model's configuration: its weights are another"),
    "timm's configuration": (document(architecture="vit"), "a model's configuration"),
    "a text": (b"Entry not found", "a text file.*'Entry not found'"),
    "a text with commands": (f"no {ESCAPES} entry".encode(), "a text file"),
    "a page to open": (b"[InternetShortcut]\r\nURL=https://x.org/a.bin", "shortcut"),
    "spaces": (b" \n" * 99, "a text file"),
    "zeros": (bytes(5000), "zeros alone.*not finished"),
    "gzip": (gzip.compress(SAFETENSORS), "a gzip archive: unpack it"),
    "bzip2": (bz2.compress(SAFETENSORS), "a bzip2 archive: unpack it"),
    "xz": (lzma.compress(SAFETENSORS), "an xz archive: unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd\x24\x05\x29\x00\x00hello", "a zstd archive: unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(24), "a 7z archive: unpack it"),
    "tar": (tarred(), "a tar archive: unpack it"),
    "a zip of a folder": (zip_of("m/config.json", "m/model.safetensors"),
                          r"holds 'm/config.json', 'm/model.safetensors': unpack it"),
    "a zip with commands": (zip_of(ESCAPES), r"holds '\\x1b\[2J.*unpack it"),
    "a zip of nothing": (zip_of(), "a zip archive that holds nothing"),
    "TorchScript": (zip_of("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"),
                    r"TorchScript.*torch.jit.load\(file\).state_dict"),
    "Keras": (zip_of("config.json", "metadata.json", "model.weights.h5"), "Keras"),
    "half of a zip": (npz()[:200], "a zip archive .*without its end.*fetch it again"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file.*safetensors"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x032.0:" + bytes(99), "an ONNX model"),
    "a SavedModel": (b"\x08\x01\x12\x9a\x8f\x01\x0a" + bytes(99), "a SavedModel"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(99), "TensorFlow Lite"),
    "Flax": (b"\x81\xa6params\x82\xa3cls\xc7\x10\x01" + bytes(99), "msgpack.*Flax"),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(99), "a GGUF model"),
    "one array": (b"\x93NUMPY\x01\0v\0{'descr': '<f4'}" + bytes(99), "one array"),
    "a Windows shortcut": (b"L\0\0\0\x01\x14\x02\0" + bytes(99), "a Windows shortcut"),
    "a macOS alias": (b"book\0\0\0\0mark\0\0\0\0" + bytes(99), "a macOS alias"),
    "macOS's notes": (b"\0\x05\x16\x07\0\x02\0\0Mac OS X" + bytes(99), "macOS's notes"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "a picture"),
    "noise": (bytes(range(0xC0, 0xFF)) + bytes(9), "first bytes are c0 c1 c2 c3"),
    "cut safetensors": (SAFETENSORS[:-4], f"truncated: {len(SAFETENSORS) - 4} of "
                        f"{len(SAFETENSORS)} bytes are there; fetch it again"),
    "a cut header": (SAFETENSORS[:20], "truncated or damaged"),
}  # fmt: skip


def message(path: Path, data: bytes | None = None) -> str:
    """The error's text, which no file may make long, or a terminal obey."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        open_state_dict(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert text.isprintable()
    assert len(text) < 500
    assert "weights_only" not in text
    return text.removeprefix(str(path))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".npz"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_what_is_no_weights_file_is_named(
    name: str, suffix: str, tmp_path: Path
) -> None:
    """Whatever its own name is."""
    data, words = IN_PLACE[name]
    text = message(tmp_path / f"model{suffix}", data)
    assert re.search(words, text), text


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth", ".h5", ".part", ""])
@pytest.mark.parametrize("make", [lambda: SAFETENSORS, npz], ids=["safetensors", "npz"])
def test_the_content_decides_how_a_file_is_read(
    make: Callable[[], bytes], suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(make())
    np.testing.assert_array_equal(open_state_dict(path)["w"], WEIGHTS["w"])


@pytest.mark.parametrize(
    "data",
    [
        *(pickle.dumps({"w": 1.0}, protocol) for protocol in (2, 3, 4, 5)),
        zip_of("archive/data.pkl", "archive/data/0", "archive/version"),
    ],
    ids=["2", "3", "4", "5", "zip"],
)
def test_pickles_go_to_torch_under_any_name(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="only read through torch"):
        open_state_dict(path)


@pytest.mark.parametrize("suffix", ["part", "incomplete", "crdownload", "aria2"])
def test_name_of_an_unfinished_download_is_said(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.safetensors.{suffix}"
    text = message(path, SAFETENSORS[:-4])
    assert f"a name in .{suffix} is that of an unfinished download" in text


def test_link_to_nothing_says_where_it_points(tmp_path: Path) -> None:
    """As in a hub's cache that was copied without its blobs."""
    path = tmp_path / "model.safetensors"
    path.symlink_to("../../blobs/0123")
    with pytest.raises(FileNotFoundError, match=r"a link to '../../blobs/0123'") as e:
        open_state_dict(path)
    assert str(path) in str(e.value)


FOLDERS = {
    "model.safetensors": "give model.safetensors in it, or the model 'local-dir:'",
    "model.safetensors.index.json": "give model.safetensors.index.json in it",
    "pytorch_model.bin": "give pytorch_model.bin in it",
    "saved_model.pb": "a SavedModel of TensorFlow",
    ".metadata": "dcp_to_torch_save",
    "data.pkl": "an unpacked PyTorch file",
    "manifest.ocdbt": "Orbax",
    f"{ESCAPES}.txt": r"It holds \x1b[2J",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folder_says_what_it_holds(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(IsADirectoryError, match="is a folder") as caught:
        open_state_dict(tmp_path)
    assert FOLDERS[name] in str(caught.value)
    assert str(caught.value).isprintable()


# An index, whose files have their own troubles


def sharded(tmp_path: Path, name: str, data: bytes | None) -> Path:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(document(weight_map={"w": name}))
    if data is not None:
        (tmp_path / name).write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.safetensors", POINTER, "a.safetensors: a git-lfs pointer"),
        ("a.safetensors", None, "a.safetensors, which it lists, is not beside it"),
        ("a.safetensors", npz(), "a.safetensors: not a safetensors file"),
        ("a.bin", SAFETENSORS, "lists PyTorch's pickles"),
    ],
    ids=["a pointer", "missing", "another kind", "pickles"],
)
def test_part_of_an_index_is_named(
    name: str, data: bytes | None, words: str, tmp_path: Path
) -> None:
    assert words in message(sharded(tmp_path, name, data))


def test_files_of_an_index_are_listed(tmp_path: Path) -> None:
    path = sharded(tmp_path, "a.safetensors", SAFETENSORS)
    assert shard_names(path) == ["a.safetensors"]
    np.testing.assert_array_equal(open_state_dict(path)["w"], WEIGHTS["w"])
    with pytest.raises(ValueError, match=r"index\.json: '\.\./a\.safetensors' is not"):
        shard_names(sharded(tmp_path, "../a.safetensors", None))


def test_header_of_a_megabyte_is_no_onnx(tmp_path: Path) -> None:
    """Its length, 0x120A08, begins as ONNX does: 08 and a version, then a field."""
    length = 0x120A08
    path = tmp_path / "a.safetensors"
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    path.write_bytes(struct.pack("<Q", length) + header + bytes(4))
    assert path.read_bytes()[:3] == b"\x08\x0a\x12"
    assert open_state_dict(path).shapes() == {"w": (1,)}
