# SPDX-License-Identifier: Apache-2.0
"""Many pictures in one line: classify, predict, predict_proba and embed."""

from __future__ import annotations

import copy
import io
import itertools
import json
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitpool
from vitpool.cli import main
from vitpool.embed import Embedder
from vitpool.labels import probabilities
from vitpool.model import Classification, Classifications, UntrainedWarning
from vitpool.transforms import (
    ImageError,
    ImageWarning,
    create_transform,
    preprocess,
)

SAMPLES = vitpool.samples()
FOLDER = SAMPLES[0].parent
# Most models here are of random weights, and that this is said is tested below.
pytestmark = pytest.mark.filterwarnings("ignore::vitpool.model.UntrainedWarning")
METHODS = ["classify", "predict", "predict_proba", "embed"]
BROKEN = b"no picture"


@pytest.fixture(scope="module")
def model() -> vitpool.VisionTransformer:
    return vitpool.create_model("vit_digits", pretrained=True)


def small(**options: Any) -> vitpool.VisionTransformer:
    return vitpool.VisionTransformer(
        **{"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "seed": 0}
        | {"num_heads": 2, "num_classes": 3, **options}
    )


def numbers(answer: Any) -> list[Any]:
    """All that an answer has to say of its pictures, to be compared."""
    if isinstance(answer, Classification):
        return [tuple(answer), answer.error is None]
    if isinstance(answer, Classifications):
        return [numbers(item) for item in answer]
    if hasattr(answer, "pools"):
        return [(pool, rows.tobytes()) for pool, rows in answer.pools.items()]
    return answer.tolist()


# ------------------------------------------------------------------------------ numbers


def test_the_samples_are_told(model) -> None:
    digits = [str(digit) for digit in range(10)]
    assert model.predict(SAMPLES).tolist() == digits
    assert model.predict_proba(SAMPLES).argmax(1).tolist() == list(range(10))
    found = model.classify(SAMPLES, topk=2)
    assert [item[0].label for item in found] == digits
    assert [item[0].index for item in found] == list(range(10))
    assert [item.source for item in found] == [str(path) for path in SAMPLES]
    for item in found:
        assert len(item) == 2
        assert 1 > item[0].probability >= item[1].probability > 0


def test_classes_are_those_of_the_command_to_the_bit(model, capsys) -> None:
    for topk in (1, 3, 99):
        argv = ["classify", FOLDER, "--json", "--topk", topk, "-q", "-b", 3]
        assert main([str(arg) for arg in argv]) == 0
        lines = capsys.readouterr().out.splitlines()
        want = [json.loads(line) for line in lines]
        found = model.classify(FOLDER, topk=topk)
        assert [item.source for item in found] == [line["file"] for line in want]
        for item, line in zip(found, want, strict=True):
            assert [(c.label, c.probability, c.index) for c in item] == [
                (c["label"], c["prob"], c["index"]) for c in line["classes"]
            ]


def test_probabilities_are_the_models(model) -> None:
    expected = probabilities(model(model.preprocess(SAMPLES)))
    proba = model.predict_proba(SAMPLES)
    assert (proba.dtype, proba.shape) == (np.float32, (10, 10))
    np.testing.assert_array_equal(proba, expected)
    for row, item in zip(proba, model.classify(SAMPLES, topk=10), strict=True):
        assert [c.probability for c in item] == sorted(row.tolist(), reverse=True)


POOLS = ["token", "avg", "max", "avgmax", "map"]


@pytest.mark.parametrize("pool", POOLS)
def test_vectors_are_the_embedders_with_a_head_or_without(pool: str) -> None:
    """The pass of a pool alone, which skips things, rounds as no other does."""
    model = small(global_pool=pool)
    bare = copy.copy(model)
    bare.reset_classifier(0)
    x = model.preprocess(SAMPLES)
    expected = bare(x)
    for own in (model, bare):
        np.testing.assert_array_equal(own.embed(SAMPLES).vectors, expected)
        np.testing.assert_array_equal(Embedder(own)(x)[pool], expected)
    several = model.embed(SAMPLES, pool=f"{pool}, {other(pool)}")
    both = Embedder(bare, [pool, other(pool)])(x)
    assert list(several.pools) == [pool, other(pool)]
    for name, rows in several.pools.items():
        np.testing.assert_array_equal(rows, both[name])


def other(pool: str) -> str:
    return "avg" if pool != "avg" else "max"


def test_vectors_are_those_of_the_command_to_the_bit(model, tmp_path) -> None:
    pytest.importorskip("pyarrow", "26")
    import pyarrow.parquet as pq

    for pools in (None, "map,avg"):
        out = tmp_path / str(pools)
        argv = ["embed", str(FOLDER), "-o", str(out), "-q", "-b", "3"]
        assert main([*argv, *([] if pools is None else ["--pool", pools])]) == 0
        table = pq.read_table(out)
        result = model.embed(FOLDER, pools)
        assert result.sources == table["path"].to_pylist()
        for pool, rows in result.pools.items():
            want = np.array(table[pool].to_pylist(), np.float32)
            np.testing.assert_array_equal(rows, want)


@pytest.mark.parametrize("method", METHODS)
def test_batches_and_workers_change_no_bit(model, method) -> None:
    call = getattr(model, method)
    expected = numbers(call(SAMPLES))
    for size, workers in ((1, 0), (3, 1), (np.int64(10), 3), (64, None)):
        answer = call(SAMPLES, batch_size=size, num_workers=workers)
        assert numbers(answer) == expected


@pytest.mark.parametrize("method", METHODS)
def test_folders_patterns_and_iterators_are_their_pictures(model, method) -> None:
    call = getattr(model, method)
    expected = numbers(call(SAMPLES))
    contents = [path.read_bytes() for path in SAMPLES]
    for given in (
        FOLDER, str(FOLDER), f"{FOLDER}/*.png", iter(SAMPLES), contents,
        (io.BytesIO(content) for content in contents),
        np.stack([np.asarray(Image.open(path).convert("RGB")) for path in SAMPLES]),
    ):  # fmt: skip
        assert numbers(call(given)) == expected


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_is_read_as_preprocess_reads_it(model, mode, tmp_path) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    path = tmp_path / "a.tif"
    if mode == "I;16":
        deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(deep).save(path)
    else:
        image.convert(mode).save(path)
    x = model.preprocess(path)
    np.testing.assert_array_equal(model.embed(path).vectors, Embedder(model)(x)["map"])
    np.testing.assert_array_equal(model.predict_proba(path), probabilities(model(x)))


def test_a_transform_may_be_given(model) -> None:
    transform = create_transform((3, 32, 32), "nearest", crop_pct=0.5)
    expected = probabilities(model(preprocess(SAMPLES, transform)))
    got = model.predict_proba(SAMPLES, transform=transform)
    np.testing.assert_array_equal(got, expected)
    assert not np.array_equal(got, model.predict_proba(SAMPLES))


# ---------------------------------------------------------------------------- one, none


def test_one_picture_is_one_classification_and_a_list_of_one_is_a_list(model) -> None:
    one = model.classify(SAMPLES[7])
    assert isinstance(one, Classification)
    assert one == model.classify([SAMPLES[7]])[0]
    label, probability, index = one[0]
    assert (label, index) == ("7", 7)
    assert 0.5 < probability < 1
    # arrays have their first axis in any case
    assert model.predict(SAMPLES[7]).tolist() == ["7"]
    assert model.predict_proba(SAMPLES[7]).shape == (1, 10)
    assert model.embed(SAMPLES[7]).vectors.shape == (1, 64)


def test_no_pictures_are_no_rows(model) -> None:
    for nothing in ([], iter([])):
        assert model.classify(nothing) == []
        assert model.predict([]).shape == (0,)
        assert model.predict_proba(nothing).shape == (0, 10)
        result = model.embed(nothing, "map,avg")
        assert [rows.shape for rows in result.pools.values()] == [(0, 64)] * 2
        assert (len(result), result.sources, result.errors) == (0, [], {})


# ------------------------------------------------------------------ what cannot be read


@pytest.fixture
def given(tmp_path: Path) -> list[Any]:
    """Two whole pictures among three that cannot be read."""
    cut = tmp_path / "cut.png"
    cut.write_bytes(SAMPLES[3].read_bytes()[:80])
    return [SAMPLES[0], cut, BROKEN, SAMPLES[1], tmp_path / "no.png"]


@pytest.mark.parametrize("method", METHODS)
def test_the_first_that_cannot_be_read_raises_as_it_did(model, given, method) -> None:
    call = getattr(model, method)
    for pictures, error, words in (
        (given, ImageError, r"cut\.png: "),
        (given[3:], FileNotFoundError, r"no\.png"),
        ([SAMPLES[0], None], TypeError, "NoneType, allowed are a path"),
    ):
        with pytest.raises(error, match=words):
            call(pictures, batch_size=2)
        with pytest.raises(error, match=words):
            call(iter(pictures), errors="raise")


@pytest.mark.parametrize("method", METHODS)
def test_what_is_skipped_is_left_out_and_told(model, given, method) -> None:
    call = getattr(model, method)
    with pytest.warns(ImageWarning, match=r"3 of 5 .* left out: .*cut\.png: ") as told:
        answer = call(given, errors="skip", batch_size=2)
    assert told[0].filename == __file__
    assert numbers(answer) == numbers(call(SAMPLES[:2]))
    if method in ("classify", "embed"):
        assert list(answer.errors) == [1, 2, 4]
        assert answer.errors[2] == "<10 bytes>: not a picture that Pillow can read"
    if method == "embed":
        assert answer.indices.tolist() == [0, 3]
        assert answer.sources == [str(path) for path in SAMPLES[:2]]


class Unnamed(os.PathLike):
    """A path whose name cannot be told."""

    def __fspath__(self) -> str:
        raise KeyError("gone")


def test_a_path_that_cannot_tell_its_name_is_that_pictures_error(model) -> None:
    with pytest.warns(ImageWarning, match="<Unnamed>: 'gone'"):
        result = model.embed([Unnamed(), SAMPLES[0]], errors="skip")
    assert result.errors == {0: "<Unnamed>: 'gone'"}


def test_a_files_name_is_escaped_in_the_warning(model, tmp_path) -> None:
    bad = tmp_path / "\x1b[31ma.png"
    bad.write_bytes(BROKEN)
    with pytest.warns(ImageWarning, match=r"\\x1b\[31ma\.png: not a picture"):
        result = model.embed([SAMPLES[0], bad], errors="nan")
    assert result.sources[1] == str(bad)


@pytest.mark.parametrize("size", [1, 2, 32])
def test_with_nan_every_picture_keeps_its_place(model, given, size) -> None:
    options: dict[str, Any] = {"errors": "nan", "batch_size": size}
    whole = SAMPLES[:2]
    with pytest.warns(ImageWarning, match=r"3 of 5 pictures .* have no values: .*cut"):
        result = model.embed(given, "map,avg", **options)
    assert result.indices.tolist() == [0, 1, 2, 3, 4]
    assert result.sources[2] == "<10 bytes>"
    assert list(result.errors) == [1, 2, 4]
    for pool, rows in result.pools.items():
        want = model.embed(whole, "map,avg").pools[pool]
        np.testing.assert_array_equal(rows[[0, 3]], want)
        assert np.isnan(rows[[1, 2, 4]]).all()
    with pytest.warns(ImageWarning):
        proba = model.predict_proba(given, **options)
    np.testing.assert_array_equal(proba[[0, 3]], model.predict_proba(whole))
    assert np.isnan(proba[[1, 2, 4]]).all()
    with pytest.warns(ImageWarning):
        assert model.predict(given, **options).tolist() == ["0", None, None, "1", None]
    with pytest.warns(ImageWarning):
        found = model.classify(given, **options)
    assert [len(item) for item in found] == [5, 0, 0, 5, 0]
    assert found[2].error == "not a picture that Pillow can read"
    assert [item.error is None for item in found] == [True, False, False, True, False]


@pytest.mark.parametrize("errors", ["skip", "nan"])
def test_where_none_can_be_read_the_shapes_stay(model, errors) -> None:
    rows = 0 if errors == "skip" else 2
    given = [BROKEN, BROKEN]
    with pytest.warns(ImageWarning):
        assert model.embed(given, errors=errors).vectors.shape == (rows, 64)
    with pytest.warns(ImageWarning):
        assert model.predict_proba(given, errors=errors).shape == (rows, 10)
    with pytest.warns(ImageWarning):
        assert len(model.classify(given, errors=errors)) == rows
    with pytest.warns(ImageWarning):
        assert model.classify(BROKEN, errors=errors).error is not None


@pytest.mark.parametrize("errors", ["raise", "skip", "nan"])
@pytest.mark.parametrize("method", METHODS)
def test_a_path_of_nothing_is_the_callers_mistake(model, method, errors, tmp_path):
    call = getattr(model, method)
    for nothing in (tmp_path / "photoz", str(tmp_path / "*.png"), tmp_path):
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            call(nothing, errors=errors)


@pytest.mark.parametrize("method", METHODS)
def test_all_that_can_be_read_warns_of_nothing(model, method) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for errors in ("raise", "skip", "nan"):
            getattr(model, method)(SAMPLES, errors=errors)


@pytest.mark.parametrize("method", METHODS)
def test_wrong_arguments_are_refused_before_a_picture_is_asked_for(
    model, method
) -> None:
    call, count = getattr(model, method), itertools.count()
    pictures = (SAMPLES[next(count)] for _ in range(3))
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"errors": "ignore"}, ValueError, "'ignore', allowed are 'raise', 'skip'"),
        ({"errors": None}, ValueError, "errors: None"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 1.5}, TypeError, "batch_size"),
        ({"num_workers": -1}, ValueError, "num_workers"),
    ]
    if method == "classify":
        wrong += [({"topk": 0}, ValueError, "topk"), ({"topk": 1.5}, TypeError, "topk")]
    if method == "embed":
        wrong += [
            ({"pool": "mpa"}, ValueError, "pool: 'mpa', allowed are avg"),
            ({"pool": "map,"}, ValueError, "pool: ''"),
            ({"pool": ["avg", "avg"]}, ValueError, "each once"),
            ({"pool": []}, ValueError, "one or more"),
            ({"pool": "token"}, ValueError, "token"),
        ]
    for options, error, words in wrong:
        with pytest.raises(error, match=words):
            call(pictures, **options)
    with pytest.raises(TypeError, match=r"float32, .*: model\(x\)"):
        call(np.zeros((2, 3, 32, 32), np.float32))
    assert next(count) == 0


@pytest.mark.parametrize("method", METHODS[:3])
@pytest.mark.parametrize("without", [{"num_classes": 0}, {"global_pool": ""}])
def test_a_model_without_a_classifier_says_so(method, without) -> None:
    with pytest.raises(ValueError, match=r"no classifier .*embed"):
        getattr(small(**without), method)(SAMPLES)


@pytest.mark.parametrize("method", METHODS)
def test_random_weights_are_told(model, method) -> None:
    changed = copy.copy(model)
    changed.reset_classifier(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(model, method)(SAMPLES[0])
        if method == "embed":
            changed.embed(SAMPLES[0])  # has nothing to do with the head
            changed.reset_classifier(0, "avg")
            changed.reset_classifier(0, "map", add_attn_pool=True)
            changed.embed(SAMPLES[0], "avg,max")  # nor with a pool that attends
    if method == "embed":
        words = r"attn_pool\.latent, .* and 5 more: random numbers"
    else:
        words = r"^head\.weight, head\.bias: random numbers, neither loaded nor set"
    with pytest.warns(UntrainedWarning, match=words) as told:
        getattr(changed, method)(SAMPLES[0])
    assert told[0].filename == __file__
    with pytest.warns(UntrainedWarning, match="pos_embed"):
        getattr(small(), method)(SAMPLES[0])


# -------------------------------------------------------------------- while it is going


class Watched(vitpool.VisionTransformer):
    """Calls `watch` before each pass."""

    watch: Callable[[], Any]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        type(self).watch()
        return super().forward(*args, **kwargs)


def watched(watch: Callable[[], Any]) -> Any:
    kind = type("Watched", (Watched,), {"watch": staticmethod(watch)})
    return kind(
        img_size=8, patch_size=8, embed_dim=8, depth=1, num_heads=1, num_classes=3,
        global_pool="avg", seed=0,
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_pictures_are_read_as_they_are_needed_and_not_kept(method) -> None:
    alive = most = 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def film() -> Iterator[np.ndarray]:
        nonlocal alive
        for _ in range(60):
            alive += 1
            frame = np.zeros((8, 8, 3), np.uint8).view(Counted)
            yield frame
            del frame

    def look() -> None:
        nonlocal most
        most = max(most, alive)

    answer = getattr(watched(look), method)(film(), batch_size=4, num_workers=2)
    assert len(answer) == 60
    assert 4 <= most <= 3 * 4 + 2


@pytest.mark.parametrize("method", METHODS)
def test_an_iterator_that_raises_half_way_raises_here(model, method) -> None:
    def half() -> Iterator[Path]:
        yield from SAMPLES[:5]
        raise RuntimeError("the disk is gone")

    for errors in ("raise", "skip", "nan"):
        with pytest.raises(RuntimeError, match="the disk is gone"):
            getattr(model, method)(half(), batch_size=2, errors=errors)


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupt_leaves_no_thread_and_no_bar(method, capsys) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt) as held:  # its frames are held, as IPython's
        getattr(watched(stop), method)(SAMPLES, batch_size=2, progress=True)
    left = [t for t in set(threading.enumerate()) - before if "Pool" in t.name]
    assert held.value is not None
    assert not left
    assert capsys.readouterr().err.endswith("\n")


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_the_one_that_was_called(method) -> None:
    model = small(global_pool="avg")

    def changing() -> Iterator[Path]:
        for path in SAMPLES:
            yield path
            model.reset_classifier(5, "token")

    expected = numbers(getattr(small(global_pool="avg"), method)(SAMPLES))
    assert numbers(getattr(model, method)(changing(), batch_size=2)) == expected


@pytest.mark.parametrize("method", METHODS)
def test_a_bar_is_shown_when_asked_for(model, method, capsys) -> None:
    for given, shown in ((SAMPLES, "10/10"), (FOLDER, "10/10"), (iter(SAMPLES), "10")):
        getattr(model, method)(given, progress=True, batch_size=4)
        out, err = capsys.readouterr()
        assert shown in err
        assert not out
        getattr(model, method)(SAMPLES)
        assert capsys.readouterr() == ("", "")


# -------------------------------------------------------------------------- the answers


def test_answers_show_what_they_are(model) -> None:
    one = Classification("a.png", model.classify(SAMPLES[3], 2).classes)
    assert repr(one) == "Classification(a.png: 3 89.5%, 1 2.3%)"
    assert (
        repr(Classification("b.png", (), "broken")) == "Classification(b.png: broken)"
    )
    assert repr(Classifications([one] * 2)) == f"[{one!r},\n {one!r}]"
    assert repr(Classifications([one] * 25)).endswith("... and 5 more]")
    result = model.embed(SAMPLES, "map,avg")
    assert repr(result) == "<Embeddings of 10 pictures: map (10, 64), avg (10, 64)>"
    with pytest.raises(ValueError, match=r"several pools: take one, as \.pools\['map'"):
        _ = result.vectors


@pytest.mark.filterwarnings("ignore::vitpool.transforms.ImageWarning")
def test_a_page_shows_labels_and_names_and_obeys_none() -> None:
    model = small(global_pool="avg")
    model.pretrained_cfg = {"label_names": ["<b>cat", "\x1b[31mdog", "fish"]}
    found = model.classify([SAMPLES[0]] * 2 + [b"x"], errors="nan", topk=3)
    page = found._repr_html_() + found[0]._repr_html_()
    assert "&lt;b&gt;cat" in page
    assert "<b>" not in page
    assert "\x1b" not in page + repr(found)
    assert "&lt;1 bytes&gt;" in page
    assert page.count("<meter") == 9
    assert "and 480 more" in Classifications([found[0]] * 500)._repr_html_()


def test_answers_copy_and_pickle(model) -> None:
    for answer in (model.classify(SAMPLES), model.classify(SAMPLES[0])):
        for other in (copy.deepcopy(answer), pickle.loads(pickle.dumps(answer))):
            assert type(other) is type(answer)
            assert other == answer
    result = model.embed(SAMPLES)
    other = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(other.vectors, result.vectors)


def test_numpy_takes_embeddings_for_their_vectors(model) -> None:
    result = model.embed(SAMPLES)
    assert np.asarray(result) is result.vectors
    assert np.array(result) is not result.vectors
    assert np.asarray(result, np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.stack([result, result])[1], result.vectors)
    assert (result.shape, len(result)) == ((10, 64), 10)
    np.testing.assert_array_equal(result[[3, 1]], result.vectors[[3, 1]])
    np.testing.assert_array_equal(list(result), result.vectors)
    several = model.embed(SAMPLES, "map,avg")
    for use in (np.asarray, list, lambda r: r.shape, lambda r: r[0]):
        with pytest.raises(ValueError, match="several pools"):
            use(several)
