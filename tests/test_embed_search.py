# SPDX-License-Identifier: Apache-2.0
"""Vectors read back as arrays, and searched, from Python and by the command."""

from __future__ import annotations

import json
import re
import sys
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

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
from vitpool import cli, embed
from vitpool.embed.search import directions, nearest
from vitpool.transforms import ImageError, ImageWarning, Transform

SAMPLES = [str(path) for path in vitpool.samples()]


@pytest.fixture(scope="module")
def model() -> Any:
    return vitpool.create_model("vit_digits", pretrained=True)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Path:
    """The ten samples, and fourth a file that is no picture; two pools, three parts."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "broken.png").write_bytes(b"broken")
    listed = [*SAMPLES[:3], str(folder / "broken.png"), *SAMPLES[3:]]
    out = folder / "vectors"
    embed.embed_images(model, listed, out, pools=["map", "avg"], part_size=4)
    return out


def copied(stored: Path, tmp_path: Path) -> Path:
    out = tmp_path / "copy"
    out.mkdir()
    for part in stored.glob("*.parquet"):
        (out / part.name).write_bytes(part.read_bytes())
    return out


def retold(part: Path, change: Any) -> None:
    """Write a part again with what it says of itself changed."""
    table = pq.read_table(part)
    told = json.loads(table.schema.metadata[b"vitpool"])
    change(told)
    meta = {b"vitpool": json.dumps(told).encode()}
    pq.write_table(table.replace_schema_metadata(meta), part)


# --------------------------------------------------------------------------------- load


def test_what_was_written_is_read_back(stored, model) -> None:
    found = embed.load(stored)
    asked = model.embed(SAMPLES, "map,avg")
    assert found.pools.keys() == {"map", "avg"}
    for pool, vectors in found.pools.items():
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
        np.testing.assert_array_equal(vectors, asked.pools[pool])
    assert found.paths == SAMPLES
    assert found.indices.tolist() == [i for i in range(11) if i != 3]
    broken = str(stored.parent / "broken.png")
    assert found.errors == {3: f"{broken}: not a picture that Pillow can read"}
    assert found.meta["run"]["pools"] == {"map": 64, "avg": 64}
    assert found.meta["source"]["name"] == "vit_digits"
    assert found.meta["versions"]["vitpool"] == vitpool.__version__
    with pytest.raises(ValueError, match="several pools"):
        _ = found.vectors


def test_one_pool_is_an_array(stored) -> None:
    found = embed.load(stored, "avg")
    assert found.vectors is found.pools["avg"]
    assert np.asarray(found).shape == found.shape == (10, 64)
    assert repr(found) == "<Embeddings of 10 pictures: avg (10, 64), 1 not readable>"
    both = embed.load(stored, "avg, map")
    assert list(both.pools) == ["avg", "map"]
    with pytest.raises(ValueError, match=r"'token', allowed of .* are map, avg"):
        embed.load(stored, "token")


def test_loading_takes_the_memory_of_the_vectors(tmp_path) -> None:
    rows, width, parts = 500, 256, 8
    net = vitpool.VisionTransformer(
        img_size=8, patch_size=8, embed_dim=width, depth=0, num_heads=1, num_classes=0,
        global_pool="avg",
    )  # fmt: skip
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    out = tmp_path / "out"
    embed.embed_images(net, [picture] * (rows * parts), out, part_size=rows)
    whole = rows * parts * width * 4
    embed.load(out)  # what is imported on the way
    own = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(own)  # Arrow's arrays are not Python's memory
    pa.set_memory_pool(counting)
    tracemalloc.start()
    try:
        found = embed.load(out)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(own)
    assert found.vectors.nbytes == whole
    assert counting.max_memory() > 0
    assert most + counting.max_memory() < 1.75 * whole


def test_what_holds_no_embeddings_is_refused(stored, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder of embeddings"):
        embed.load(tmp_path / "no")
    with pytest.raises(FileNotFoundError, match="no folder of embeddings"):
        embed.load(stored / "part-000000.parquet")
    with pytest.raises(ValueError, match="no embeddings in it"):
        embed.load(tmp_path)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet there is no part of ours"):
        embed.load(tmp_path)
    (tmp_path / "other.parquet").rename(tmp_path / "part-000000.parquet")
    with pytest.raises(ValueError, match="not written by vitpool embed"):
        embed.load(tmp_path)
    (tmp_path / "part-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="not a Parquet file"):
        embed.load(tmp_path)


def test_a_file_that_is_cut_or_without_its_columns_is_named(stored, tmp_path) -> None:
    out = copied(stored, tmp_path)
    part = out / "part-000001.parquet"
    content = bytearray(part.read_bytes())
    content[4:-2000] = bytes(len(content) - 2004)
    part.write_bytes(content)
    with pytest.raises(ValueError, match=r"part-000001\.parquet: "):
        embed.load(out)
    table = pq.read_table(stored / "part-000001.parquet")
    pq.write_table(table.drop_columns("avg"), part)
    with pytest.raises(ValueError, match=r"part-000001\.parquet: "):
        embed.load(out)


def test_parts_of_two_runs_are_refused(stored, tmp_path) -> None:
    out = copied(stored, tmp_path)
    part = out / "part-000002.parquet"
    retold(part, lambda told: told["run"].update(weights="0" * 32))
    words = r"part-000002\.parquet: made with other weights than part-000000\.parquet"
    with pytest.raises(ValueError, match=words):
        embed.load(out)
    with pytest.raises(ValueError, match=words):
        embed.search(out, SAMPLES[0], pool="map")


def test_what_other_versions_wrote_can_be_read(stored, tmp_path) -> None:
    """Paths, vectors and reasons have always been there; the stamps have not."""
    out = copied(stored, tmp_path)
    for part in out.glob("*.parquet"):
        table = pq.read_table(part).drop_columns(["size", "mtime"])
        pq.write_table(table, part)
        retold(part, lambda told: told.update(run={"name": "vit_digits"}))
    found = embed.load(out)
    np.testing.assert_array_equal(found.pools["map"], embed.load(stored, "map").vectors)


def test_what_ray_wrote_can_be_read(stored, tmp_path) -> None:
    """Files of any name, and what made them in run.json beside the folder."""
    out, state = tmp_path / "out", tmp_path / "out.ray"
    out.mkdir()
    state.mkdir()
    for number, part in enumerate(sorted(stored.glob("*.parquet"))):
        table = pq.read_table(part)
        pq.write_table(table.replace_schema_metadata(None), out / f"0_{number}.parquet")
    meta = {k: embed.load(stored).meta[k] for k in ("run", "source", "versions")}
    (state / "run.json").write_text(json.dumps(meta))
    found = embed.load(out)
    assert (found.paths, found.meta) == (SAMPLES, meta)
    assert embed.search(out, SAMPLES[3], 1, pool="map")[0].matches[0].path == SAMPLES[3]


# ------------------------------------------------------------------------------- search


def test_the_nearest_are_those_of_the_highest_cosine() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 16)).astype("f4") * rng.random((300, 1), "f4")
    rows[7], rows[9] = 0, rows[8] * 3
    queries = rng.standard_normal((5, 16)).astype("f4")
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(queries, axis=1)[:, None]
    exact = queries.astype("f8") @ rows.T / np.maximum(lengths, 1e-30)
    best = np.argsort(-exact, axis=1, kind="stable")[:, :10]
    asked = directions(queries)
    for cuts in ([], [1], [100, 250], range(300)):
        blocks = np.split(directions(rows), list(cuts))
        indices, scores = nearest(iter(blocks), asked, 10)
        assert (indices == best).mean() > 0.95  # two of the same direction may swap
        expected = np.take_along_axis(exact, indices, 1)
        np.testing.assert_allclose(scores, expected, atol=1e-6)
    indices, scores = nearest(iter([rows[:3]]), asked, 10)
    assert indices.shape == scores.shape == (5, 3)
    assert nearest(iter([]), asked, 10)[0].shape == (5, 0)
    assert not directions(rows[7:8]).any()


def test_rows_of_one_score_come_in_their_order() -> None:
    rows = np.ones((6, 4), np.float32)
    indices, _ = nearest(iter([rows[:2], rows[2:]]), np.ones((1, 4), "f4"), 4)
    assert indices.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("pool", ["map", "avg"])
def test_a_picture_finds_itself_and_then_its_nearest(stored, model, pool) -> None:
    found = embed.search(stored, SAMPLES[:2], 4, pool=pool)
    vectors = model.embed(SAMPLES, pool).vectors
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for number, (query, matches) in enumerate(found):
        assert query == SAMPLES[number]
        scores = vectors @ vectors[number]
        expected = np.argsort(-scores)[:4]
        assert [m.path for m in matches] == [SAMPLES[i] for i in expected]
        np.testing.assert_allclose([m.score for m in matches], scores[expected], 1e-5)
        assert matches[0].path == query
        assert matches[0].score == pytest.approx(1)
    everything = embed.search(stored, SAMPLES[0], 100, pool=pool)[0].matches
    assert sorted(m.path for m in everything) == sorted(SAMPLES)


def test_the_model_is_the_one_that_the_files_name(stored, tmp_path, model) -> None:
    folder, out = tmp_path / "model", tmp_path / "out"
    vitpool.save_pretrained(model, folder)
    named = vitpool.create_model(f"local-dir:{folder}", pretrained=True)
    own = named.default_cfg | {"crop_pct": 0.5}
    named.pretrained_cfg = own
    embed.embed_images(named, SAMPLES, out)
    assert embed.load(out).meta["source"]["name"] == f"local-dir:{folder}"
    # with the transform of the run, which the model of that name does not have
    found = embed.search(out, SAMPLES[2], 1)
    assert found[0].matches == [(SAMPLES[2], pytest.approx(1, abs=1e-6))]
    other = Transform((3, 32, 32))
    with pytest.raises(ValueError, match="made with other transform than are here"):
        embed.search(out, SAMPLES[2], 1, transform=other)


def test_another_model_is_refused_by_what_differs(stored, tmp_path, model) -> None:
    given = embed.search(stored, SAMPLES[0], 1, pool="map", model=model)
    assert given == embed.search(stored, SAMPLES[0], 1, pool="map")
    tuned = vitpool.create_model("vit_digits", pretrained=True)
    tuned.load_state_dict({"norm.bias": np.ones(64, np.float32)}, strict=False)
    with pytest.raises(ValueError, match="made with other weights than are here"):
        embed.search(stored, SAMPLES[0], pool="map", model=tuned)
    out = copied(stored, tmp_path)
    for part in out.glob("*.parquet"):
        retold(part, lambda told: told["source"]["options"].update(act_layer="relu"))
    with pytest.raises(ValueError, match="made with other act_layer than are here"):
        embed.search(out, SAMPLES[0], pool="map")
    for part in out.glob("*.parquet"):
        retold(part, lambda told: told["source"].update(name=None))
    with pytest.raises(ValueError, match="does not say what its model is called"):
        embed.search(out, SAMPLES[0], pool="map")
    embed.search(out, SAMPLES[0], pool="map", model=model)


def test_a_search_says_what_it_cannot_do(stored, tmp_path, model) -> None:
    with pytest.raises(ValueError, match=r"has several \(map, avg\); say which"):
        embed.search(stored, SAMPLES[0])
    with pytest.raises(ValueError, match="k must be"):
        embed.search(stored, SAMPLES[0], 0, pool="map")
    (tmp_path / "broken.png").write_bytes(b"broken")
    images = [tmp_path / "broken.png", SAMPLES[1]]
    with pytest.raises(ImageError, match=r"broken\.png"):
        embed.search(stored, images, pool="map")
    with pytest.warns(ImageWarning, match="1 of 2 pictures"):
        found = embed.search(stored, images, pool="map", errors="skip")
    assert [f.query for f in found] == [SAMPLES[1]]

    class Own(Transform):
        pass

    embed.embed_images(model, SAMPLES, tmp_path / "own", transform=Own((3, 32, 32)))
    with pytest.raises(ValueError, match="a transform of your own; give it"):
        embed.search(tmp_path / "own", SAMPLES[0])
    embed.search(tmp_path / "own", SAMPLES[0], transform=Own((3, 32, 32)))


# -------------------------------------------------------------------------------- index


def test_an_index_finds_the_same_and_is_kept_while_the_files_are(
    stored, tmp_path, model
) -> None:
    out = copied(stored, tmp_path)

    def found(**options: Any) -> list[list[str]]:
        answers = embed.search(out, SAMPLES, 4, model=model, **options)
        return [[match.path for match in matches] for _, matches in answers]

    def indices() -> dict[str, int]:
        return {p.name: p.stat().st_ino for p in out.glob("*.usearch")}

    exact = embed.search(out, SAMPLES, 4, pool="map")
    near = embed.search(out, SAMPLES, 4, pool="map", index=True)
    for (_, matches), (_, expected) in zip(near, exact, strict=True):
        assert [m.path for m in matches] == [m.path for m in expected]
        scores = [[m.score for m in some] for some in (matches, expected)]
        np.testing.assert_allclose(*scores, atol=1e-6)
    first = indices()
    assert len(first) == 1
    assert found(pool="map", index=True) == found(pool="map")
    assert indices() == first
    assert found(pool="avg", index=True) == found(pool="avg")
    assert len(indices()) == 2
    turned = tmp_path / "turned.png"
    Image.open(SAMPLES[3]).rotate(5).save(turned)
    pools = ["map", "avg"]
    embed.embed_images(model, [turned], out, pools=pools, part_size=4)
    assert str(turned) in found(pool="map", index=True)[3]
    assert len(indices()) == 2  # the one of before is gone
    assert found(pool="map", index=True) == found(pool="map")
    assert {p.suffix for p in out.iterdir()} == {".parquet", ".usearch", ""}
    assert pyarrow.dataset.dataset(out, format="parquet").count_rows() == 12
    assert len(pq.read_table(out)) == len(pq.read_table(str(out))) == 12


def test_an_index_may_hold_fewer_than_are_asked_for(stored, tmp_path) -> None:
    out = copied(stored, tmp_path)
    found = embed.search(out, SAMPLES[:1], 100, pool="map", index=True)
    assert len(found[0].matches) == 10


def test_an_index_needs_usearch(stored, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    out = copied(stored, tmp_path)
    assert embed.search(out, SAMPLES[0], pool="map")
    with pytest.raises(ImportError, match="pip install usearch"):
        embed.search(out, SAMPLES[0], pool="map", index=True)
    assert not list(out.glob("*.usearch"))


# --------------------------------------------------------------------------------- page


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_needs_no_other_file_and_no_name_is_code(tmp_path) -> None:
    name = '"><script>alert(1)</script>&.png'.replace("/", "\N{DIVISION SLASH}")
    odd = str(tmp_path / name)
    Image.new("RGB", (2000, 1000), "red").save(odd)
    matches = [embed.Match(odd, 0.5), embed.Match("/no/\x1b[31m.png", -0.25)]
    text = embed.page([embed.Found(odd, matches)], title="<b>")
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 0
    assert [tag for tag, _ in page.tags].count("b") == 3  # two scores and "asked"
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 2
    assert all(s.startswith("data:image/jpeg;base64,") for s in sources)
    assert all(len(s) < 20_000 for s in sources)
    assert not re.search(r"https?:|url\(|@import", text)
    assert name in page.text
    assert "No such file or directory" in page.text
    assert "\x1b" not in text
    assert "0.5000" in text
    assert "-0.2500" in text
    assert 'name="viewport"' in text
    assert "color-scheme: light dark" in text


# -------------------------------------------------------------------------- the command


def test_the_command_prints_paths_and_scores(stored, capsys) -> None:
    run = ["search", str(stored), SAMPLES[3], "--pool", "map", "-k", "2"]
    assert cli.main(run) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = embed.search(stored, SAMPLES[3], 2, pool="map")[0].matches
    assert lines == [f"{score:7.4f}  {path}" for path, score in expected]
    assert cli.main([*run, SAMPLES[4]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[3]] == [SAMPLES[3], SAMPLES[4]]
    assert lines[1] == f"   1.0000  {SAMPLES[3]}"
    assert cli.main([*run, SAMPLES[4], "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["file"] for record in records] == [SAMPLES[3], SAMPLES[4]]
    assert [match["path"] for match in records[0]["matches"]] == [
        match.path for match in expected
    ]


def test_the_command_writes_a_page(stored, tmp_path, capsys) -> None:
    page = tmp_path / "found.html"
    run = ["search", str(stored), SAMPLES[3], "--pool", "avg", "--html", str(page)]
    assert cli.main(run) == 0
    captured = capsys.readouterr()
    assert captured.err == f"vitpool: see {page}\n"
    assert captured.out.count("\n") == 10
    images = [tag for tag, _ in Page(page.read_text(encoding="utf-8")).tags]
    assert images.count("img") == 11


def test_the_command_says_what_is_wrong(stored, tmp_path, capsys) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    broken, here = str(tmp_path / "broken.png"), [str(stored), SAMPLES[3]]
    for run, code, words in (
        ([*here], 2, r"has several \(map, avg\); say which"),
        ([*here, "--pool", "token"], 2, "'token', allowed of .* are map, avg"),
        ([str(tmp_path), SAMPLES[3]], 2, "no embeddings in it"),
        ([str(tmp_path / "no"), SAMPLES[3]], 2, "no folder of embeddings"),
        ([*here, "--pool", "map", "--checkpoint", "x"], 2, "need -m"),
        ([*here, "--pool", "map", "--img-size", "64"], 2, "need -m"),
        (
            [*here, "--pool", "map", "-m", "vit_digits", "--model-kwargs",
             "act_layer=relu"],
            2, "made with other act_layer than are here",
        ),
        ([*here, broken, "--pool", "map"], 1, r"1 of 2 pictures .*broken\.png"),
        ([*here, broken, "--pool", "map", "--strict"], 1, r"broken\.png: not a pict"),
    ):  # fmt: skip
        assert cli.main(["search", *run]) == code
        captured = capsys.readouterr()
        assert re.search(words, captured.err), captured.err
        assert captured.err.count("\n") == 1
    assert cli.main(["search", *here, "--pool", "map", "-m", "vit_digits"]) == 0
