# SPDX-License-Identifier: Apache-2.0
"""Parts of timm's other classes: their trees, what they take and refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from concepts import CONCEPTS, small_of
from golden import recipe
from models import refused

from vitpool import model as names
from vitpool.train.parts import part_of

X = recipe.picture((2, 3, 32, 48))


def texts() -> dict[str, str]:
    """timm's, of each concept."""
    text = (Path(__file__).parent / "golden" / "trees.txt").read_text()
    found = dict(part.split("\n", 1) for part in text.split("== ")[1:])
    assert found
    return found


@pytest.mark.parametrize("name", CONCEPTS)
def test_the_tree_is_timms(name: str) -> None:
    model = small_of(name)
    keys = "".join(f"{key}\n" for key, _ in model.named_parameters())
    assert f"{model!r}\n{keys}" == texts()[name]
    for path, part in model.named_modules():
        assert model.get_submodule(path) is part
        assert not path or repr(part).startswith(type(part).__name__)
    for kind in (
        "EvaBlock",
        "AttentionRope",
        "RelPosMlp",
        "NaFlexEmbeds",
        "HybridEmbed",
    ):
        assert getattr(names, kind).__name__ == kind


@pytest.mark.parametrize("name", [n for n in CONCEPTS if not n.startswith("naflex")])
def test_the_blocks_one_after_the_other_are_the_whole(name: str) -> None:
    model = small_of(name)
    tokens = model._run(X, 0, taps=[(0, 0, "in")])[1][0]
    for block in model.blocks:
        tokens = block(tokens)
    np.testing.assert_array_equal(model.norm(tokens), model.forward_features(X))


@pytest.mark.parametrize("name", CONCEPTS)
def test_the_parts_of_a_block_are_the_block(name: str) -> None:
    model = small_of(name)
    block = model.blocks[1]
    count = 6 + model.num_prefix_tokens
    x = tokens = recipe.picture((2, count, 32))
    post = type(block).__name__ in ("EvaBlockPostNorm", "ResPostRelPosBlock")

    def branch(norm: Any, layer: Any, scale: Any, x: np.ndarray) -> np.ndarray:
        y = norm(layer(x)) if post else layer(norm(x))
        return x + (y if scale is None else scale(y))

    def scale(number: int) -> Any:
        if hasattr(block, f"ls{number}"):
            return getattr(block, f"ls{number}")
        gamma = getattr(block, f"gamma_{number}", None)
        return None if gamma is None else lambda y: gamma * y

    if model._options()["rope"] != "none" and name.startswith("naflex"):
        rope = model.rope.get_embed((2, 3))[1]
        x = branch(block.norm1, lambda y: block.attn(y, rope=rope), scale(1), x)
        got = block(tokens, rope=rope)
    else:
        x = branch(block.norm1, block.attn, scale(1), x)
        got = block(tokens)
    x = branch(block.norm2, block.mlp, scale(2), x)
    np.testing.assert_allclose(got, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", ["blocks.1", "blocks.1.attn"])
def test_tokens_of_another_grid_need_their_rope(path: str) -> None:
    model = small_of("eva-swiglu")
    part = model.get_submodule(path)
    tokens = recipe.picture((2, 11, 32))
    with refused(ValueError, "must have 7 tokens", "2 x 3", "not 11", model=model, x=X):
        part(tokens)
    rope = model.rope.get_embed((2, 5))
    assert part(tokens, rope=rope).shape == tokens.shape
    with refused(ValueError, "10 patches", "(10, 16)", "(6, 16)"):
        part(tokens, rope=rope[:6])
    with refused(ValueError, "'own', None", "not (10, 8)"):
        part(tokens, rope=rope[:, :8])
    with refused(ValueError, "more tokens than the 1 of the prefix"):
        part(tokens[:, :1])
    plain = small_of("eva").get_submodule(path)
    assert plain(tokens).shape == tokens.shape
    with refused(ValueError, "no rotary embedding"):
        plain(tokens, rope=rope)


def test_mixed_rope_is_of_one_block() -> None:
    model = small_of("eva-mixed")
    tokens = recipe.picture((2, 7, 32))
    rope = model.rope.get_embed()
    assert rope.shape == (2, 4, 6, 16)
    first, second = model.blocks
    for block, own in ((first, rope[0]), (second, rope[1])):
        np.testing.assert_allclose(block(tokens, own), block(tokens), atol=1e-5)
    assert abs(second(tokens, rope[0]) - second(tokens)).max() > 1e-2
    with refused(ValueError, "(4, 6, 16)", "(2, 4, 6, 16)"):
        second(tokens, rope=rope)
    with refused(ValueError, "block_index must be from 0 to 1, not 2"):
        model.rope(recipe.picture((1, 32, 2, 3)), 2)


@pytest.mark.parametrize("path", ["blocks.1", "blocks.1.attn"])
@pytest.mark.parametrize("name", ["beit", "beit-both", "relpos", "relpos-table"])
def test_tokens_of_another_grid_have_no_relative_positions(
    name: str, path: str
) -> None:
    model = small_of(name)
    own = f"{model.num_prefix_tokens} + 2 x 3 tokens"
    with refused(ValueError, "11 tokens", own, model=model, x=X):
        model.get_submodule(path)(recipe.picture((2, 11, 32)))


@pytest.mark.parametrize(
    ("name", "word"),
    [("beit-both", "shared_rel_pos_bias"), ("relpos-shared", "shared_rel_pos")],
)
def test_another_shared_bias_is_refused(name: str, word: str) -> None:
    model = small_of(name)
    block, tokens = model.blocks[0], recipe.picture((2, 7, 32))
    own = (
        model.rel_pos_bias() if name == "beit-both" else model.shared_rel_pos.get_bias()
    )
    np.testing.assert_array_equal(block(tokens, own), block(tokens))
    np.testing.assert_array_equal(block.attn(tokens, own), block.attn(tokens))
    for other in (own + 1, own[..., :3]):
        with refused(ValueError, word, "the model's own"):
            block(tokens, other)
    alone = small_of("beit" if name == "beit-both" else "relpos-table")
    with refused(ValueError, word, "must be None", "share none"):
        alone.blocks[0](tokens, own)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("beit-shared", "rel_pos_bias"),
        ("relpos", "blocks.0.attn.rel_pos"),
        ("relpos-shared", "shared_rel_pos"),
        ("relpos-swin", "blocks.0.attn.rel_pos"),
        ("relpos-table", "blocks.0.attn.rel_pos"),
    ],
)
def test_a_relative_bias_is_what_scores_get(name: str, path: str) -> None:
    """A softmax with it is that without it, times its exponential, normed."""
    model, plain = small_of(name), small_of(name)
    last = "relative_position_bias_table" if "mlp" not in (
        dict(plain.get_submodule(path).named_children())
    ) else "mlp.fc2.weight"  # fmt: skip
    state = plain.state_dict()
    state[f"{path}.{last}"] *= 0
    if f"{path}.mlp.fc2.bias" in state:
        state[f"{path}.mlp.fc2.bias"] *= 0
    plain.load_state_dict(state)
    with_it, without = (m(X, return_attn=[0])[1][0] for m in (model, plain))
    part = model.get_submodule(path)
    bias = part() if name == "beit-shared" else part.get_bias()
    want = without * np.exp(bias)
    want /= want.sum(-1, keepdims=True)
    np.testing.assert_allclose(with_it, want, rtol=1e-4, atol=1e-6)
    assert abs(with_it - without).max() > 1e-2


@pytest.mark.parametrize("name", ["relpos", "relpos-swin"])
def test_the_layers_of_a_bias_are_the_bias(name: str) -> None:
    part = small_of(name).blocks[0].attn.rel_pos
    mlp, ways = part.mlp, part.rel_coords_log
    assert ways.shape == (3, 5, 2)
    table = mlp(ways)
    x = mlp.drop1(mlp.act(mlp.fc1(ways)))
    np.testing.assert_array_equal(table, mlp.drop2(mlp.fc2(mlp.norm(x))))
    assert (mlp.act(ways) == np.maximum(ways, 0)).all()
    bias = part.get_bias()[0]
    here = part.bias_act(table) * (16 if name == "relpos-swin" else 1)
    np.testing.assert_allclose(bias[:, 0, 0], here[1, 2], rtol=1e-5)  # itself
    np.testing.assert_allclose(bias[:, 0, 5], here[0, 0], rtol=1e-5)  # to the last
    assert mlp.drop1.p == 0.125


def test_scores_of_another_shape_get_no_bias() -> None:
    part = small_of("relpos").blocks[0].attn.rel_pos
    with refused(ValueError, "(B, 4, 6, 6)", "(2, 4, 6, 5)"):
        part(recipe.picture((2, 4, 6, 5)))


def test_a_table_that_is_assigned_is_what_attention_adds() -> None:
    model = small_of("beit")
    tokens = recipe.picture((2, 7, 32))
    attn = model.blocks[0].attn
    before = attn(tokens)
    attn.relative_position_bias_table = attn.relative_position_bias_table * 3
    assert abs(attn(tokens) - before).max() > 1e-3
    with refused(AttributeError, "model.set_input_size"):
        attn.window_size = (3, 3)


def test_beits_block_is_another_class_of_the_same_name() -> None:
    block = small_of("beit").blocks[0]
    assert type(block) is names.BeitBlock is not names.Block
    assert type(block.attn) is names.BeitAttention is not names.Attention
    assert type(block).__name__ == "Block"
    assert type(small_of("distilled").blocks[0]) is names.Block


def test_a_list_of_blocks_does_not_compute_and_counts_from_0() -> None:
    blocks = small_of("eva").blocks
    assert [n for n, _ in blocks[1:].named_children()] == ["0"]
    assert blocks[1:][0] is blocks[1]
    assert repr(blocks[1:]).startswith("ModuleList(\n  (0): EvaBlock(")
    with refused(NotImplementedError, "blocks is a list of parts"):
        blocks(recipe.picture((2, 7, 32)))


def test_both_heads_of_a_distilled_model_are_replaced() -> None:
    model = small_of("distilled")
    head, dist = model.get_classifier()
    assert (head, dist) == (model.head, model.head_dist)
    kept = dist.weight
    model.reset_classifier(3)
    assert model.head_dist is not dist
    assert model.head_dist.out_features == 3
    np.testing.assert_array_equal(dist.weight, kept)
    assert model(X).shape == (2, 3)


def test_embeds_take_images_of_any_size() -> None:
    model = small_of("naflex-tokens")
    for size in ((32, 48), (64, 16)):
        x = recipe.picture((2, 3, *size))
        tokens, grid = model.embeds(x)
        assert grid == (size[0] // 16, size[1] // 16)
        want = model._forward(model._snapshot(), x, 0, taps=[(0, 0, "in")])[1][0]
        np.testing.assert_allclose(tokens, want, atol=1e-6)
    with refused(NotImplementedError, "patches of any size"):
        small_of("naflex").embeds.patch_interpolator(X)


@pytest.mark.parametrize(
    ("name", "train", "entry"),
    [
        ("distilled", "head", ("features", 0)),
        ("distilled", ["dist_token"], ("images", 0)),
        ("eva", "head", ("pre_logits", 0)),
        ("eva-mixed", ["rope.freqs"], ("block", 0)),
        ("beit-shared", ["rel_pos_bias.relative_position_bias_table"], ("block", 0)),
        ("relpos-shared", ["shared_rel_pos.mlp.fc1.weight"], ("block", 0)),
        ("beit", ["blocks.1.attn.relative_position_bias_table"], ("block", 1)),
        ("naflex", ["embeds.proj.bias"], ("images", 0)),
    ],
)
def test_where_training_begins(name: str, train: Any, entry: Any) -> None:
    part = part_of(small_of(name)._snapshot(), train)
    assert (part.entry, part.block) == entry
    heads = ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")
    if train == "head":
        assert part.names == heads[: 4 if name == "distilled" else 2]
    else:
        assert part.names == tuple(train)


@pytest.mark.parametrize("name", CONCEPTS)
def test_a_model_shows_itself(name: str) -> None:
    """Its summary and its HTML."""
    model = small_of(name)
    summary = model.summary(X.shape)
    told = f"class: {type(model).__name__}" in str(summary)
    assert told == (name != "conv-stem")  # of a VisionTransformer as ever
    assert sum(row.params for row in summary.rows) == summary.params
    assert summary.output == model(X).shape
    html = model._repr_html_()
    assert type(model.blocks[0]).__name__ in html
