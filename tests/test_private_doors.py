# SPDX-License-Identifier: Apache-2.0
"""What `vitpool._core` is given past the public classes is checked, too."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import BASE, X, refused, same, small

import vitpool
from vitpool import _core
from vitpool.config.family import CLASS_OPTIONS

NAN = float("nan")
FEATURES, PRE_LOGITS, LOGITS = 1, 2, 3


@pytest.fixture
def model() -> Any:
    return small(depth=2)


# -- _run --


@pytest.mark.parametrize("output", [4, -1, 2**31, 2**70])
def test_an_output_that_does_not_exist_is_refused(model: Any, output: int) -> None:
    with refused(ValueError, "output", output, model=model):
        model._run(X, output)


@pytest.mark.parametrize("output", [None, 1.0, True, "1", np.bool_(True)])
def test_an_output_is_an_integer(model: Any, output: Any) -> None:
    with refused(TypeError, "output must be an integer", model=model):
        model._run(X, output)


def test_numpy_integers_are_integers(model: Any) -> None:
    want = model(X)
    got = model._run(X, np.int64(3), depth=np.int8(2))
    assert got[0].tobytes() == want.tobytes()


@pytest.mark.parametrize("output", [0, FEATURES])
@pytest.mark.parametrize("pool", ["map", "prr"])
def test_weights_of_a_pool_that_does_not_run_are_refused(
    pool: str, output: int
) -> None:
    pooled = small(global_pool=pool)
    with refused(ValueError, "maps", model=pooled):
        pooled._run(X, output, maps=[(-1, 0)])
    weights = pooled._run(X, PRE_LOGITS, maps=[(-1, 0)])[2][0]
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


BAD_RUNS: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "depth beyond": (ValueError, "depth must be from 0 to 2, not 3", {"depth": 3}),
    "depth below": (ValueError, "depth must be from -1", {"depth": -2}),
    "depth huge": (ValueError, "depth", {"depth": 2**70}),
    "depth float": (TypeError, "depth must be an integer", {"depth": 1.0}),
    "depth None": (TypeError, "depth must be an integer", {"depth": None}),
    "taps of none": (ValueError, "no block runs", {"depth": 0, "taps": [(0, 0)]}),
    "maps of none": (ValueError, "no block runs", {"depth": 0, "maps": [(0, 0)]}),
    "tap beyond": (ValueError, "from 0 to 1, not 2", {"taps": [(2, 0)]}),
    "tap after depth": (ValueError, "from 0 to 0", {"depth": 1, "taps": [(1, 0)]}),
    "tap below": (ValueError, "a tap's block", {"taps": [(-1, 0)]}),
    "tap huge": (ValueError, "a tap's block", {"taps": [(2**64, 0)]}),
    "tap float": (TypeError, "a tap's block", {"taps": [(0.0, 0)]}),
    "tap alone": (TypeError, "taps must be (block, norm)", {"taps": [(0,)]}),
    "tap of four": (TypeError, "taps must be", {"taps": [(0, 0, "in", 0)]}),
    "tap nowhere": (ValueError, "'in', 'attn' or 'out'", {"taps": [(0, 0, "mlp")]}),
    "tap NUL": (ValueError, "place", {"taps": [(0, 0, "in\0")]}),
    "tap place 1": (TypeError, "place", {"taps": [(0, 0, 1)]}),
    "taps of ints": (TypeError, "taps must be a sequence of tuples", {"taps": [1]}),
    "taps of lists": (TypeError, "taps must be a sequence", {"taps": [[0, 0]]}),
    "taps int": (TypeError, "taps must be a sequence", {"taps": 3}),
    "taps str": (TypeError, "taps must be a sequence", {"taps": "ab"}),
    "taps None": (TypeError, "taps must be a sequence", {"taps": None}),
    "taps dict": (TypeError, "taps must be a sequence", {"taps": {(0, 0): 1}}),
    "map beyond": (ValueError, "from 0 to 1, not 2", {"maps": [(2, 0)]}),
    "map below": (ValueError, "a map's block", {"maps": [(-2, 0)]}),
    "map huge": (ValueError, "a map's block", {"maps": [(2**63, 0)]}),
    "map's second": (ValueError, "from 0 to 0", {"maps": [(0, 1)]}),
    "map's below": (ValueError, "a map's attention", {"maps": [(0, -1)]}),
    "map's float": (TypeError, "a map's attention", {"maps": [(0, 0.0)]}),
    "map of no pool": (ValueError, "attn_pool", {"maps": [(-1, 0)]}),
    "map of three": (TypeError, "maps must be (block, which)", {"maps": [(0, 0, 0)]}),
    "maps None": (TypeError, "maps must be a sequence", {"maps": None}),
    "pos_embed flat": (ValueError, "pos_embed", {"pos_embed": np.zeros((5, 32), "f4")}),
    "pos_embed turned": (
        ValueError,
        "pos_embed must have shape (1, 5, 32)",
        {"pos_embed": np.zeros((1, 32, 5), "f4")},
    ),
    "pos_embed twice": (
        ValueError,
        "pos_embed must have shape (1, 5, 32)",
        {"pos_embed": np.zeros((5, 1, 32), "f4")},
    ),
    "pos_embed int": (TypeError, "pos_embed", {"pos_embed": np.zeros((1, 5, 32), int)}),
    "images inside": (ValueError, "(B, N, 32)", {"first": 1}),
    "mask and causal": (
        ValueError,
        "attn_mask",
        {"attn_mask": np.zeros((5, 5), "f4"), "is_causal": True},
    ),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_what_cannot_run_is_refused(model: Any, name: str) -> None:
    error, words, arguments = BAD_RUNS[name]
    with refused(error, words, model=model):
        model._run(X, LOGITS, **arguments)


def test_positions_that_are_not_added_are_refused() -> None:
    without = small(pos_embed="none")
    with refused(ValueError, "pos_embed must be None", model=without):
        without._run(X, LOGITS, pos_embed=np.zeros((1, 5, 32), "f4"))


def test_a_list_that_lies_about_itself_is_refused(model: Any) -> None:
    class Liar(list[Any]):
        def __len__(self) -> int:
            return 7

    class Angry:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, i: int) -> Any:
            raise OSError("no item")

    assert len(model._run(X, LOGITS, taps=Liar([(0, 0)]))[1]) == 1
    with refused(OSError, "no item", model=model):
        model._run(X, LOGITS, taps=Angry())


# -- from tokens --


@pytest.mark.parametrize(
    ("words", "x", "arguments"),
    [
        ("from 0 to depth 2, not 3", np.zeros((1, 5, 32)), {"first": 3}),
        ("from 0 to depth 1, not 2", np.zeros((1, 5, 32)), {"first": 2, "depth": 1}),
        ("first must be from 0", np.zeros((1, 5, 32)), {"first": -1}),
        ("first must be from 0", np.zeros((1, 5, 32)), {"first": 2**64}),
        ("(B, N, 32)", np.zeros((1, 5, 31)), {"first": 0}),
        ("from 1 to", np.zeros((1, 0, 32)), {"first": 0}),
        (
            "blocks that run, from 1",
            np.zeros((1, 5, 32)),
            {"first": 1, "taps": [(0, 0)]},
        ),
        (
            "pos_embed must be None",
            np.zeros((1, 5, 32)),
            {"first": 0, "pos_embed": np.zeros((1, 5, 32), "f4")},
        ),
    ],
)
def test_tokens_that_do_not_go_in_are_refused(
    model: Any, words: str, x: Any, arguments: Any
) -> None:
    with refused(ValueError, words, model=model):
        model._run(x, LOGITS, **arguments)


def test_a_pool_of_patches_needs_one() -> None:
    average = small(global_pool="avg")
    with refused(ValueError, "from 2 to", model=average):
        average._run(np.zeros((1, 1, 32), "f4"), LOGITS, first=0)
    assert average._run(np.zeros((1, 1, 32), "f4"), FEATURES, first=0)[0].shape == (
        1,
        1,
        32,
    )


def test_no_tokens_of_no_images(model: Any) -> None:
    out, taps, maps, _ = model._run(
        np.zeros((0, 5, 32), "f4"), LOGITS, first=0, taps=[(1, 0)], maps=[(1, 0)]
    )
    assert out.shape == (0, 10)
    assert taps[0].shape == (0, 5, 32)
    assert maps[0].shape == (0, 2, 5, 5)


# -- building and changing --


OPTIONS = vitpool.VisionTransformer(**BASE, seed=0)._options()

BAD_OPTIONS: dict[str, tuple[type[Exception], str, dict[Any, Any]]] = {
    "unknown": (TypeError, "'bogus' is no option", {"bogus": 1}),
    "no str": (TypeError, "3 is no option", {3: 1}),
    "enum": (ValueError, "'Block', 'ResPostBlock'", {"block_fn": "Blok"}),
    "enum NUL": (ValueError, "block_fn", {"block_fn": "Block\0"}),
    "enum int": (TypeError, "block_fn must be a str, not int", {"block_fn": 1}),
    "enum surrogate": (ValueError, "act_layer", {"act_layer": "\ud800"}),
    "real str": (TypeError, "norm_eps must be a number, not str", {"norm_eps": "1"}),
    "real large": (ValueError, "norm_eps", {"norm_eps": 1e300}),
    "real huge": (ValueError, "norm_eps", {"norm_eps": 2**2000}),
    "real NaN": (ValueError, "init_values", {"init_values": NAN}),
    "size float": (TypeError, "depth", {"depth": 1.0}),
    "size below": (ValueError, "depth", {"depth": -1}),
    "size huge": (ValueError, "embed_dim", {"embed_dim": 2**70}),
    "pair list": (TypeError, "img_size", {"img_size": [32, 32]}),
    "pair of three": (TypeError, "img_size", {"img_size": (32, 32, 32)}),
    "pool None": (TypeError, "global_pool", {"global_pool": None}),
    "pool unknown": (ValueError, "'', 'avg', 'avgmax'", {"global_pool": "mean"}),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_that_are_none_are_refused(name: str) -> None:
    error, words, changed = BAD_OPTIONS[name]
    with refused(error, words):
        _core.VisionTransformer(OPTIONS | changed)
    model = small()
    with refused(error, words, model=model):
        model._replace(model._options() | changed, {})


def test_an_option_that_is_missing_is_named() -> None:
    for key in OPTIONS.keys() - CLASS_OPTIONS.keys():
        rest = {k: v for k, v in OPTIONS.items() if k != key}
        with refused(TypeError, key):
            _core.VisionTransformer(rest)


def test_what_only_other_classes_have_may_be_missing() -> None:
    rest = {k: v for k, v in OPTIONS.items() if k not in CLASS_OPTIONS}
    assert _core.VisionTransformer(rest)._options() == OPTIONS
    assert {k: OPTIONS[k] for k in CLASS_OPTIONS} == CLASS_OPTIONS


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (TypeError, "weights must be a mapping, not list", {"weights": []}),
        (TypeError, "weights must be a mapping, not int", {"weights": 1}),
        (ValueError, "weights lacks", {"weights": {}}),
        (ValueError, "seed", {"seed": -1}),
        (ValueError, "seed", {"seed": 2**64}),
        (TypeError, "seed", {"seed": 0.0}),
        (ValueError, "'moco' or 'reset', not 'jux'", {"weight_init": "jux"}),
        (TypeError, "", {"weight_init": None}),
    ],
)
def test_constructor_arguments_are_checked(
    error: type[Exception], words: str, arguments: Any
) -> None:
    with refused(error, words):
        _core.VisionTransformer(OPTIONS, **arguments)


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (TypeError, "options must be a dict", (1, {})),
        (TypeError, "weights must be a mapping, not NoneType", (None, None)),
        (TypeError, "weights must be a mapping, not list", (None, ["head.bias"])),
        (TypeError, "head.bias", (None, {"head.bias": "ten"})),
        (ValueError, "head.bias", (None, {"head.bias": np.zeros(9, "f4")})),
        (TypeError, "int", (None, {}, 5)),
    ],
)
def test_arguments_of_replace_are_checked(
    model: Any, error: type[Exception], words: str, arguments: Any
) -> None:
    with refused(error, words, model=model):
        model._replace(*arguments)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_of_a_core_reset_have_64_bits(seed: int) -> None:
    core = _core.VisionTransformer(OPTIONS)
    with refused(ValueError, "seed", seed):
        core.reset_classifier(3, seed=seed)
    core.reset_classifier(3, seed=2**64 - 1)


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (ValueError, (-1, 32)),
        (ValueError, (32, -1)),
        (ValueError, (0, 32)),
        (ValueError, (2**70, 32)),
        (TypeError, (32.0, 32)),
        (TypeError, (32, "32")),
        (TypeError, (32,)),
    ],
)
def test_sizes_of_a_grid_are_checked(
    model: Any, error: type[Exception], arguments: Any
) -> None:
    with pytest.raises(error):
        model._grid(*arguments)


def test_adopting_is_for_fresh_models_and_of_models(model: Any) -> None:
    fresh = _core.VisionTransformer.__new__(_core.VisionTransformer)
    for other in (None, object(), 1, vitpool):
        with refused(TypeError, "other must be a VisionTransformer"):
            fresh._adopt(other)
    with refused(RuntimeError, "has not been initialised"):
        fresh._adopt(fresh)
    with refused(RuntimeError, "already initialised", model=model):
        model._adopt(model)
    fresh._adopt(model)
    assert fresh._serial == model._serial


@pytest.mark.parametrize("other", [None, object(), 1, vitpool])
def test_what_is_committed_is_a_model(model: Any, other: Any) -> None:
    with refused(TypeError, "before must be a VisionTransformer", model=model):
        model._commit(other, model)
    with refused(TypeError, "after must be a VisionTransformer", model=model):
        model._commit(model, other)


def test_a_model_without_init_raises_and_nothing_else() -> None:
    bare: Any = _core.VisionTransformer.__new__(_core.VisionTransformer)
    calls: list[Any] = [
        lambda: bare._run(X, LOGITS),
        lambda: bare.forward_head(np.zeros((1, 5, 32), "f4")),
        lambda: bare.pool(np.zeros((1, 5, 32), "f4")),
        lambda: bare._run_part("norm", np.zeros((1, 32), "f4")),
        lambda: bare.reset_classifier(3),
        lambda: bare._replace(None, {}),
        lambda: bare._commit(small(), small()),
        lambda: small()._commit(bare, small()),
        lambda: small()._commit(small(), bare),
        lambda: bare._grid(32, 32),
        bare._lambdas,
        lambda: bare.get_parameter("head.bias"),
        bare._options,
        bare._snapshot,
        bare.param_shapes,
        bare.untrained,
        bare.memory_bytes,
        bare.release_workspace,
        lambda: bare._serial,
        lambda: bare._pool_serial,
    ]
    for call in calls:
        with refused(RuntimeError, "has not been initialised"):
            call()


@pytest.mark.parametrize("name", ["", "head", "head.bias\0", "\ud800", "HEAD.BIAS"])
def test_names_of_no_parameter_are_key_errors(model: Any, name: str) -> None:
    with pytest.raises(KeyError):
        _core.VisionTransformer.get_parameter(model, name)


def test_parameters_are_found_in_any_order(model: Any) -> None:
    state = model.state_dict()
    names = list(state)
    for order in (names, names[::-1], names[::2] + names[1::2]):
        core = model._snapshot()
        assert same(
            {n: core.get_parameter(n) for n in order}, {n: state[n] for n in order}
        )


# -- _run_part --


BAD_PARTS: dict[str, tuple[type[Exception], str, tuple[Any, ...]]] = {
    "no path": (TypeError, "path must be a str, not int", (3, X)),
    "NUL": (KeyError, "norm", ("norm\0", X)),
    "surrogate": (KeyError, "", ("\ud800", X)),
    "no such block": (KeyError, "blocks.2.attn", ("blocks.2.attn", X[0])),
    "not alone": (KeyError, "'head_drop' that computes alone", ("head_drop", X)),
    "a parameter": (KeyError, "norm.weight", ("norm.weight", X[0, 0])),
    "width": (ValueError, "(..., 32), not (2, 31)", ("norm", np.ones((2, 31), "f4"))),
    "no row": (ValueError, "(..., 32), not ()", ("norm", np.float32(1))),
    "rows to attention": (ValueError, "(B, N, 32)", ("blocks.0.attn", X[0, 0])),
    "no tokens": (ValueError, "from 1 to", ("blocks.0.attn", X[:, 0, :0])),
    "integers": (TypeError, "x must", ("norm", np.ones((2, 32), int))),
    "a size": (ValueError, "32 x 32", ("patch_embed", X[:, :, :16])),
    "channels": (ValueError, "3 channels", ("patch_embed", X[:, :2])),
    "no patch": (ValueError, "1 to 65536", ("patch_embed.proj", X[:, :, :8])),
    "a mask": (ValueError, "norm takes no mask", ("norm", X, np.ones((4, 4), bool))),
    "causal": (ValueError, "head takes no mask", ("head", X, None, True)),
    "two masks": (
        ValueError,
        "one or the other",
        ("blocks.0.attn", X[:, 0], np.ones((32, 32), bool), True),
    ),
    "a short mask": (
        ValueError,
        "attn_mask",
        ("blocks.0.attn", X[:, 0], np.ones((3, 3), bool)),
    ),
}


@pytest.mark.parametrize("name", BAD_PARTS)
def test_parts_that_cannot_run_alone_are_refused(model: Any, name: str) -> None:
    error, words, arguments = BAD_PARTS[name]
    with refused(error, words, model=model):
        model._run_part(*arguments)


def test_rows_of_a_part_have_any_leading_shape(model: Any) -> None:
    rows = recipe.picture((2, 3, 5, 32))
    for path, width in [("norm", 32), ("head", 10), ("blocks.0.mlp", 32)]:
        want = model._run_part(path, rows)
        assert want.shape == (2, 3, 5, width)
        for one in (rows[1, 2, 3], rows[1:, :, 2], rows[:, :0]):
            assert model._run_part(path, one).shape == (*one.shape[:-1], width)
        assert model._run_part(path, rows[1, 2, 3]).tobytes() == want[1, 2, 3].tobytes()
        assert model._run_part(path, rows[:, ::2]).tobytes() == want[:, ::2].tobytes()
    number = model._run_part("blocks.0.mlp.act", np.float32(0.5))
    assert number.shape == ()
    assert 0.34 < number < 0.35


# -- the module's functions --


PIXELS = np.zeros((2, 3, 3), np.uint8)


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (TypeError, (None, [0] * 3, [1] * 3)),
        (TypeError, (PIXELS.astype(int), [0] * 3, [1] * 3)),
        (ValueError, (PIXELS[0], [0] * 3, [1] * 3)),
        (ValueError, (PIXELS, [0] * 2, [1] * 3)),
        (ValueError, (PIXELS, [0] * 3, [1] * 4)),
        (ValueError, (PIXELS, [[0] * 3], [1] * 3)),
        (ValueError, (PIXELS, 0.5, [1] * 3)),
        (ValueError, (PIXELS, [0] * 3, [1, 0, 1])),
        (ValueError, (PIXELS, [0] * 3, [1, 1e-60, 1])),
        (ValueError, (PIXELS, [0, NAN, 0], [1] * 3)),
        (ValueError, (PIXELS, [0] * 3, [1, float("inf"), 1])),
        (ValueError, (PIXELS, [0, 1e300, 0], [1] * 3)),
        (TypeError, (PIXELS, [0, 1j, 0], [1] * 3)),
        (TypeError, (PIXELS, np.array([0, 1j, 0]), [1] * 3)),
        (ValueError, (PIXELS, [None] * 3, [1] * 3)),
        (TypeError, (PIXELS, [0] * 3)),
    ],
)
def test_means_and_deviations_are_checked(
    error: type[Exception], arguments: Any
) -> None:
    with pytest.raises(error):
        _core.normalize_u8(*arguments)


def test_whole_numbers_are_means_and_deviations() -> None:
    pixels = np.full((1, 1, 3), 255, np.uint8)
    got = _core.normalize_u8(pixels, (0, 1, 2), [1, 2, 4])
    assert got.ravel().tolist() == [1, 0, -0.25]


@pytest.mark.parametrize("n", [-2, 2**40, 1.0, None, "1"])
def test_switches_for_tests_are_checked(n: Any) -> None:
    error = ValueError if isinstance(n, int) else TypeError
    with refused(error, "n must be"):
        _core._fail_allocations_after(n)
    for name in ("chunk_bytes", "block_keys", "block_queries"):
        if n is not None:
            with refused(error, name):
                _core._set_limits(**{name: n})
    with refused(TypeError):
        _core._set_limits(other=1)  # type: ignore[call-arg]


def test_refused_calls_keep_no_references(model: Any) -> None:
    x, taps, maps = X.copy(), [(7, 0)], [(7, 0)]

    def counts_after(calls: int) -> list[int]:
        for _ in range(calls):
            for arguments in ({"taps": taps}, {"maps": maps}):
                with pytest.raises(ValueError, match="run"):
                    model._run(x, LOGITS, **arguments)
        return [sys.getrefcount(a) for a in (x, taps, taps[0], maps, maps[0])]

    assert counts_after(1) == counts_after(20)
