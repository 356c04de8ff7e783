# SPDX-License-Identifier: Apache-2.0
"""Embeddings in Parquet parts: the rows, resuming, kills, and what is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

if sys.version_info < (3, 11):
    reason = "pyarrow 26, the first with nulls in fixed-size lists, needs Python 3.11"
    pytest.skip(reason, allow_module_level=True)

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from PIL import Image

import vitpool
from vitpool import embed
from vitpool.files import locked
from vitpool.transforms import ImageError, create_transform, resolve_data_config

OPTIONS = {"part_size": 16, "batch_size": 5, "num_workers": 2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 pictures; numbers 7 and 33 cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(50):
        path = folder / f"{i}.png"
        if i in (7, 33):
            path.write_bytes(b"broken")
        else:
            noise = rng.integers(0, 256, (20 + i, 40, 3), np.uint8)
            Image.fromarray(noise).save(path)
    return folder


@pytest.fixture(scope="module")
def model() -> vitpool.VisionTransformer:
    return vitpool.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=3,
        global_pool="map", seed=0,
    )  # fmt: skip


def read(folder: Path) -> pa.Table:
    return pyarrow.dataset.dataset(folder, format="parquet").to_table()


def names(folder: Path) -> list[str]:
    return [str(folder / f"{i}.png") for i in range(50)]


def test_rows_are_the_pictures_in_order(tmp_path, pictures, model) -> None:
    listed = list(embed.list_images(pictures))
    assert listed == names(pictures)
    done = embed.embed_images(
        model, listed, tmp_path / "out", pools=["token", "map", "avg"], **OPTIONS
    )
    assert done[:3] == (50, 2, 0)
    table = read(tmp_path / "out")
    vector = pa.list_(pa.float32(), 32)
    assert table.schema.remove_metadata() == pa.schema(
        [("path", pa.string()), ("token", vector), ("map", vector), ("avg", vector),
         ("error", pa.string()), ("size", pa.int64()),
         ("mtime", pa.int64())]
    )  # fmt: skip
    told = [os.stat(path) for path in listed]
    assert table["size"].to_pylist() == [t.st_size for t in told]
    assert table["mtime"].to_pylist() == [t.st_mtime_ns for t in told]
    assert table["path"].to_pylist() == listed
    errors = table["error"].to_pylist()
    assert [i for i, e in enumerate(errors) if e] == [7, 33]
    assert errors[7] == "not a picture that Pillow can read"
    for pool in ("token", "map", "avg"):
        assert table[pool].null_count == 2
        assert table[pool][7].as_py() is None
    parts = sorted(p.name for p in (tmp_path / "out").glob("*.parquet"))
    assert parts == [f"part-{i:06d}.parquet" for i in range(4)]


def test_vectors_are_those_of_a_model_with_that_pool(tmp_path, pictures) -> None:
    listed = names(pictures)[:5]
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2}
    options |= {"num_heads": 2, "num_classes": 3}
    source = vitpool.VisionTransformer(**options, global_pool="avg", seed=0)
    weights = source.state_dict()
    embed.embed_images(
        source, listed, tmp_path, pools=["avg", "token", "max", "avgmax"], **OPTIONS
    )
    table = read(tmp_path)
    transform = create_transform(**resolve_data_config(source))
    x = np.stack([transform(path) for path in listed])
    for pool in ("avg", "token", "max", "avgmax"):
        # the same norm, after each pool
        other = vitpool.VisionTransformer(**options, global_pool=pool, fc_norm=True)
        other.load_state_dict(weights)
        expected = other.forward_head(other.forward_features(x), pre_logits=True)
        got = np.array(table[pool].to_pylist(), np.float32)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_the_shortcut_for_one_pool_gives_the_same(tmp_path, pictures, model) -> None:
    import copy

    bare = copy.deepcopy(model)
    bare.reset_classifier(0)
    listed = names(pictures)[:9]
    embed.embed_images(model, listed, tmp_path / "a", pools=["map", "avg"], **OPTIONS)
    embed.embed_images(bare, listed, tmp_path / "b", **OPTIONS)
    a, b = read(tmp_path / "a"), read(tmp_path / "b")
    np.testing.assert_allclose(
        np.array(a["map"].drop_null().to_pylist()),
        np.array(b["map"].drop_null().to_pylist()),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip


def test_a_second_run_does_only_what_is_missing(tmp_path, pictures, model) -> None:
    listed = names(pictures)
    embed.embed_images(model, listed, tmp_path, **OPTIONS)
    before = read(tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.parquet")}
    # the two that failed are tried again
    assert embed.embed_images(model, listed, tmp_path, **OPTIONS)[:3] == (50, 2, 48)
    (tmp_path / "part-000001.parquet").unlink()
    (tmp_path / ".part-000001.parquet.tmp").write_bytes(b"half")
    assert embed.embed_images(model, listed, tmp_path, **OPTIONS)[:3] == (50, 2, 32)
    for path, stamp in stamps.items():
        changed = path.stat().st_mtime_ns != stamp
        assert changed == (path.name == "part-000001.parquet")
    assert read(tmp_path).equals(before)
    assert not list(tmp_path.glob(".part*"))


def test_a_longer_list_goes_on_where_the_shorter_ended(
    tmp_path, pictures, model
) -> None:
    listed = names(pictures)
    embed.embed_images(model, listed[:20], tmp_path / "a", **OPTIONS)
    assert embed.embed_images(model, listed, tmp_path / "a", **OPTIONS)[:3] == (
        50,
        2,
        19,
    )
    embed.embed_images(model, listed, tmp_path / "b", **OPTIONS)
    assert read(tmp_path / "a").equals(read(tmp_path / "b"))


def test_a_part_is_replaced_and_never_written_into(tmp_path, pictures, model) -> None:
    """What is there under a part's name is whole, and stays so for who reads it."""
    listed = names(pictures)
    embed.embed_images(model, listed[:20], tmp_path / "out", **OPTIONS)
    part, kept = tmp_path / "out" / "part-000001.parquet", tmp_path / "kept"
    os.link(part, kept)
    before = part.read_bytes()
    embed.embed_images(model, listed, tmp_path / "out", **OPTIONS)
    assert part.read_bytes() != before
    assert kept.read_bytes() == before


def test_what_does_not_belong_together_is_refused(tmp_path, pictures, model) -> None:
    listed = names(pictures)
    embed.embed_images(model, listed, tmp_path, pools=["map"], **OPTIONS)
    other = vitpool.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=3,
        global_pool="map", seed=1,
    )  # fmt: skip
    resized = create_transform((3, 32, 32), "nearest")
    for images, net, options, words in (
        (listed, other, {}, "made with other weights"),
        (listed, model, {"pools": ["avg"]}, "made with other pools"),
        (listed, model, {"transform": resized}, "made with other transform"),
    ):
        with pytest.raises(ValueError, match=words):
            embed.embed_images(
                net, images, tmp_path, **{"pools": ["map"], **OPTIONS, **options}
            )
    pq.write_table(pa.table({"a": [1]}), tmp_path / "part-000000.parquet")
    with pytest.raises(ValueError, match="not written by vitpool"):
        embed.embed_images(model, listed, tmp_path, pools=["map"], **OPTIONS)
    (tmp_path / "part-000000.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="not a Parquet file"):
        embed.embed_images(model, listed, tmp_path, pools=["map"], **OPTIONS)


def test_wrong_pools_are_refused_before_a_picture_is_opened(tmp_path, model) -> None:
    for pools, words in (
        (["gem"], "allowed are avg"),
        ([""], "allowed are avg"),
        ([], "one or more"),
        (["avg", "avg"], "each once"),
        (["prr"], "prr"),
    ):
        with pytest.raises(ValueError, match=words):
            embed.embed_images(model, ["/no.png"], tmp_path, pools=pools)
    assert not list(tmp_path.iterdir())


def test_strict_stops_and_keeps_finished_parts(tmp_path, pictures, model) -> None:
    with pytest.raises(ImageError, match=r"33\.png"):
        embed.embed_images(
            model, names(pictures)[8:], tmp_path, strict=True, **OPTIONS
        )  # fmt: skip
    assert read(tmp_path).num_rows == 16


def test_one_run_at_a_time(tmp_path, pictures, model) -> None:
    with locked(tmp_path), pytest.raises(ValueError, match="another run"):
        embed.embed_images(model, names(pictures), tmp_path, **OPTIONS)


def test_a_list_may_be_a_file_and_names_need_not_be_utf8(tmp_path, pictures) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff \xc3\xa9.png")
    Image.new("RGB", (8, 8)).save(odd)
    listing = tmp_path / "list.txt"
    listing.write_bytes(os.fsencode(f"{pictures / '1.png'}\r\n\n{odd}\n/no.png"))
    assert list(embed.list_images(listing)) == [
        str(pictures / "1.png"), odd, "/no.png",
    ]  # fmt: skip
    model = vitpool.create_model("vit_digits", pretrained=True)
    done = embed.embed_images(model, embed.list_images(listing), tmp_path / "out")
    assert done[:3] == (3, 1, 0)
    table = read(tmp_path / "out")
    assert table["path"][1].as_py().endswith("/\\xff é.png")
    assert table["error"].to_pylist() == [None, None, "No such file or directory"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        list(embed.list_images(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError):
        list(embed.list_images(tmp_path / "no"))


def command(pictures: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "vitpool", "embed", str(pictures), "-o", str(out),
        "--pool", "map,avg", "--part-size", "4", "-b", "2", "--threads", "1", "-q",
    ]  # fmt: skip


def test_twenty_kills_end_in_the_same_table_as_one_run(tmp_path, pictures) -> None:
    one = subprocess.run(command(pictures, tmp_path / "one"), capture_output=True)
    assert one.returncode == 1  # two pictures cannot be read
    out, rng = tmp_path / "many", random.Random(0)
    kills = 0
    while kills < 20:
        run = subprocess.Popen(
            command(pictures, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        parts = len(list(out.glob("*.parquet")))
        if parts == 13:  # all done: take some away, so that there is work to kill
            for path in rng.sample(sorted(out.glob("*.parquet")), 9):
                path.unlink()
            parts = 4
        goal = parts + rng.randint(0, 2)
        while run.poll() is None and len(list(out.glob("*.parquet"))) < goal:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        kills += 1
        for path in out.glob("*.parquet"):
            pq.read_table(path)  # whole, whenever it was killed
    last = subprocess.run(command(pictures, out), capture_output=True, text=True)
    assert last.returncode == 1, last.stderr
    assert read(out).equals(read(tmp_path / "one"))


def test_a_pyarrow_without_null_vectors_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(pa, "__version__", "25.0.0")
    with pytest.raises(ImportError, match=r"pyarrow 26 or later.*found 25\.0\.0"):
        embed.need_pyarrow()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install .pyarrow"):
        embed.need_pyarrow()


def test_parts_say_what_made_them(tmp_path, pictures, model) -> None:
    embed.embed_images(model, names(pictures), tmp_path, **OPTIONS)
    meta = pq.read_schema(tmp_path / "part-000003.parquet").metadata[b"vitpool"]
    told = json.loads(meta)
    assert (told["rows"], told["failed"]) == (2, 0)
    assert told["run"]["pools"] == {"map": 32}
