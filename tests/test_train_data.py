# SPDX-License-Identifier: Apache-2.0
"""Labelled pictures: classes, labels, batches, splits, what is wrong with a folder."""

from __future__ import annotations

import io
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitpool
from vitpool.train import Augment, PictureFolder, PictureList, Pictures, create_augment
from vitpool.transforms import ImageError, ImageWarning, create_transform

SAMPLES = vitpool.samples()


def noise(seed: int, size: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size, size, 3), np.uint8)


def png(seed: int, size: int = 12) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(seed, size)).save(buffer, "PNG")
    return buffer.getvalue()


def folder_of(root: Path, counts: dict[str, int]) -> Path:
    """Class folders with so many pictures each, every picture another one."""
    seed = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.png").write_bytes(png(seed))
            seed += 1
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "root", {"cat": 6, "dog": 9, "class 10": 4})


def names(data: Pictures) -> set[str]:
    return {data.name(i) for i in range(len(data))}


def contents(data: Pictures) -> set[bytes]:
    return {Path(name).read_bytes() for name in names(data)}


# ------------------------------------------------------------------------ class folders


def test_classes_are_the_folders_in_natural_order(tmp_path: Path) -> None:
    folder_of(tmp_path, {"10": 2, "9": 1, "a/deep": 1, ".hidden": 3})
    (tmp_path / "readme.txt").write_text("not a class")
    (tmp_path / "9" / "note.txt").write_text("not a picture")
    (tmp_path / "lost.png").write_bytes(png(99))
    data = PictureFolder(tmp_path)
    assert data.classes == ("9", "10", "a")
    assert data.labels.tolist() == [0, 1, 1, 2]
    assert data.labels.dtype == np.int64
    assert data.counts.tolist() == [1, 2, 1]
    assert data.name(3) == str(tmp_path / "a" / "deep" / "0.png")
    told = str(data.not_taken)
    assert "2 .txt" in told
    assert "1 hidden" in told
    assert "1 picture outside of the class folders" in told


def test_held_out_pictures_have_the_classes_of_those_trained_on(
    root: Path, tmp_path: Path
) -> None:
    data = PictureFolder(root)
    held = folder_of(tmp_path / "val", {"dog": 2})
    assert PictureFolder(held, classes=data.classes).labels.tolist() == [2, 2]
    folder_of(held, {"cats": 1})
    with pytest.raises(ValueError, match=r"class 'cats' is none .* mean 'cat'"):
        PictureFolder(held, classes=data.classes)


def test_a_folder_that_cannot_be_trained_on_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PictureFolder(tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(png(0))
    with pytest.raises(NotADirectoryError):
        PictureFolder(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"no class folders .* its 1 pictures are in"):
        PictureFolder(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "x.txt").write_text("")
    folder_of(tmp_path, {"dog": 1})
    with pytest.raises(ValueError, match=r"without a picture: cat \(not taken: 1 .txt"):
        PictureFolder(tmp_path)
    (tmp_path / "cat" / "x.txt").unlink()
    (tmp_path / "cat").rmdir()
    with pytest.raises(ValueError, match="one class only, 'dog'"):
        PictureFolder(tmp_path)


# -------------------------------------------------------------------------------- lists


def write_csv(root: Path, text: str) -> Path:
    path = root / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "a.png,cat\nsub/b.png, dog\n\nc.png,cat\n",
        "path,label\na.png,cat\nsub/b.png,dog\nc.png,cat\n",
        "\ufeffLabel,split,Image\r\ncat,train,a.png\r\ndog,x,sub/b.png\r\ncat,,c.png",
    ],
)
def test_a_list_is_read_with_a_header_and_without(tmp_path: Path, text: str) -> None:
    (tmp_path / "sub").mkdir()
    for seed, name in enumerate(("a.png", "sub/b.png", "c.png")):
        (tmp_path / name).write_bytes(png(seed))
    data = PictureList(write_csv(tmp_path, text))
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 1, 0]
    assert data.name(1) == str(tmp_path / "sub" / "b.png")


def test_paths_of_a_list_may_be_absolute_and_labels_numbers(tmp_path: Path) -> None:
    rows = "".join(f"{path},{path.stem[-1]}\n" for path in SAMPLES)
    data = PictureList(write_csv(tmp_path, rows + f'"{SAMPLES[1]}",1'))
    assert data.classes == tuple("0123456789")
    assert data.labels.tolist() == [*range(10), 1]
    few = write_csv(tmp_path, f"{SAMPLES[3]},3\n")
    assert PictureList(few, classes=data.classes).labels.tolist() == [3]


BAD_LISTS = {
    "": "no row",
    "path,label\n": "no row",
    "a.png": "line 1: 1 fields, allowed are path, label",
    "a.png;cat": "line 1: 1 fields",
    "a.png,cat\n\nb.png,dog,x": "line 3: 3 fields, allowed are path, label",
    "path,label,n\na.png,cat": "line 2: 2 fields, allowed are 3",
    "path,species\na.png,cat": "line 1: 0 columns of label, class",
    "path,file,label\na,b,c": "line 1: 2 columns of path, file",
    "a.png,": "line 1: no label",
    ",cat": "line 1: no path",
    "a.png,cat\na.png,dog": "line 2: 'a.png' is 'dog', and in line 1 it is 'cat'",
    "a.png,cat": "one class only, 'cat'",
    "a.png,cat\0\nb.png,dog": "line 1: ",
}


@pytest.mark.parametrize("text", BAD_LISTS)
def test_a_bad_list_hears_which_line(tmp_path: Path, text: str) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png(len(name)))
    with pytest.raises(ValueError, match=r"line|row|class") as caught:
        PictureList(write_csv(tmp_path, text))
    assert BAD_LISTS[text] in str(caught.value)


def test_a_label_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "a.png,cat\nb.png,dgo")
    with pytest.raises(ValueError, match=r"class 'dgo' .* mean 'dog'"):
        PictureList(path, classes=["cat", "dog"])


# ------------------------------------------------------------------------------ batches


def test_a_batch_is_what_the_models_own_transform_makes(root: Path) -> None:
    model = vitpool.create_model("vit_digits")
    transform = create_transform(**vitpool.resolve_data_config(model))
    data = PictureFolder(root, transform=model)
    indices = np.array([3, 0, 18, 3])
    batch = data.batch(indices)
    assert (batch.shape, batch.dtype) == ((4, 3, 32, 32), np.float32)
    assert batch.flags.c_contiguous
    for array, index in zip(batch, indices, strict=True):
        np.testing.assert_array_equal(array, transform(data.name(index)))
    assert data.batch([]).shape == (0, 3, 32, 32)
    np.testing.assert_array_equal(data.batch(indices, 7, 9), batch)


@pytest.mark.parametrize("num_workers", [0, 1, 5])
def test_an_augmented_picture_is_the_same_in_any_batch_and_thread(
    root: Path, num_workers: int
) -> None:
    augment = Augment(16, auto_augment="rand-m9-mstd0.5", re_prob=0.3, re_mode="pixel")
    data = PictureFolder(root, transform=augment, num_workers=num_workers)
    everything = data.batch(range(len(data)), 2, 4)
    for index in (0, 7, 18):
        expected = augment(data.name(index), seed=4, epoch=2, index=index)
        np.testing.assert_array_equal(everything[index], expected)
    few = [7, 18, 0, 7]
    np.testing.assert_array_equal(data.batch(few, 2, 4), everything[few])
    with ThreadPoolExecutor(3) as pool:
        batches = list(pool.map(lambda _: data.batch(few, 2, 4), range(6)))
    for batch in batches:
        np.testing.assert_array_equal(batch, everything[few])
    assert (data.batch(few, 3, 4) != everything[few]).any()
    assert (data.batch(few, 2, 5) != everything[few]).any()


def test_pictures_come_as_paths_bytes_images_and_arrays() -> None:
    image = Image.open(SAMPLES[2])  # not decoded yet
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in SAMPLES]
    sources = [SAMPLES[0], SAMPLES[1].read_bytes(), image, arrays[3]]
    labels = np.array([0, 1, 2, 3], np.uint8)
    data = Pictures(sources, labels, transform=create_augment(None, img_size=24))
    same = Pictures(arrays[:4], labels, transform=data.transform)
    np.testing.assert_array_equal(data.batch(range(4)), same.batch(range(4)))
    assert data.classes == ("0", "1", "2", "3")
    stacked = Pictures(np.stack(arrays[:4]), [0, 1, 1, 0], ["even", "odd"])
    assert stacked.classes == ("even", "odd")
    assert len(pickle.loads(pickle.dumps(stacked))) == 4


def test_a_transform_may_come_later(root: Path) -> None:
    data = PictureFolder(root)
    with pytest.raises(ValueError, match=r"with_transform\(model\)"):
        data.batch([0])
    other = data.with_transform({"input_size": (3, 8, 8)})
    assert other.batch([0, 1]).shape == (2, 3, 8, 8)
    assert data.transform is None
    assert other.classes == data.classes


def test_wrong_indices_are_refused(root: Path) -> None:
    data = PictureFolder(root, transform={"input_size": (3, 8, 8)})
    with pytest.raises(IndexError, match="0 to 19, allowed are 0 to 18"):
        data.batch([0, 19])
    with pytest.raises(IndexError, match="-1"):
        data.batch([-1])
    for bad in ([0.5], 3, [[1]], [True]):
        with pytest.raises(TypeError, match="indices"):
            data.batch(bad)


# -------------------------------------------------------------------------------- split


def test_a_split_is_stratified_seeded_and_whole(root: Path) -> None:
    data = PictureFolder(root)
    train, held = data.split(0.34, seed=3)
    assert held.counts.tolist() == [2, 1, 3]
    assert (train.counts + held.counts).tolist() == data.counts.tolist()
    assert names(train) | names(held) == names(data)
    assert not names(train) & names(held)
    assert train.classes == held.classes == data.classes
    for part in (train, held):
        for index, label in enumerate(part.labels):
            assert Path(part.name(index)).parent.name == data.classes[label]
    assert names(data.split(0.34, seed=3)[1]) == names(held)
    others = {frozenset(names(data.split(0.34, seed=s)[1])) for s in range(10)}
    assert len(others) > 5
    train.check_apart(held)


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
def test_each_class_keeps_a_picture_in_either_part(root: Path, fraction: float) -> None:
    train, held = PictureFolder(root).split(fraction)
    assert train.counts.min() >= 1
    assert held.counts.min() >= 1


def test_a_class_with_one_picture_is_named_or_stays_in_training(tmp_path: Path) -> None:
    folder_of(tmp_path, {"cat": 3, "dog": 1, "emu": 1})
    data = PictureFolder(tmp_path)
    with pytest.raises(ValueError, match="cannot be split: dog, emu; single='train'"):
        data.split(0.5)
    train, held = data.split(0.5, single="train")
    assert train.counts.tolist() == [1, 1, 1]
    assert held.counts.tolist() == [2, 0, 0]


def test_copies_are_not_parted(root: Path) -> None:
    for number in range(3):
        (root / "cat" / f"again {number}.png").write_bytes(
            (root / "cat" / "0.png").read_bytes()
        )
    (root / "dog" / "link.png").symlink_to(root / "dog" / "1.png")
    data = PictureFolder(root)
    seen = set()
    for seed in range(30):
        train, held = data.split(0.5, seed)
        assert not contents(train) & contents(held)
        train.check_apart(held)
        copies = {name for name in names(held) if "again" in name or "link" in name}
        seen.add(len(copies))
        assert abs(int(held.counts[1]) - 4) <= 2
    assert len(seen) > 1  # held out in some of them, trained on in others


def test_a_class_of_copies_alone_cannot_be_split(root: Path) -> None:
    for path in (root / "cat").iterdir():
        path.write_bytes(png(500))
    with pytest.raises(ValueError, match="or copies of one, cannot be split: cat"):
        PictureFolder(root).split()


def test_copies_in_two_classes_stay_in_training_and_are_named(root: Path) -> None:
    (root / "dog" / "cat.png").write_bytes((root / "cat" / "2.png").read_bytes())
    data = PictureFolder(root)
    for seed in range(10):
        with pytest.warns(UserWarning, match=r"2.png \(cat\) and .*cat.png \(dog\)"):
            train, held = data.split(0.5, seed)
        assert {str(root / "dog" / "cat.png"), str(root / "cat" / "2.png")} <= names(
            train
        )
        assert not contents(train) & contents(held)


def test_a_held_out_picture_that_is_trained_on_is_named(
    root: Path, tmp_path: Path
) -> None:
    data = PictureFolder(root)
    val = folder_of(tmp_path / "val", {"cat": 0, "dog": 0})
    (val / "cat" / "mine.png").write_bytes(png(1000))
    (val / "dog" / "other.png").write_bytes((root / "dog" / "4.png").read_bytes())
    held = PictureFolder(val, classes=data.classes)
    with pytest.raises(ValueError, match=r"1 of 2 .*other.png \(as .*4.png\)"):
        data.check_apart(held)
    (val / "dog" / "other.png").write_bytes(png(1001))
    data.check_apart(PictureFolder(val, classes=data.classes))
    with pytest.raises(ValueError, match="the classes cat, dog, and what"):
        data.check_apart(PictureFolder(val))
    with pytest.raises(ValueError, match="19 of 19"):
        data.check_apart(data)


def test_a_bad_split_is_refused(root: Path) -> None:
    data = PictureFolder(root)
    for bad in (0, 1, 1.5, -0.1):
        with pytest.raises(ValueError, match="fraction"):
            data.split(bad)
    with pytest.raises(TypeError, match="seed"):
        data.split(0.2, 0.5)
    with pytest.raises(ValueError, match="single: 'drop'"):
        data.split(0.2, single="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no picture of a class: dog"):
        Pictures([noise(0), noise(1)], [0, 0], ["cat", "dog"]).split()


# ------------------------------------------------------------------ what cannot be read


def spoil(root: Path) -> tuple[Path, Path]:
    """A picture that ends early and one that is none."""
    cut, text = root / "cat" / "3.png", root / "dog" / "5.png"
    Image.fromarray(noise(7, 90)).save(cut, "JPEG")  # a suffix says nothing
    cut.write_bytes(cut.read_bytes()[:4000])
    text.write_text("hello")
    return cut, text


def test_a_picture_that_cannot_be_read_stops_by_its_name(root: Path) -> None:
    cut, _ = spoil(root)
    with pytest.raises(ImageError, match=r"3.png: .*truncated.* \(and 1 more") as told:
        PictureFolder(root)
    assert told.value.name == str(cut)


def test_or_is_left_out_and_reported(root: Path) -> None:
    cut, text = spoil(root)
    with pytest.warns(ImageWarning, match=r"2 of 19 pictures .* left out: .*3.png: "):
        data = PictureFolder(root, on_error="skip", transform={"img_size": 8})
    assert set(data.skipped) == {str(cut), str(text)}
    assert data.skipped[str(text)] == "not a picture that Pillow can read"
    assert len(data) == len(data.labels) == 17
    assert data.counts.tolist() == [5, 4, 8]
    for index, label in enumerate(data.labels):
        assert Path(data.name(index)).parent.name == data.classes[label]
    assert np.isfinite(data.batch(range(17))).all()


def test_a_class_of_which_nothing_can_be_read_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path, {"cat": 2, "dog": 1})
    (tmp_path / "dog" / "0.png").write_bytes(b"")
    with (
        pytest.warns(ImageWarning, match=r"0.png"),
        pytest.raises(ValueError, match="no picture of a class could be read: dog"),
    ):
        PictureFolder(tmp_path, on_error="skip")


def test_without_the_check_a_batch_raises_when_it_comes_to_it(root: Path) -> None:
    _, text = spoil(root)
    data = PictureFolder(root, check=False, transform={"input_size": (3, 8, 8)})
    assert len(data.batch([0])) == 1
    bad = [data.name(i) for i in range(len(data))].index(str(text))
    with pytest.raises(ImageError, match=r"5.png: not a picture"):
        data.batch([0, bad])
    with pytest.raises(ValueError, match="check=False"):
        PictureFolder(root, check=False, on_error="skip")


def test_a_file_of_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    path = write_csv(tmp_path, "a.png,cat\nb.png,dog\na.png,cat")
    with pytest.raises(ImageError, match=r"b.png: No such file or directory"):
        PictureList(path)


def test_good_pictures_give_no_warning_and_a_bar_where_asked(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PictureFolder(root)
        assert capsys.readouterr().err == ""
        PictureFolder(root, progress=True)
    assert "19/19" in capsys.readouterr().err


# ----------------------------------------------------------------------------- refusals

BAD: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"labels": [0]}, ValueError, "labels: 1 of them for 2 pictures"),
    ({"labels": [0, 2], "classes": ["a", "b"]}, ValueError, "2, allowed are 0 to 1"),
    ({"labels": [0, -1]}, ValueError, "labels: -1"),
    ({"labels": [0.0, 1.0]}, TypeError, "labels must be integers"),
    ({"labels": [True, False]}, TypeError, "labels must be integers"),
    ({"labels": ["a", "b"]}, TypeError, "labels must be integers"),
    ({"labels": [[0], [1]]}, TypeError, r"labels .* \(2, 1\)"),
    ({"labels": [0, 0]}, ValueError, "one class only, '0'"),
    ({"classes": ["a", "a"]}, ValueError, "a name comes twice"),
    ({"sources": [], "labels": []}, ValueError, "no pictures"),
    ({"sources": [noise(0), 3]}, ImageError, "<int>"),
    ({"sources": 3}, TypeError, "int"),
    ({"on_error": "ignore"}, ValueError, "'ignore', allowed are 'raise' and 'skip'"),
    ({"num_workers": -1}, ValueError, "num_workers"),
    ({"transform": {"input_size": (5, 8, 8)}}, ValueError, "5 channels"),
)


@pytest.mark.parametrize(("options", "kind", "said"), BAD, ids=lambda v: str(v)[:40])
def test_what_is_wrong_is_said_before_any_work(
    options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    given: dict[str, Any] = {"sources": [noise(0), noise(1)], "labels": [0, 1]}
    with pytest.raises(kind, match=said):
        Pictures(**{**given, **options})


def test_an_open_file_is_refused() -> None:
    with (
        SAMPLES[0].open("rb") as file,
        pytest.raises(TypeError, match="an open file, which can be read once"),
    ):
        Pictures([file, SAMPLES[1]], [0, 1])
