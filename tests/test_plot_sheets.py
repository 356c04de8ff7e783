# SPDX-License-Identifier: Apache-2.0
"""Pictures of many: rows, one scale a row, captions, models side by side, tokens."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitpool
from vitpool import plot
from vitpool.plot import layout

SAMPLES = vitpool.samples()
NOISE = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)


def make(**options: object) -> vitpool.VisionTransformer:
    base = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3}
    base |= {"num_heads": 4, "num_classes": 5, "seed": 0}
    return vitpool.VisionTransformer(**{**base, **options})


@pytest.fixture(scope="module")
def digits() -> vitpool.VisionTransformer:
    return vitpool.create_model("vit_digits", pretrained=True)


@pytest.fixture(scope="module")
def token() -> vitpool.VisionTransformer:
    return make()


def captions(row: plot.Row) -> list[str]:
    return [cell.caption for cell in row.cells]


# ------------------------------------------------------------------------------- rows


def test_a_row_is_the_picture_then_the_last_block_then_the_pool(digits, token) -> None:
    (row,) = plot.attention_rows(digits, SAMPLES[3])
    assert captions(row)[0].startswith("digit_3.png\n3 (")
    assert captions(row)[1:] == ["block 2, mean of heads", "map pool, mean of heads"]
    (row,) = plot.attention_rows(token, NOISE, head="all")
    assert captions(row)[1:] == [f"block 2, head {head}" for head in range(4)]
    (row,) = plot.attention_rows(token, NOISE, layer=(0, "-1", "rollout"), head=-1)
    with pytest.raises(ValueError, match="allowed are 'mean', 'all' and 0 to 0"):
        list(plot.attention_rows(token, NOISE, layer="rollout", head=2))
    assert captions(row)[1:] == [
        "block 0, head 3", "block 2, head 3", "rollout, head 0"
    ]  # fmt: skip


def test_the_scale_is_that_of_all_maps_of_the_row(digits) -> None:
    transform = vitpool.create_transform(**vitpool.resolve_data_config(digits))
    x = transform(SAMPLES[3])[None]
    heads = plot.attention_maps(digits, x, "pool")[0]
    assert plot.scale_top(heads[-1]) < plot.scale_top(heads)  # or it would not show
    (row,) = plot.attention_rows(digits, SAMPLES[3], layer="pool", head="all")
    assert row.top == plot.scale_top(heads) == plot.scale_top(*heads)
    shown = plot.view(transform, SAMPLES[3])
    for cell, heat in zip(row.cells[1:], heads, strict=True):
        expected = plot.overlay(shown, heat, top=row.top)
        assert cell.image.tobytes() == expected.tobytes()


def test_one_scale_may_be_given_for_all_rows(digits) -> None:
    rows = list(plot.attention_rows(digits, SAMPLES, top=30))
    assert {row.top for row in rows} == {30}
    assert len({row.top for row in plot.attention_rows(digits, SAMPLES)}) > 1
    for top in (0.5, 0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="allowed is 1 or more"):
            plot.attention_rows(digits, SAMPLES, top=top)


def test_models_stand_side_by_side_under_their_names(digits, token) -> None:
    (row,) = plot.attention_rows([digits, token], [NOISE], labels=None)
    assert captions(row)[1:] == [
        "vit_digits: block 2, mean of heads", "vit_digits: map pool, mean of heads",
        "model: block 2, mean of heads",
    ]  # fmt: skip
    (row,) = plot.attention_rows([token, make(seed=1)], NOISE, layer=0, head=1)
    assert captions(row)[1:] == ["model 1: block 0, head 1", "model 2: block 0, head 1"]
    named = {"before": digits, "after": digits}
    (row,) = plot.attention_rows(named, SAMPLES[7], layer="pool")
    name, before, after = captions(row)[0].split("\n")
    assert name == "digit_7.png"
    assert before.startswith("before: 7 (")
    assert after == before.replace("before", "after")
    assert row.cells[1].image.tobytes() == row.cells[2].image.tobytes()
    (alone,) = plot.attention_rows({"only": digits}, SAMPLES[7], layer="pool")
    assert captions(alone)[1] == "map pool, mean of heads"
    with pytest.raises(ValueError, match="models: none"):
        plot.attention_rows([], NOISE)


def test_a_guess_is_written_only_where_the_model_was_trained(digits, token) -> None:
    for model, labels, lines in (
        (digits, True, 2), (digits, None, 1), (digits, False, 1), (token, True, 1),
        (vitpool.create_model("vit_digits"), True, 1),
        (vitpool.create_model("vit_digits", pretrained=True, num_classes=0), True, 1),
    ):  # fmt: skip
        (row,) = plot.attention_rows(model, SAMPLES[2], layer=-1, labels=labels)
        assert len(captions(row)[0].split("\n")) == lines
    own = [f"sign {digit}" for digit in range(10)]
    (row,) = plot.attention_rows(digits, SAMPLES[2], labels=own)
    assert "sign 2 (" in captions(row)[0]


def test_what_is_given_for_pictures_is_taken_for_what_it_is(digits) -> None:
    folder = SAMPLES[0].parent
    assert len(list(plot.attention_rows(digits, folder))) == 10
    assert len(list(plot.attention_rows(digits, (p for p in SAMPLES[:3])))) == 3
    data = SAMPLES[4].read_bytes()
    same = [
        next(iter(plot.attention_rows(digits, given))).cells[1].image.tobytes()
        for given in (str(SAMPLES[4]), data, io.BytesIO(data), Image.open(SAMPLES[4]))
    ]
    assert len(set(same)) == 1
    # a file can be read once; two models read it
    (row,) = plot.attention_rows([digits, digits], io.BytesIO(data), layer="pool")
    assert row.cells[1].image.tobytes() == row.cells[2].image.tobytes()


def test_rows_are_made_when_they_are_asked_for(digits) -> None:
    def endless():
        while True:
            yield SAMPLES[0]

    rows = plot.attention_rows(digits, endless())
    assert next(rows).top == next(rows).top


def test_wrong_layers_are_refused_before_a_picture_is_read(token) -> None:
    for layer, words in (([], "layer: none"), ([0, "pool"], "no attention"), (9, "9")):
        with pytest.raises(ValueError, match=words):
            plot.attention_rows(token, ["/no/such.png"], layer=layer)


def test_a_broken_picture_is_named(digits, tmp_path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(SAMPLES[0].read_bytes()[:60])
    line = tmp_path / "line.png"  # can be read, and not be enlarged
    Image.new("L", (1, 8_000_000)).save(line)
    for path in (broken, line):
        with pytest.raises(vitpool.transforms.ImageError, match=path.name):
            plot.attention_grid(digits, [SAMPLES[0], path])


def test_cells_have_one_size_whatever_the_input_has() -> None:
    for size, shown in ((32, (224, 224)), (518, (224, 224)), ((48, 96), (224, 112))):
        transform = vitpool.create_transform(size)
        assert plot.view(transform, NOISE).size == shown
    for odd in ((1600, 8), (8, 900), (1, 1)):
        picture = Image.new("RGB", odd)
        assert plot.view(vitpool.create_transform(64), picture).size == (224, 224)


def test_patches_that_hang_over_a_padded_picture_are_cut() -> None:
    """30 x 50 pixels are 3.75 x 6.25 patches: the last of 4 x 7 are seen in part."""
    heat = np.zeros((4, 7), np.float32)
    heat[3, 6] = 1
    grey = Image.new("L", (500, 300), 0)
    seen = np.asarray(plot.overlay(grey, heat, extent=(3.75, 6.25)))[..., 0] > 60
    rows, columns = np.nonzero(seen)
    assert (rows.min(), columns.min()) == (240, 480)
    assert seen[240:, 480:].all()


# ----------------------------------------------------------------------------- layout


def solid(*sizes: tuple[int, int]) -> list[Image.Image]:
    return [Image.new("RGB", size, (1, 200, 2 + i)) for i, size in enumerate(sizes)]


NAMES = [
    "a.png", "IMG_2024-05-06_at_12.34.56_final_final(2).jpeg", "x" * 255 + ".png",
    "two words.png", "a " * 60, "tench, Tinca tinca (99.9%)", "", "W" * 40,
]  # fmt: skip


@pytest.mark.parametrize("width", [9, 30, 118, 224])
def test_wrapped_text_is_whole_and_fits(width) -> None:
    for text in NAMES:
        for size in (7, 9.5):
            lines = layout.wrap(text, width, lambda t, size=size: size * len(t))
            assert all(size * len(line) <= width or len(line) == 1 for line in lines)
            assert "".join("".join(lines).split()) == "".join(text.split())
    assert layout.wrap("one\ntwo", 99, len) == ["one", "two"]
    assert layout.wrap("mean of heads", 9, len) == ["mean of", "heads"]
    assert layout.wrap("an extra-ordinary-name", 10, len) == [
        "an extra-", "ordinary-", "name"
    ]  # fmt: skip


def test_captions_are_never_cut_and_never_over_a_picture() -> None:
    for name in NAMES[:-2]:
        images = solid((100, 80), (100, 90))
        cells = [plot.Cell(name, images[0]), plot.Cell("b", images[1])]
        drawn = np.asarray(plot.sheet([plot.Row(cells, None)]))
        for image in images:
            inside = (drawn == np.asarray(image)[0, 0]).all(axis=-1)
            assert inside.sum() == (image.width - 2) * (image.height - 2)
        # letters of the first stay over the first: between the cells all is white
        assert (drawn[:, 8 + 100 : 8 + 100 + 8] == 255).all()
        assert (drawn[:, :8] == 255).all()
        assert (drawn[:2] == 255).all()
    short, long = (
        plot.sheet([plot.Row([plot.Cell(n, solid((100, 80))[0])], None)]).height
        for n in ("a", "x" * 255)
    )
    assert long > short + 15 * 15


@pytest.mark.parametrize("text", ["\u6f22\u5b57.png", "caf\u00e9.png", "\ud800.png"])
def test_any_name_can_be_written(digits, tmp_path, text) -> None:
    cell = plot.Cell(text, Image.new("RGB", (50, 50)))
    assert plot.sheet([plot.Row([cell], 4.0)]).width == 66


def test_without_freetype_there_are_letters_too(digits, monkeypatch) -> None:
    monkeypatch.setattr(layout.features, "check", lambda feature: False)
    layout._font.cache_clear()
    try:
        plain = plot.attention_row(digits, None, SAMPLES[0])
    finally:
        layout._font.cache_clear()
    monkeypatch.undo()
    assert plain.size == plot.attention_row(digits, None, SAMPLES[0]).size


def test_letters_can_be_read_at_390_pixels() -> None:
    for width in (100, 390, 472, 936, 3000):
        assert layout.text_size(width) * 390 / max(width, 390) >= 8.9


@pytest.mark.parametrize("top", [4.0, 5.0, 12.0, 100.0])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_uniform_is_marked_where_it_is(top, count) -> None:
    cells = [plot.Cell("", image) for image in solid(*[(200, 200)] * count)]
    drawn = np.asarray(plot.sheet([plot.Row(cells, top)]))
    width = drawn.shape[1]
    left = 8 if count == 6 else 8 + 200 + 8
    bright = np.abs(drawn[:, width - 9].astype(int) - (252, 255, 164)) < 6
    rows = np.flatnonzero(bright.all(axis=-1))  # the upper end of the scale
    bar = rows[len(rows) // 2]
    dark = np.flatnonzero((drawn[bar] == 30).all(axis=-1))
    assert len(dark) == 1
    assert abs(dark[0] - (left + (width - 8 - left) / top)) <= 1
    # and is the colour of a map that is uniform
    ramp = plot.colours(np.array([1 / top]))[0]
    near = drawn[bar, dark[0] + 3].astype(int)
    assert np.abs(near - ramp).max() <= 255 / (width - left) * 3 + 12


def test_words_under_a_scale_do_not_meet() -> None:
    for top in (1, 1.2, 4, 8, 25, 1000):
        for width in (60, 90, 224, 900):
            spans = sorted(
                (start, start + 8 * len(text))
                for text, start in layout.scale_labels(top, width, lambda t: 8 * len(t))
            )
            assert any(end - start == 56 for start, end in spans)
            for (_, end), (start, _) in itertools.pairwise(spans):
                assert start - end >= 8
            if width >= 56:
                assert spans[0][0] >= 0
                assert spans[-1][1] <= width


def test_long_rows_go_on_below_evenly(token) -> None:
    for count, columns, used, lines in (
        (2, 4, 2, 1), (5, 4, 3, 2), (13, 4, 4, 4), (13, 5, 5, 3), (3, 1, 1, 3),
    ):  # fmt: skip
        cells = [plot.Cell("c", image) for image in solid(*[(50, 50)] * count)]
        drawn = plot.sheet([plot.Row(cells, None)], columns=columns)
        assert drawn.width == used * 58 + 8
        line = round(layout.text_size(drawn.width) * 1.25)
        assert drawn.height == lines * (line + 58) + 8
    for columns in (0, -1, 1.5, True, "4"):
        with pytest.raises(ValueError, match="columns: "):
            plot.attention_grid(token, NOISE, columns=columns)
    with pytest.raises(ValueError, match="rows: none"):
        plot.sheet([])
    with pytest.raises(ValueError, match="across: 0"):
        plot.sheet([plot.Row(cells, None)], across=0)


def test_many_short_rows_stand_beside_each_other(digits) -> None:
    rows = list(plot.attention_rows(digits, SAMPLES, layer="pool"))
    assert plot.sheet(rows[:3]).width == 2 * 232 + 8
    assert plot.sheet(rows).width == 4 * 232 + 24
    assert plot.sheet(rows, across=1).width == 2 * 232 + 8


def test_the_same_pictures_are_the_same_bytes(digits) -> None:
    def files() -> list[bytes]:
        out = []
        for drawn in (
            plot.attention_grid(digits, SAMPLES[:2]),
            plot.attention_row(digits, None, SAMPLES[0]),
            plot.token_pca(digits, SAMPLES[:2]),
        ):
            file = io.BytesIO()
            drawn.save(file, "PNG")
            out.append(file.getvalue())
        return out

    assert files() == files()


# ----------------------------------------------------------------------------- tokens


def inputs(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 32, 32), np.float32)


@pytest.mark.parametrize(
    "options", [{}, {"reg_tokens": 3}, {"class_token": False, "global_pool": "avg"}]
)
def test_components_are_the_principal_ones_of_all_patch_tokens(options) -> None:
    model, x = make(**options), inputs(3)
    got = plot.token_components(model, x, 4)
    assert got.shape == (3, 4, 4, 4)
    assert got.dtype == np.float32
    tokens = model.forward_features(x)[:, model.num_prefix_tokens :].reshape(48, 32)
    centred = tokens.astype(np.float64) - tokens.mean(axis=0, dtype=np.float64)
    scores = got.reshape(48, 4).astype(np.float64)
    spread = np.linalg.eigvalsh(centred.T @ centred)[::-1][:4]
    np.testing.assert_allclose(np.diag(scores.T @ scores), spread, rtol=1e-4)
    off = scores.T @ scores - np.diag(spread)
    assert np.abs(off).max() < 1e-4 * spread[0]
    # signs: the largest part of each axis is positive
    axes = scores.T @ centred / spread[:, None]
    for axis in axes:
        assert axis[np.abs(axis).argmax()] > 0


def test_fewer_directions_than_components_are_zeros() -> None:
    model, x = make(), inputs(1)
    flat = np.zeros((1, 3, 32, 32), np.float32)
    two = np.concatenate([x, x])
    got = plot.token_components(model, two, 20)
    np.testing.assert_allclose(got[0], got[1], atol=1e-5)
    assert (np.abs(got[..., :15]).max(axis=(0, 1, 2)) > 0).all()
    assert (got[..., 15:] == 0).all()  # 16 tokens differ in 15 directions
    bare = make(pos_embed="none", class_token=False, global_pool="avg")
    assert (plot.token_components(bare, flat) == 0).all()
    assert plot.token_components(model, x[:0]).shape == (0, 4, 4, 3)
    with pytest.raises(ValueError, match="count: 0"):
        plot.token_components(model, x, 0)


def test_a_colour_means_the_same_in_all_pictures(digits) -> None:
    def tokens(images: list[Path]) -> list[bytes]:
        drawn = np.asarray(plot.token_pca(digits, images, columns=2))
        assert drawn.shape[1] == 2 * 232 + 8
        step = len(drawn) // len(images)  # a row, and the gap above it
        assert step == 8 + 19 + 224 + 8
        return [
            drawn[top : top + step][50:240, 250:450].tobytes()
            for top in range(0, len(drawn), step)
        ]

    a, b, again = tokens([SAMPLES[0], SAMPLES[5], SAMPLES[0]])
    assert a == again
    assert a != b
    with pytest.raises(ValueError, match="images: none"):
        plot.token_pca(digits, [])


def test_tokens_without_a_difference_are_grey() -> None:
    bare = make(pos_embed="none", class_token=False, global_pool="avg")
    drawn = np.asarray(plot.token_pca(bare, Image.new("RGB", (50, 50), "white")))
    assert (drawn[100:200, 300:400] == 128).all()


# ---------------------------------------------------------------------------- figures


def test_titles_of_figures_are_whole_and_apart(digits, tmp_path) -> None:
    path = tmp_path / ("a_long-name of_a$picture$" * 4 + ".png")
    path.write_bytes(SAMPLES[0].read_bytes())
    for figure in (
        plot.grid_figure([digits, digits], [path, SAMPLES[1]]),
        plot.pca_figure(digits, [path, SAMPLES[1]]),
        plot.attention_figure(digits, path, columns=2),
    ):
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        drawn = [axis for axis in figure.axes if axis.images]
        titles = [axis.title.get_window_extent(renderer) for axis in drawn]
        assert "".join(drawn[0].get_title().split()) == path.name.replace(" ", "") + (
            "vit_digits1:0(96.3%)vit_digits2:0(96.3%)" if len(drawn) == 10 else ""
        )
        boxes = titles + [axis.get_window_extent(renderer) for axis in figure.axes]
        for index, box in enumerate(boxes):
            assert box.x0 >= -1
            assert box.x1 <= figure.bbox.x1 + 1
            assert box.y1 <= figure.bbox.y1 + 1
            for other in boxes[:index]:
                wide = min(box.x1, other.x1) - max(box.x0, other.x0)
                high = min(box.y1, other.y1) - max(box.y0, other.y0)
                assert min(wide, high) <= 1
