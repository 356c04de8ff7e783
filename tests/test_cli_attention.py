# SPDX-License-Identifier: Apache-2.0
"""`vitpool attention`: many pictures on sheets."""

from __future__ import annotations

import gc
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

import vitpool
from vitpool import cli, plot

SAMPLES = vitpool.samples()


def run(capsys: pytest.CaptureFixture, *argv: object) -> tuple[int, list[str], str]:
    code = cli.main(["attention", "-q", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".WEBP"])
def test_what_fits_on_one_sheet_has_the_name_that_was_given(
    capsys, tmp_path, suffix
) -> None:
    out = tmp_path / f"seen{suffix}"
    assert run(capsys, *SAMPLES, "-o", out) == (0, [str(out)], "")
    assert names(tmp_path) == [out.name]
    with Image.open(out) as image:
        assert image.format == {".png": "PNG", ".jpg": "JPEG"}.get(suffix, "WEBP")
        assert image.width == 4 * 232 + 24  # two pictures beside each other


def test_more_go_on_sheets_by_number(capsys, tmp_path) -> None:
    argv = [*SAMPLES, "-o", tmp_path / "seen.png", "--per-sheet", 4]
    code, out, _ = run(capsys, *argv)
    assert code == 0
    assert out == [str(tmp_path / f"seen-00{number}.png") for number in (1, 2, 3)]
    assert names(tmp_path) == [Path(name).name for name in out]
    sizes = [Image.open(name).size for name in out]
    assert sizes[0] == sizes[1]  # four and four, then two
    assert sizes[2][0] < sizes[0][0]


def test_a_folder_has_numbered_sheets(capsys, tmp_path) -> None:
    for out in (f"{tmp_path}/new/deep/", tmp_path):
        code, said, _ = run(capsys, *SAMPLES[:3], "-o", out, "--per-sheet", 2)
        assert code == 0
        assert said == [str(Path(out) / f"attention-00{n}.png") for n in (1, 2)]
        assert all(Path(name).is_file() for name in said)


def test_pictures_and_folders_come_together_in_order(capsys, tmp_path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for path in SAMPLES[:3]:
        shutil.copy(path, folder)
    argv = [SAMPLES[9], folder, SAMPLES[8], "--per-sheet", 1]
    code, said, _ = run(capsys, *argv, "-o", tmp_path / "out.png")
    assert (code, len(said)) == (0, 5)
    for name, path in zip(said, [SAMPLES[9], *SAMPLES[:3], SAMPLES[8]], strict=True):
        run(capsys, path, "-o", tmp_path / "one.png")
        assert Path(name).read_bytes() == (tmp_path / "one.png").read_bytes()


def test_broken_pictures_are_named_and_the_rest_is_drawn(capsys, tmp_path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(SAMPLES[0].read_bytes()[:60])
    out = tmp_path / "seen.png"
    argv = [SAMPLES[0], broken, SAMPLES[1], tmp_path / "not there.png", "-o", out]
    for more in ([], ["-b", 3]):
        code, said, err = run(capsys, *argv, *more)
        assert (code, said) == (1, [str(out)])
        assert f"{broken}: " in err
        assert f"{tmp_path / 'not there.png'}: " in err
        drawn = out.read_bytes()
        run(capsys, *SAMPLES[:2], "-o", out)
        assert drawn == out.read_bytes()
    only = tmp_path / "only.png"
    assert run(capsys, broken, "-o", only)[:2] == (1, [])
    assert not only.exists()
    code, said, err = run(capsys, *argv, "--strict")
    assert (code, said) == (1, [])
    assert f"{broken}: " in err


def test_a_sheet_has_a_limit_however_many_maps_a_picture_has(
    capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(sys.modules["vitpool.cli.attention"], "_CELLS", 12)
    argv = [*SAMPLES[:4], "-o", tmp_path / "seen.png", "--per-sheet", 100]
    code, said, _ = run(capsys, *argv, "--head", "all")  # five cells a picture
    assert (code, len(said)) == (0, 2)
    code, said, _ = run(capsys, *argv, "--head", "all", "--layer", "0,1,2,pool")
    assert (code, len(said)) == (0, 4)  # 17 cells: more than that, and alone


def test_layers_and_the_scale_can_be_given(capsys, tmp_path) -> None:
    out = tmp_path / "seen.png"
    sizes = []
    for layer in ("auto", "pool", "-1", "0,pool", "0, 1,rollout"):
        assert run(capsys, SAMPLES[0], "-o", out, "--layer", layer)[0] == 0
        with Image.open(out) as image:
            sizes.append(image.width)
    assert sizes == [472, 472, 472, 704, 936]
    own = out.read_bytes()
    assert run(capsys, SAMPLES[0], "-o", out, "--layer", layer, "--top", 9)[0] == 0
    assert out.read_bytes() != own


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["-o", "{}/seen.tiff"], ".png, .jpg or .webp"),
        (["-o", "{}/no/seen.png"], "there is no folder"),
        (["-o", "{}/seen.png", "--layer", "0,9"], "layer: 9"),
        (["-o", "{}/seen.png", "--layer", "0,"], "layer: ''"),
        (["-o", "{}/seen.png", "--head", "4"], "head: '4'"),
        (["-o", "{}/seen.png", "--top", "0.5"], "allowed is 1 or more"),
    ],
)
def test_what_cannot_be_drawn_leaves_nothing(capsys, tmp_path, more, words) -> None:
    argv = [item.format(tmp_path) for item in more]
    code, said, err = run(capsys, *SAMPLES, *argv)
    assert (code, said) == (2, [])
    assert words in err
    assert err.count("\n") == 1
    assert names(tmp_path) == []


def test_what_is_drawn_is_written_and_forgotten(capsys, tmp_path, monkeypatch) -> None:
    alive = []

    def counted(rows: list[plot.Row]) -> Image.Image:
        alive.append(sum(isinstance(item, plot.Row) for item in gc.get_objects()))
        return drawn(rows)

    drawn = plot.sheet
    monkeypatch.setattr(plot, "sheet", counted)
    argv = [*SAMPLES * 4, "-o", tmp_path / "seen.png", "--per-sheet", 5, "-b", 3]
    assert run(capsys, *argv)[0] == 0
    assert len(alive) == 8
    assert max(alive) <= 5 + 1  # a sheet's, and the one after them
