# SPDX-License-Identifier: Apache-2.0
"""Embedding on Ray: the same rows as the local engine, whatever is killed.

Needs the extra `ray`, and fails without it; the default test run does not come here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
import ray
from PIL import Image

import vitpool
from vitpool import embed
from vitpool import ray as vitpool_ray
from vitpool.embed.ray import count_rows
from vitpool.files import locked

PICTURES = 600
BROKEN = (11, 500)
POOLS = ["map", "avg"]
MODEL = {"model_name": "vit_digits", "pretrained": True}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        path = folder / f"{i}.png"
        if i in BROKEN:
            path.write_bytes(b"broken")
        else:
            size = (int(rng.integers(8, 60)), int(rng.integers(8, 60)), 3)
            Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path)
    return list(embed.list_images(folder))


@pytest.fixture(scope="module")
def expected(pictures, tmp_path_factory) -> pa.Table:
    """What the local engine writes."""
    out = tmp_path_factory.mktemp("local")
    model = vitpool.create_model(**MODEL)
    model.reset_classifier(0)
    embed.embed_images(model, pictures, out, pools=POOLS)
    return read(out)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray of four processors: two actors, and two for the rest."""
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def read(folder: Path) -> pa.Table:
    table = pyarrow.dataset.dataset(folder, format="parquet").to_table()
    return table.replace_schema_metadata(None)


def sorted_rows(table: pa.Table) -> pa.Table:
    return table.take(pa.compute.sort_indices(table, [("path", "ascending")]))


def same_rows(folder: Path, expected: pa.Table, but: Sequence[str] = ()) -> None:
    table, expected = (t.drop_columns(but) for t in (read(folder), expected))
    assert table.schema == expected.schema
    assert (
        sorted_rows(table)
        .combine_chunks()
        .equals(sorted_rows(expected).combine_chunks())
    )


def workers() -> list[int]:
    """Processes of Embedder actors below this one."""
    parents, found = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                title = (entry / "cmdline").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat[1])
            if "MapBatches(Embedder)" in title:
                found.append(int(entry.name))

    def ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid in found if ours(pid)]


def test_rows_are_those_of_the_local_engine(cluster, pictures, expected, tmp_path):
    out = tmp_path / "out"
    options = {"pools": POOLS, "batch_size": 16, "part_size": 100, "actors": 2}
    done = vitpool_ray.embed_images(MODEL, pictures, out, **options)
    assert done[:3] == (PICTURES, len(BROKEN), 0)
    same_rows(out, expected)
    again = vitpool_ray.embed_images(MODEL, pictures, out, **options)
    assert again[:3] == (PICTURES, len(BROKEN), PICTURES - len(BROKEN))
    same_rows(out, expected)


def test_what_does_not_belong_together_is_refused(cluster, pictures, tmp_path) -> None:
    few, out, folder = pictures[:40], tmp_path / "out", tmp_path / "model"
    model = {"model_name": f"local-dir:{folder}", "pretrained": True}
    options = {"pools": ["map"], "batch_size": 16, "actors": 1}
    net = vitpool.create_model(**MODEL)
    vitpool.save_pretrained(net, folder)
    with pytest.raises(ValueError, match="allowed are avg"):
        vitpool_ray.embed_images(model, few, out, **{**options, "pools": ["gem"]})
    assert not out.exists()  # nor does a folder remember it
    assert vitpool_ray.embed_images(model, few, out, **options)[:3] == (40, 1, 0)
    told = out.with_name("out.ray") / "run.json"
    for changed, words in (
        ({"pools": ["avg"]}, "out: made with other pools; give another -o"),
        ({"transform": {"crop_pct": 0.5}}, "made with other transform"),
        ({"num_cpus": 3}, "4 processors, but an actor of 3"),
        ({"images": [*few, few[0]]}, "listed twice"),
    ):
        args = {"images": few, **options, **changed}
        with pytest.raises(ValueError, match=words):
            vitpool_ray.embed_images(model, output=out, **args)
    with locked(told.parent), pytest.raises(ValueError, match="another run"):
        vitpool_ray.embed_images(model, few, out, **options)
    # the same name, and other weights or another activation behind it
    net.load_state_dict({"norm.bias": np.ones(net.embed_dim, np.float32)}, strict=False)
    vitpool.save_pretrained(net, folder)
    quick = {**MODEL, "act_layer": "quick_gelu"}
    for other, words in ((model, "other weights"), (quick, "other act_layer")):
        with pytest.raises(ValueError, match=f"made with {words}"):
            vitpool_ray.embed_images(other, few, out, **options)
    assert vitpool_ray.embed_images(MODEL, few, out, **options)[:3] == (40, 1, 39)
    for old in (b'[{"name": "vit_digits"}, ["map"], {}]', b"{", b"[]"):
        told.write_bytes(old)
        with pytest.raises(ValueError, match=r"made by vitpool 0\.1\.0"):
            vitpool_ray.embed_images(MODEL, few, out, **options)


def test_an_actor_with_other_weights_makes_no_rows(cluster, tmp_path) -> None:
    told = vitpool_ray.Embedder("vit_digits", threads=1).identity()
    vitpool_ray.Embedder("vit_digits", threads=1, identity=told)
    other = {**told, "weights": "0" * 32}
    with pytest.raises(ValueError, match="made with other weights than on the machine"):
        vitpool_ray.Embedder("vit_digits", threads=1, identity=other)


def test_what_failed_is_tried_again(cluster, tmp_path) -> None:
    paths = [str(tmp_path / f"{i}.png") for i in range(24)]
    for i, path in enumerate(paths):
        Image.new("RGB", (32, 32), (10 * i, 0, 0)).save(path)
    options = {"pools": ["map"], "batch_size": 4, "part_size": 8, "actors": 1}
    once, out = tmp_path / "once", tmp_path / "out"
    assert vitpool_ray.embed_images(MODEL, paths, once, **options)[:3] == (24, 0, 0)
    content = {i: Path(paths[i]).read_bytes() for i in (0, 5, 6, 7, 23)}
    for i in content:
        Path(paths[i]).write_bytes(b"half")
    assert vitpool_ray.embed_images(MODEL, paths, out, **options)[:3] == (24, 5, 0)
    for i in (0, 23):
        Path(paths[i]).write_bytes(content[i])
    assert vitpool_ray.embed_images(MODEL, paths, out, **options)[:3] == (24, 3, 19)
    for i in (5, 6, 7):
        Path(paths[i]).write_bytes(content[i])
    checkpoint = tmp_path / "out.ray" / "checkpoint"
    failed = [f for f in out.glob("*.parquet") if errors_in(f)]
    for file in checkpoint.glob("*.parquet"):  # killed once the checkpoint forgot
        rows = pyarrow.parquet.read_table(file)
        ids = pa.array([paths[i] for i in (5, 6, 7)])
        rows = rows.filter(pa.compute.invert(pa.compute.is_in(rows["path"], ids)))
        pyarrow.parquet.write_table(rows, file)
    assert failed
    (out / ".x.parquet.tmp").write_bytes(b"begun")
    assert vitpool_ray.embed_images(MODEL, paths, out, **options)[:3] == (24, 0, 21)
    same_rows(out, read(once), but=["mtime"])
    assert vitpool_ray.embed_images(MODEL, paths, out, **options)[:3] == (24, 0, 24)
    same_rows(out, read(once), but=["mtime"])
    assert not list(out.glob(".*"))


def test_rows_are_those_of_the_pictures_now(cluster, tmp_path) -> None:
    """Replaced, added in front, listed no more, not there now: as on one machine."""

    def picture(number: int, red: int) -> str:
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (32, 32), (red, 0, 0)).save(path)
        return str(path)

    paths = [picture(i, 10 * i) for i in range(16)]
    options = {"pools": ["map"], "batch_size": 4, "part_size": 8, "actors": 1}
    out = tmp_path / "out"
    done = vitpool_ray.embed_images(MODEL, paths, out, **options)
    assert done == embed.Summary(16, 0, 0, 0, 0, 0)
    told = [os.stat(path) for path in paths]
    rows = sorted_rows(read(out)).to_pylist()
    assert [row["path"] for row in rows] == sorted(paths)
    stamps = {(row["size"], row["mtime"]) for row in rows}
    assert stamps == {(t.st_size, t.st_mtime_ns) for t in told}
    picture(3, 255)
    listed = [picture(100, 7), *paths[1:]]
    (tmp_path / "15.png").rename(tmp_path / "away.png")
    done = vitpool_ray.embed_images(MODEL, listed, out, **options)
    assert done == embed.Summary(16, 0, 14, 1, 1, 1)
    assert read(out)["path"].to_pylist().count(paths[0]) == 1
    (tmp_path / "away.png").rename(tmp_path / "15.png")
    done = vitpool_ray.embed_images(MODEL, listed, out, prune=True, **options)
    assert done == embed.Summary(16, 0, 16, 0, 0, 1)
    once = tmp_path / "once"
    vitpool_ray.embed_images(MODEL, listed, once, **options)
    same_rows(out, read(once))
    done = vitpool_ray.embed_images(MODEL, [paths[0], *listed], out, **options)
    assert done == embed.Summary(17, 0, 16, 0, 0, 0)
    found = embed.load(out)
    assert sorted(found.paths) == sorted([paths[0], *listed])
    assert found.meta["source"]["name"] == "vit_digits"
    assert embed.search(out, paths[5], 1)[0].matches[0].path == paths[5]


def errors_in(file: Path) -> int:
    return pyarrow.parquet.read_table(file)["error"].drop_null().length()


def test_a_killed_worker_loses_nothing(cluster, pictures, expected, tmp_path) -> None:
    import threading

    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not killed:
            if any((tmp_path / "out").glob("*.parquet")):
                for pid in workers()[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.01)

    thread = threading.Thread(target=kill_one)
    thread.start()
    done = vitpool_ray.embed_images(
        MODEL, pictures, tmp_path / "out", pools=POOLS, batch_size=4, part_size=20,
        actors=2,
    )  # fmt: skip
    thread.join()
    assert killed
    assert done[:3] == (PICTURES, len(BROKEN), 0)
    same_rows(tmp_path / "out", expected)


def test_map_batches_takes_paths_and_bytes(cluster, pictures, expected) -> None:
    some = pictures[:40]
    rows = ray.data.read_binary_files(some, include_paths=True)
    rows = rows.map_batches(
        vitpool_ray.Embedder,
        fn_constructor_kwargs={"model": "vit_digits", "pools": POOLS},
        batch_format="pyarrow", batch_size=16, compute=ray.data.ActorPoolStrategy(),
    )  # fmt: skip
    table = pa.concat_tables(ray.get(rows.to_arrow_refs()))
    got = sorted_rows(table)
    want = sorted_rows(expected)
    mask = pa.compute.is_in(want["path"], pa.array(some))
    for pool in POOLS:
        assert (
            got[pool].combine_chunks().equals(want.filter(mask)[pool].combine_chunks())
        )


def test_threads_are_the_processors_of_the_actor(cluster) -> None:
    @ray.remote(num_cpus=2)
    class Probe:
        def threads(self) -> int:
            vitpool_ray.Embedder("vit_digits")
            return vitpool.get_num_threads()

    assert ray.get(Probe.remote().threads.remote()) == 2


def command(listing: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "vitpool", "embed", str(listing), "-o", str(out),
        "--engine", "ray", "--pool", "map,avg", "-b", "4", "--part-size", "20", "-q",
    ]  # fmt: skip


def test_strict_stops_at_the_broken_picture(pictures, tmp_path) -> None:
    listing, out = tmp_path / "list.txt", tmp_path / "out"
    listing.write_text("\n".join(pictures[:20]))
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [*command(listing, out), "--strict"], env=env, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    broken = f"{pictures[11]}: not a picture that Pillow can read"
    assert done.stderr.splitlines()[-1] == f"vitpool: {broken}"


def test_the_command_goes_on_after_a_kill(pictures, expected, tmp_path) -> None:
    listing, out = tmp_path / "list.txt", tmp_path / "out"
    listing.write_text("\n".join(pictures))
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    run = subprocess.Popen(
        command(listing, out), env=env, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.parquet"))) < 3 and time.monotonic() < deadline:
        assert run.poll() is None
        time.sleep(0.01)
    run.kill()
    run.wait()
    assert 0 < count_rows(out) < PICTURES
    done = subprocess.run(
        command(listing, out), env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1, done.stderr  # two pictures cannot be read
    assert done.stdout == f"{out}\n"
    same_rows(out, expected)


def test_a_file_that_a_killed_run_was_writing_is_no_obstacle(tmp_path) -> None:
    rows = pa.table({"path": ["a", "b", "c"]})
    pyarrow.parquet.write_table(rows, tmp_path / "whole.parquet")
    data = (tmp_path / "whole.parquet").read_bytes()
    for length in (0, 4, len(data) // 2, len(data) - 1):
        (tmp_path / "begun.parquet").write_bytes(data[:length])
        assert count_rows(tmp_path) == 3
