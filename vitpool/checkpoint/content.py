# SPDX-License-Identifier: Apache-2.0
"""What a file holds, by its first bytes: weights, or what people have in their place.

The name's ending is not asked: a login page is saved as model.bin, and a checkpoint as
epoch_9. Of a file that is no weights the message tells what it is and what to do.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from ..text import printable

# As much as a page may have in front of its first tag; tar's mark is at byte 257.
_HEAD = 4096

READ = "safetensors, NumPy's .npz and PyTorch's state dicts are read"

_UNPACK = "archive: unpack it, and give the weights file in it"
_POINT = "give the file itself"
# Offset, first bytes, and what to say of them.
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1f\x8b", f"a gzip {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"a zstd {_UNPACK}"),
    (0, b"BZh", f"a bzip2 {_UNPACK}"),
    (0, b"\xfd7zXZ\0", f"an xz {_UNPACK}"),
    (0, b"\x04\x22\x4d\x18", f"an lz4 {_UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7z {_UNPACK}"),
    (0, b"Rar!\x1a\x07", f"a RAR {_UNPACK}"),
    (257, b"ustar", f"a tar {_UNPACK}"),
    (0, b"\x89HDF\r\n\x1a\n", f"an HDF5 file (Keras, TensorFlow): {READ}"),
    (4, b"TFL3", f"a TensorFlow Lite model: {READ}"),
    (0, b"GGUF", f"a GGUF model of llama.cpp: {READ}"),
    (0, b"lmgg", f"a GGML model of llama.cpp: {READ}"),
    (0, b"\x93NUMPY", "one array (.npy), where an archive of arrays is expected"),
    (0, b"L\0\0\0\x01\x14\x02\0", f"a Windows shortcut: {_POINT}"),
    (0, b"book\0\0\0\0mark", f"a macOS alias: {_POINT}"),
    (0, b"\0\x05\x16\x07", f"macOS's notes on a file (._name): {_POINT}"),
    (0, b"\x89PNG", "a picture, where weights are expected"),
    (0, b"\xff\xd8\xff", "a picture, where weights are expected"),
)
_BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_UNFINISHED = re.compile(
    r"\.(part|partial|incomplete|crdownload|download|aria2|tmp|opdownload)$", re.I
)
_TENSORFLOW = re.compile(r"\.(data-\d+-of-\d+|ckpt-\d+\.\w+)$")


def content_of(path: Path) -> str:
    """'safetensors', 'index', 'npz' or 'pickle'; ValueError for anything else."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise ValueError("empty: the download failed, or the disk was full")
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= size:
        return "safetensors"
    if not head.strip(b"\0"):
        raise ValueError("starts with zeros alone: a download that was not finished")
    for offset, mark, what in _MAGIC:
        if head.startswith(mark, offset):
            raise ValueError(what)
    if head.startswith(b"PK\x03\x04") or head.startswith(b"PK\x05\x06"):
        return _zip(path)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    text = _text(head)
    if text is not None:
        return _written(text)
    if head[8:9] == b"{":
        return "safetensors"  # whose reader says what is wrong with its length
    if re.match(rb"\x08\x01\x12", head):
        raise ValueError(f"a SavedModel of TensorFlow: {READ}")
    if re.match(rb"\x08[\x02-\x20][\x12\x1a\x22\x2a\x32\x3a\x42]", head):
        raise ValueError(f"an ONNX model: {READ}")
    if re.match(rb"[\x81-\x8f\xde\xdf].{0,4}[\xa1-\xbf\xd9]", head, re.DOTALL):
        raise ValueError(f"a msgpack file of Flax: {READ}")
    if _TENSORFLOW.search(path.name):
        raise ValueError(f"a part of a TensorFlow checkpoint: {READ}")
    begin = head[:8].hex(" ")
    raise ValueError(f"no weights, or damaged: its first bytes are {begin}; {READ}")


def _zip(path: Path) -> str:
    """Which kind of file the members of a zip archive make it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise ValueError(
            "a zip archive (as PyTorch's and NumPy's files are) without its end, or "
            "damaged: the download was cut off; fetch it again"
        ) from None
    ends = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in ends:
        if "constants.pkl" in ends or any("/code/" in name for name in names):
            raise ValueError(
                "a TorchScript program, which holds code beside the weights: whoever "
                "trusts it can save the weights alone, by "
                "torch.save(torch.jit.load(file).state_dict(), 'model.pth')"
            )
        return "pickle"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    if "model.weights.h5" in ends:
        raise ValueError(f"a Keras model: {READ}")
    shown = ", ".join(f"{name!r:.60}" for name in names[:3]) or "nothing"
    raise ValueError(
        f"a zip archive that holds {shown}{' and more' if len(names) > 3 else ''}: "
        "unpack it, and give the weights file in it"
    )


def _text(head: bytes) -> str | None:
    """The text without what is in front of it; None for bytes that are no text."""
    codec = "utf-8"
    for bom, name in _BOMS:
        if head.startswith(bom):
            head, codec = head[len(bom) :], name
    text = head.decode(codec, "replace")
    if any(c < " " and c not in "\a\b\t\n\v\f\r\x1b" for c in text):
        return None
    return text.lstrip()


def _written(text: str) -> str:
    """'index' for what may be one; ValueError that says which text it is."""
    begin = text[:64].lower()
    if begin.startswith("version https://git-lfs"):
        size = re.search(r"^size (\d{1,18})\s*$", text, re.MULTILINE)
        where = f", of {size[1]} bytes," if size else ""
        raise ValueError(
            f"a git-lfs pointer: the weights{where} are not there yet; `git lfs pull` "
            "in that clone fetches them"
        )
    if begin.startswith("[internetshortcut]"):
        raise ValueError("a Windows shortcut to a page: download the file itself")
    if begin.startswith("<"):
        if re.search(r"<(!doctype\s+)?html\b|<head\b|<body\b", text, re.I):
            raise ValueError(
                "an HTML page, as a server sends it in place of a file (a login, an "
                "error, a preview): download the file itself"
            )
        raise ValueError(
            f"an XML document, as a server sends it for an error: {_quote(text)}"
        )
    if begin.startswith("{"):
        return "index"
    raise ValueError(f"a text file, not weights: {_quote(text)}")


def _quote(text: str) -> str:
    """The begin of a file's text, fit for a message."""
    return repr(" ".join(text[:400].split())[:80])


def unfinished(path: Path) -> str:
    """What to add to an error where the name is that of an unfinished download."""
    if _UNFINISHED.search(path.name):
        return f" (a name in {path.suffix} is that of an unfinished download)"
    return ""


# What lies in a folder that somebody gives as a weights file.
_FOLDERS: tuple[tuple[str, str], ...] = (
    (
        "model.safetensors",
        "give model.safetensors in it, or the model 'local-dir:' + it",
    ),
    ("model.safetensors.index.json", "give model.safetensors.index.json in it"),
    ("pytorch_model.bin", "give pytorch_model.bin in it"),
    ("saved_model.pb", f"a SavedModel of TensorFlow; {READ}"),
    (
        ".metadata",
        "a checkpoint of torch.distributed; torch.distributed.checkpoint.format_utils."
        "dcp_to_torch_save makes a file of it",
    ),
    ("data.pkl", "an unpacked PyTorch file; give the file it was unpacked from"),
    ("_METADATA", f"a checkpoint of Orbax (JAX); {READ}"),
    ("manifest.ocdbt", f"a checkpoint of Orbax (JAX); {READ}"),
)


def folder_of(path: Path) -> str:
    """What to say of a folder where a file is expected."""
    for name, what in _FOLDERS:
        if (path / name).exists():
            return f"{path} is a folder: {what}"
    files = sorted(p.name for p in path.iterdir() if p.is_file())
    shown = ", ".join(printable(name)[:60] for name in files[:3]) or "no files"
    return f"{path} is a folder; a weights file is expected. It holds {shown}"
