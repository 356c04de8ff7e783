# SPDX-License-Identifier: Apache-2.0
"""Cached features: the frozen part's own numbers, found again, and never half there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from models import copies, refused, same, small
from PIL import Image

import vitpool
from vitpool.train import Features, Pictures, Trainer, create_augment, features
from vitpool.transforms import ImageError, ImageWarning, create_transform

X = np.random.default_rng(0).standard_normal((7, 3, 32, 32), "f4")
SAMPLES = [str(path) for path in vitpool.samples()]
PARTS: list[str | int] = ["head", "pool", 0, 1, 2]


@pytest.fixture(scope="module")
def digits() -> Any:
    return vitpool.create_model("vit_digits", pretrained=True)


def deep(**options: Any) -> Any:
    return small(**{"depth": 2, "global_pool": "map", **options})


def expected(model: Any, train: str | int, x: np.ndarray) -> np.ndarray:
    """The same by timm's methods, of a model of two blocks."""
    # The class token is taken by no parameter: so 'pool' trains the head alone.
    if train == "head" or (train == "pool" and model.global_pool == "token"):
        return model.forward_head(model.forward_features(x), pre_logits=True)
    if train == "pool":
        return model.forward_features(x)
    assert isinstance(train, int)
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(x)))
    return model.forward_blocks(tokens, 0, 2 - train)


# -- what they are --


@pytest.mark.parametrize("reg_tokens", [0, 3])
@pytest.mark.parametrize("pool", ["token", "avg", "map"])
@pytest.mark.parametrize("train", PARTS)
def test_features_are_the_frozen_parts_own_bits(
    train: str | int, pool: str, reg_tokens: int
) -> None:
    model = deep(global_pool=pool, reg_tokens=reg_tokens, pre_norm=True)
    found = features(model, X, train=train, batch_size=3)
    want = expected(model, train, X)
    assert found.shape == want.shape
    np.testing.assert_array_equal(found[:], want)
    np.testing.assert_array_equal(found.indices, np.arange(7))
    assert found.held_as == "float32"
    assert not found.mapped
    assert not found.errors


@pytest.mark.parametrize("train", PARTS)
def test_the_entry_is_where_training_goes_on(train: str | int) -> None:
    found = features(deep(), X, train=train)
    entry, block = {
        "head": ("pre_logits", 0),
        "pool": ("features", 0),
        0: ("block", 2),
        1: ("block", 1),
        2: ("block", 0),
    }[train]
    assert (found.entry, found.block) == (entry, block)


def test_pictures_go_through_the_models_transform(digits: Any) -> None:
    want = features(digits, digits.preprocess(SAMPLES), train="pool")
    for given in (SAMPLES, [Image.open(path) for path in SAMPLES]):
        found = features(digits, given, train="pool", batch_size=4, num_workers=2)
        np.testing.assert_array_equal(found[:], want[:])
    folder = Path(SAMPLES[0]).parent
    np.testing.assert_array_equal(features(digits, folder, train="pool")[:], want[:])


def test_another_transform_gives_other_features(digits: Any) -> None:
    other = digits_transform(digits)
    plain = features(digits, SAMPLES, train="head")
    found = features(digits, SAMPLES, train="head", transform=other)
    assert not np.array_equal(found[:], plain[:])


def test_a_dataset_gives_its_batches_and_pictures_their_sources(digits: Any) -> None:
    asked = []

    class Data:
        def __len__(self) -> int:
            return len(X)

        def batch(self, indices: Any, epoch: int, seed: int) -> np.ndarray:
            asked.append((list(indices), epoch))
            return X[indices]

    model = deep()
    found = features(model, Data(), train=1, batch_size=3)
    np.testing.assert_array_equal(found[:], features(model, X, train=1)[:])
    assert asked == [([0, 1, 2], 0), ([3, 4, 5], 0), ([6], 0)]
    pictures = Pictures(SAMPLES, np.arange(10))
    plain = features(digits, SAMPLES, train="head")[:]
    np.testing.assert_array_equal(features(digits, pictures, train="head")[:], plain)
    other = pictures.with_transform(digits_transform(digits))
    assert not np.array_equal(features(digits, other, train="head")[:], plain)
    drawn = pictures.with_transform(create_augment(digits))
    with refused(ValueError, "Augment", "no features that last"):
        features(digits, drawn, train="head")


# -- as an array --


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("memory", [0, 2**20])
def test_indexing_gives_float32_of_what_is_held(dtype: Any, memory: int) -> None:
    model = deep()
    exact = expected(model, "pool", X)
    found = features(model, X, train="pool", dtype=dtype, memory=memory, batch_size=2)
    held = exact.astype({"bfloat16": ml_dtypes.bfloat16}.get(dtype, np.float32))
    want = held.astype(np.float32)
    assert found.held_as == dtype
    assert found.mapped == (memory == 0)
    assert found.nbytes == exact.size * (2 if dtype == "bfloat16" else 4)
    for key in (slice(None), np.array([5, 0, 5]), 3, slice(1, 6, 2), [True] * 7):
        rows = found[key]
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
        np.testing.assert_array_equal(rows, want[key])
    np.testing.assert_array_equal(np.asarray(found), want)
    assert len(found) == 7
    assert found.ndim == 3
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.batch(np.array([2, 1]), 5, 3), want[[2, 1]])


def test_what_is_held_cannot_be_written_to() -> None:
    found = features(deep(), X, train="head")
    with pytest.raises(ValueError, match="read-only"):
        found[:][0] = 0


def test_the_budget_counts_the_bytes_as_they_are_held() -> None:
    model, size = deep(), 7 * 5 * 32 * 2
    for memory, mapped in ((size, False), (size - 1, True)):
        found = features(model, X, train="pool", dtype="bfloat16", memory=memory)
        assert found.mapped == mapped


def test_a_file_without_a_name_is_gone_with_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    opened = len(os.listdir("/proc/self/fd"))
    found = features(deep(), X, train="pool", memory=0)
    assert found.mapped
    assert not list(tmp_path.iterdir())  # no name, so a kill leaves nothing either
    del found
    assert len(os.listdir("/proc/self/fd")) == opened


# -- found again --


class Counting:
    """A model that counts the passes through its frozen part."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = sys.modules["vitpool.train.features"]
        self.passes = 0
        real = module.features_of

        def counted(*arguments: Any) -> Any:
            self.passes += 1
            return real(*arguments)

        monkeypatch.setattr(module, "features_of", counted)

    def runs(self, *arguments: Any, **options: Any) -> bool:
        """Whether features() computes anything."""
        before = self.passes
        features(*arguments, **options)
        return self.passes > before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_file_is_used_again_and_is_a_npy(
    dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = deep(), tmp_path / "train.npy"
    first = features(model, X, train="pool", path=path, dtype=dtype)
    assert first.path == path
    assert first.mapped
    count = Counting(monkeypatch)
    again = features(model, X, train="pool", path=path, dtype=dtype)
    assert not count.passes
    np.testing.assert_array_equal(again[:], first[:])
    np.testing.assert_array_equal(again.indices, first.indices)
    plain = np.load(path)
    if dtype == "bfloat16":
        plain = plain.view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(plain.astype(np.float32), first[:])
    assert [p.name for p in tmp_path.iterdir()] == ["train.npy"]


def test_a_folder_keeps_one_file_for_each_part_and_dtype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, count = deep(), Counting(monkeypatch)
    for train in ("head", "pool", 1):
        assert count.runs(model, X, train=train, path=tmp_path)
    assert count.runs(model, X, train=1, path=tmp_path, dtype="bfloat16")
    for train in ("head", "pool", 1):
        assert not count.runs(model, X, train=train, path=tmp_path)
    assert len(list(tmp_path.glob("features-*.npy"))) == 4


def test_what_is_trained_does_not_make_features_anew_and_what_is_frozen_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = deep(), tmp_path / "a.npy"
    count = Counting(monkeypatch)
    features(model, X, train=1, path=path)
    for name in model.param_shapes():
        other = deep()
        state = dict(other.state_dict())
        state[name] = np.asarray(state[name]) + np.float32(0.5)
        other.load_state_dict(state)
        behind = name.startswith(("blocks.1.", "norm.", "attn_pool.", "head."))
        assert count.runs(other, X, train=1, path=path) != behind, name
        if not behind:
            features(model, X, train=1, path=path)
    model.reset_classifier(3, "avg")
    assert not count.runs(model, X, train=1, path=path)


def test_other_pictures_are_told_by_content_or_by_their_files(
    digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, path = Counting(monkeypatch), tmp_path / "a.npy"

    def fresh(images: Any, **options: Any) -> bool:
        return count.runs(digits, images, train="head", path=path, **options)

    pixels = digits.preprocess(SAMPLES)
    assert fresh(pixels)
    assert not fresh(pixels.copy())
    assert fresh(pixels[::-1])
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, sample in zip(files, SAMPLES, strict=False):
        file.write_bytes(Path(sample).read_bytes())
    assert fresh(files)
    assert not fresh([str(file) for file in files])
    assert fresh(files[:2])
    assert fresh(files)
    os.utime(files[1], ns=(1, 1))
    assert fresh(files)
    images = [Image.open(file) for file in files]
    assert fresh(images)
    assert not fresh([Image.open(file) for file in files])
    assert fresh([np.asarray(image) for image in images])
    assert fresh([file.read_bytes() for file in files])
    other = digits_transform(digits)
    assert fresh([file.read_bytes() for file in files], transform=other)


def digits_transform(model: Any) -> Any:
    size = (3, *model.img_size)
    return create_transform(input_size=size, mean=(0.1,) * 3, std=(1.0,) * 3)


def test_pictures_that_cannot_be_read_are_left_out_by_name_and_stay_so(
    digits: Any, tmp_path: Path
) -> None:
    bad = [*SAMPLES[:3], __file__, *SAMPLES[3:], "/none.png"]
    with pytest.raises(ImageError, match=Path(__file__).name):
        features(digits, bad, train="head")
    want = features(digits, SAMPLES, train="head")[:]
    options: dict[str, Any] = {"train": "head", "on_error": "skip", "batch_size": 4}
    for path in (None, tmp_path / "a.npy", tmp_path / "a.npy"):
        with pytest.warns(ImageWarning, match="2 of 12"):
            found = features(digits, bad, path=path, **options)
        np.testing.assert_array_equal(found[:], want)
        assert found.indices.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
        assert set(found.errors) == {3, 11}
        assert found.errors[3].startswith(__file__)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), want)
    with pytest.raises(ImageError):  # what was skipped is not taken for read
        features(digits, bad, train="head", path=tmp_path / "a.npy")


# -- whole or not there --


def test_an_error_leaves_no_file_and_what_was_there(tmp_path: Path) -> None:
    model, path = deep(), tmp_path / "a.npy"
    features(model, X, train="pool", path=path)
    before = path.read_bytes()

    class Failing:
        def __len__(self) -> int:
            return 7

        def batch(self, indices: Any, epoch: int, seed: int) -> np.ndarray:
            if 4 in indices:
                raise OSError("the disk is gone")
            return X[indices]

        def identity(self) -> str:
            return "failing"

    with pytest.raises(OSError, match="the disk is gone"):
        features(model, Failing(), train="pool", path=path, batch_size=2)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.npy"]


KILLED = """
import os, signal, sys
import numpy as np
import vitpool
from vitpool.train import features

class Data:
    def __len__(self):
        return 7
    def identity(self):
        return "seven"
    def batch(self, indices, epoch, seed):
        if indices[0] == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full((len(indices), 3, 32, 32), indices[0], np.float32)

model = vitpool.VisionTransformer(
    img_size=32, embed_dim=32, depth=1, num_heads=2, num_classes=3, seed=0
)
features(model, Data(), train="pool", path=sys.argv[1], batch_size=1)
"""


def test_a_killed_run_leaves_nothing_that_looks_whole_and_the_next_one_ends(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.npy"
    for place in (0, 3, 6):
        command = [sys.executable, "-c", KILLED, str(path), str(place)]
        assert subprocess.run(command).returncode == -9
        assert not path.exists()
        assert all(name.startswith(".") for name in os.listdir(tmp_path))
    command = [sys.executable, "-c", KILLED, str(path), "99"]
    assert subprocess.run(command).returncode == 0
    assert os.listdir(tmp_path) == ["a.npy"]
    assert np.load(path).shape == (7, 32)


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    model, path = deep(), tmp_path / "a.npy"
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        def __len__(self) -> int:
            return 7

        def identity(self) -> str:
            return "slow"

        def batch(self, indices: Any, epoch: int, seed: int) -> np.ndarray:
            begun.set()
            assert go_on.wait(60)
            return X[indices]

    thread = threading.Thread(
        target=features, args=(model, Slow()), kwargs={"train": "pool", "path": path}
    )
    thread.start()
    try:
        assert begun.wait(60)
        with pytest.raises(ValueError, match="another process is writing"):
            features(model, X, train="pool", path=path)
    finally:
        go_on.set()
        thread.join()
    assert np.load(path).shape == (7, 5, 32)


@pytest.mark.parametrize("damage", ["cut", "begun", "end lost"])
def test_a_damaged_file_is_not_taken_and_not_written_over(
    damage: str, tmp_path: Path
) -> None:
    model, path = deep(), tmp_path / "a.npy"
    features(model, X, train="pool", path=path)
    whole = path.read_bytes()
    left = {"cut": whole[:-100], "begun": whole[:64], "end lost": whole[:-16]}[damage]
    path.write_bytes(left)
    with pytest.raises(ValueError, match="not written by features"):
        features(model, X, train="pool", path=path)
    assert path.read_bytes() == left


# -- what is refused --


BAD: dict[str, tuple[type[Exception], str, Any, dict[str, Any]]] = {
    "all": (ValueError, "nothing frozen", X, {"train": "all"}),
    "part": (ValueError, "'head', 'pool', 'all'", X, {"train": "neck"}),
    "blocks": (ValueError, "at most the model's 2 blocks", X, {"train": 3}),
    "dtype": (ValueError, "float32, bfloat16", X, {"dtype": "float16"}),
    "on_error": (ValueError, "'raise' and 'skip'", X, {"on_error": "nan"}),
    "memory": (ValueError, "memory must be at least 0", X, {"memory": -1}),
    "batch": (ValueError, "batch_size must be at least 1", X, {"batch_size": 0}),
    "none": (ValueError, "images: none", X[:0], {}),
    "no picture": (ValueError, "images: none", [], {}),
    "channels": (ValueError, "3", X[:, :2], {}),
    "integers": (TypeError, "images", X.astype(int), {}),
    "augmented": (
        ValueError,
        "no features that last",
        SAMPLES,
        {"transform": lambda picture: picture},
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_in_a_sentence(name: str) -> None:
    error, words, images, options = BAD[name]
    model = deep()
    with refused(error, words, model=model):
        features(model, images, **{"train": "pool", **options})


def test_a_file_of_somebody_elses_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "labels.npy"
    np.save(path, np.arange(20))
    before = path.read_bytes()
    with refused(ValueError, "labels.npy", "another path"):
        features(deep(), X, train="head", path=path)
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError):
        features(deep(), X, train="head", path=tmp_path / "none" / "a.npy")


def test_pictures_that_cannot_be_told_again_are_kept_in_no_file(
    digits: Any, tmp_path: Path
) -> None:
    with open(SAMPLES[0], "rb") as file:
        with refused(TypeError, "BufferedReader", "leave path out"):
            features(digits, [file], train="head", path=tmp_path)
        assert features(digits, [file], train="head").shape == (1, 64)

    class Data:
        def __len__(self) -> int:
            return 7

        def batch(self, indices: Any, epoch: int, seed: int) -> np.ndarray:
            return X[indices]

    with refused(TypeError, "identity()", "leave path out"):
        features(deep(), Data(), train="head", path=tmp_path)
    assert not os.listdir(tmp_path)


def test_a_later_change_of_the_model_is_not_seen_while_it_runs() -> None:
    model = deep()
    want = features(model, X, train="pool")[:]

    class Data:
        def __len__(self) -> int:
            return 7

        def batch(self, indices: Any, epoch: int, seed: int) -> np.ndarray:
            model.norm.weight = np.zeros(32)
            return X[indices]

    found = features(model, Data(), train="pool", batch_size=2)
    np.testing.assert_array_equal(found[:], want)


def test_the_answer_says_what_it_is() -> None:
    found = features(deep(), X, train=1, dtype="bfloat16")
    assert isinstance(found, Features)
    assert "block 1" in repr(found)
    assert "bfloat16" in repr(found)
    assert "in memory" in repr(found)


# -- trained on --


@pytest.mark.parametrize("memory", [0, 2**20])
@pytest.mark.parametrize("train", ["head", "pool", 1])
def test_training_on_features_is_bit_for_bit_training_on_images(
    train: Any, memory: int
) -> None:
    labels = np.arange(7) % 3
    made = []
    for kind in ("images", "features"):
        model = deep(num_classes=3)
        x = X if kind == "images" else features(model, X, train=train, memory=memory)
        trainer = Trainer(model, train, epochs=2, batch_size=3)
        trainer.fit(x, labels, validation=(x, labels), progress=False)
        made.append((copies(model), [row["val_loss"] for row in trainer.history]))
    assert same(made[0][0], made[1][0])
    assert made[0][1] == made[1][1]


def test_features_of_another_place_are_refused_though_their_shape_fits() -> None:
    model = deep(num_classes=3)
    for given, train in ((1, "pool"), ("pool", 1), (2, 1)):
        found = features(model, X, train=given)
        with refused(ValueError, "x must be", "Features (7, 5, 32)", model=model):
            Trainer(model, train).fit(found, np.arange(7) % 3, progress=False)
