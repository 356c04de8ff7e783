# SPDX-License-Identifier: Apache-2.0
"""Training of timm's other plain classes, without torch: what tests/timm compares with
autograd is held to differences of the loss here."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from golden import recipe

import vitpool
from vitpool.checkpoint.drawn import drawn
from vitpool.train import Trainer, gradients

SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "num_heads": 2,
    "depth": 2,
    "num_classes": 5,
    "img_size": (48, 64),
}
GRID = {"img_size": None, "pos_embed_grid_size": (3, 4)}
SHARED = {"use_rel_pos_bias": True, "use_shared_rel_pos_bias": True}
NAMES: dict[str, dict[str, Any]] = {
    "eva_giant_patch14_224": {"img_size": (42, 56)},  # q_bias and v_bias
    "eva02_enormous_patch14_clip_224": {"img_size": (42, 56)},  # norms behind
    "eva02_base_patch14_448": {"img_size": (42, 56)},  # three matrices, SwiGLU
    "vit_pe_core_tiny_patch16_384": {},  # rotated, a pool of its own heads
    "vit_small_patch16_rope_mixed_ape_224": {},  # learned frequencies
    "vit_small_patch16_dinov3": {},  # halves turned
    "vit_base_patch16_sapiens2": {  # heads that share keys
        "num_heads": 4,
        "depth": 3,
        "num_kv_heads": (None, 2, None),
        "rope_rescale_coords": 1,
    },
    "deit_tiny_distilled_patch16_224": {},  # two heads
    "beit_base_patch16_224": SHARED,  # tables
    "vit_relpos_small_patch16_224": {},  # an MLP of distances for each block
    "vit_srelpos_small_patch16_224": {},  # one for all
    "vit_relpos_base_patch32_plus_rpn_256": {"img_size": (96, 128)},  # norms behind
    "naflexvit_base_patch16_gap": GRID,
}
Y = np.array([0, 3, 1, 4])


def built(name: str, **extra: Any) -> tuple[Any, np.ndarray]:
    """A model with drawn weights, and pictures for it."""
    options = SMALL | NAMES[name] | extra
    model = vitpool.create_model(name, seed=0, **options)
    shapes = model.param_shapes().items()
    model.load_state_dict({key: drawn(key, shape, 1) for key, shape in shapes})
    size = options["img_size"] or (48, 64)
    return model, recipe.picture((len(Y), 3, *size))


def loss_of(model: Any, x: np.ndarray) -> float:
    logits = np.asarray(model(x), np.float64)
    logits -= logits.max(1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return float(-logs[np.arange(len(Y)), Y].mean())


def kind_of(name: str) -> str:
    return re.sub(r"^blocks\.\d+\.", "blocks.", name)


@pytest.mark.parametrize("name", NAMES)
def test_every_gradient_is_the_slope_of_the_loss(name: str) -> None:
    """Along itself, for the parameters of each kind together."""
    model, x = built(name)
    value, grads = gradients(model, x, Y)
    assert value == pytest.approx(loss_of(model, x), rel=1e-5)
    assert list(grads) == list(model.param_shapes())
    state = model.state_dict()
    largest = max(float(np.abs(g).max()) for g in grads.values())
    nothing: set[str] = set()
    for kind in dict.fromkeys(map(kind_of, grads)):
        names = [n for n in grads if kind_of(n) == kind]
        length = np.sqrt(sum(float((grads[n].astype("f8") ** 2).sum()) for n in names))
        if length < 1e-5 * largest:
            nothing.add(kind)
            continue
        step = min(2e-3 / length, 0.05)
        sides = []
        for sign in (1, -1):
            moved = {n: state[n] + sign * step / length * grads[n] for n in names}
            model.load_state_dict(state | moved)
            sides.append(loss_of(model, x))
        slope = (sides[0] - sides[1]) / (2 * step)
        assert slope == pytest.approx(length, rel=0.03), kind
    # what is added to all scores of a query changes no weight
    ends = "attn.k_proj.bias", "rel_pos.mlp.fc2.bias"
    assert not [kind for kind in nothing if not kind.endswith(ends)]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_on_any_number_of_threads(name: str) -> None:
    model, x = built(name)
    before = vitpool.get_num_threads()
    rates = {"proj_drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_rate": 0.1}
    found = []
    try:
        for threads in (1, 2, 3):
            vitpool.set_num_threads(threads)
            found.append(gradients(model, x, Y, seed=3, **rates))
    finally:
        vitpool.set_num_threads(before)
    for value, grads in found[1:]:
        assert value == found[0][0]
        for key, array in grads.items():
            assert array.tobytes() == found[0][1][key].tobytes(), key


@pytest.mark.parametrize("name", NAMES)
def test_pictures_one_by_one_and_blocks_again_give_the_same(name: str) -> None:
    model, x = built(name)
    value, grads = gradients(model, x, Y)
    for how in ({"memory": 1}, {"checkpointing": True}):
        again, others = gradients(model, x, Y, **how)
        assert again == pytest.approx(value, rel=1e-5)
        for key, array in grads.items():
            near = 1e-5 * float(np.abs(array).max()) + 1e-8
            np.testing.assert_allclose(others[key], array, rtol=0, atol=near)


@pytest.mark.parametrize("part", ["head", "pool", 1, "all"])
@pytest.mark.parametrize("name", NAMES)
def test_every_part_of_every_class_trains(name: str, part: Any) -> None:
    model, x = built(name)
    before, loss = model.state_dict(), loss_of(model, x)
    trainer = Trainer(model, part, epochs=6, batch_size=4, lr=1e-3, seed=0)
    rows = trainer.fit(x, Y, progress=False)
    assert rows[-1]["loss"] < rows[0]["loss"]
    moved = {k for k, v in model.state_dict().items() if (v != before[k]).any()}
    assert moved <= set(trainer.part.names)
    assert {n for n in trainer.part.names if n.startswith("head")} <= moved
    assert trainer.evaluate(x, Y)["loss"] < loss


def test_both_heads_of_the_distilled_model_have_half_of_the_loss() -> None:
    model, x = built("deit_tiny_distilled_patch16_224")
    _, grads = gradients(model, x, Y, train="head")
    assert list(grads) == [
        *("head.weight", "head.bias"),
        *("head_dist.weight", "head_dist.bias"),
    ]
    np.testing.assert_array_equal(grads["head.bias"], grads["head_dist.bias"])
    logits = np.asarray(model(x), np.float64)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    want = (odds - np.eye(5)[Y]).mean(0) / 2
    np.testing.assert_allclose(grads["head.bias"], want, atol=1e-6)


@pytest.mark.parametrize("size", [(32, 64), (96, 32), (32, 96)])
def test_rotated_blocks_train_at_their_own_size_alone(size: tuple[int, int]) -> None:
    """Tokens do not tell of a grid of as many patches (96 x 32) which one it is."""
    model, _ = built("vit_small_patch16_dinov3")
    x = recipe.picture((len(Y), 3, *size))
    for part in (1, 2):
        with pytest.raises(ValueError, match=r"own 3 x 4: set_input_size"):
            gradients(model, x, Y, train=part)
        with pytest.raises(ValueError, match=r"own 3 x 4: set_input_size"):
            Trainer(model, part, epochs=1).fit(x, Y, progress=False)
    for part in ("head", "pool", "all", ["norm.weight"]):
        assert np.isfinite(gradients(model, x, Y, train=part)[0])
    if size != (96, 32):
        return
    tokens = np.zeros((len(Y), 5 + 12, 32), np.float32)
    assert np.isfinite(gradients(model, tokens, Y, train=1)[0])


def test_tokens_of_another_grid_are_refused() -> None:
    for name, said in (
        ("vit_small_patch16_dinov3", "rope must be given for another grid"),
        ("beit_base_patch16_224", "relative positions of this model"),
    ):
        model, _ = built(name)
        prefix = model.num_prefix_tokens
        with pytest.raises(ValueError, match=said):
            gradients(model, np.zeros((4, prefix + 8, 32), "f4"), Y, train=1)


@pytest.mark.parametrize(
    ("name", "extra", "how", "said"),
    [
        ("vit_small_patch16_dinov3", {}, {"patch_drop_rate": 0.5}, "0 with rope"),
        ("beit_base_patch16_224", {}, {"patch_drop_rate": 0.5}, "relative positions"),
        (
            "vit_relpos_small_patch16_224",
            {},
            {"pos_drop_rate": 0.5},
            "pos_drop must be 0 for VisionTransformerRelPos",
        ),
        (
            "deit_tiny_distilled_patch16_224",
            {},
            {"patch_drop_rate": 0.5},
            "patch_drop must be 0 for VisionTransformerDistilled",
        ),
        (
            "vit_base_patch16_sapiens2",
            {"rope_rescale_coords": 2},
            {"train": 1},
            "rope_rescale_coords=2.0.* build it with rope_rescale_coords=1",
        ),
        (
            "vit_small_patch16_dinov3",
            {"rope_shift_coords": 0.5},
            {},
            "build it with rope_shift_coords=0",
        ),
        (
            "naflexvit_base_patch16_gap",
            {"pos_embed_grid_size": (4, 4)},
            {},
            "'embeds.pos_embed': it is resampled",
        ),
    ],
)
def test_what_does_not_train_is_refused_by_name(
    name: str, extra: dict[str, Any], how: dict[str, Any], said: str
) -> None:
    model, x = built(name, **extra)
    with pytest.raises(ValueError, match=said):
        gradients(model, x, Y, **how)
    assert np.isfinite(gradients(model, x, Y, train="head")[0])


def test_factorized_positions_are_refused_by_name() -> None:
    options = SMALL | GRID
    model = vitpool.create_model("naflexvit_base_patch16_parfac_gap", seed=0, **options)
    x = recipe.picture((len(Y), 3, 48, 64))
    with pytest.raises(ValueError, match=r"pos_embed_y': factorized positions"):
        gradients(model, x, Y)
    names = [n for n in model.param_shapes() if "pos_embed" not in n]
    assert list(gradients(model, x, Y, train=names)[1]) == names


def test_the_core_refuses_a_rotary_table_that_nothing_reads() -> None:
    model, _ = built("vit_small_patch16_dinov3")
    table = model._rope(3, 4)
    targets = np.zeros((1, 5), np.float32)
    rows = np.zeros((1, 17, 32), np.float32)
    with pytest.raises(ValueError, match="rope must be None: no block runs"):
        model._gradients(rows, targets, {}, entry="features", rope=table)
    with pytest.raises(ValueError, match="rope must have shape"):
        model._gradients(rows, targets, {}, entry="block", rope=table[:-1])
    mixed, _ = built("vit_small_patch16_rope_mixed_ape_224")
    table = mixed._rope(4, 3)
    grads = {"rope.freqs": np.zeros(mixed.param_shapes()["rope.freqs"], np.float32)}
    rows = np.zeros((1, 13, 32), np.float32)
    with pytest.raises(ValueError, match=r"'rope.freqs' with rope"):
        mixed._gradients(rows, targets, grads, entry="block", rope=table)
    distilled, _ = built("deit_tiny_distilled_patch16_224")
    with pytest.raises(ValueError, match="two heads"):
        distilled._gradients(rows[:, 0], targets, {}, entry="pre_logits")
