# SPDX-License-Identifier: Apache-2.0
"""Many probes in one pass: each as if it were alone, and the best one kept."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
from models import copies, refused, same, small, unchanged

import vitpool
from vitpool.labels import probabilities
from vitpool.train import DINOV2, VJEPA2, Probes, Trainer, TrainingDiverged, features
from vitpool.train.banks import fresh_head
from vitpool.train.batch_norm import BatchNorm

CLASSES = 3
RNG = np.random.default_rng(0)
Y = RNG.integers(0, CLASSES, 60)
X = RNG.standard_normal((60, 3, 32, 32), "f4") + Y[:, None, None, None].astype("f4")
NEW = (X[40:], Y[40:])
X, Y = X[:40], Y[:40]
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.05, "momentum": 0.8},
    "adamw": {"lr": 1e-2, "betas": (0.8, 0.99)},
    "lars": {"lr": 0.3},
}


def model_of(**options: Any) -> Any:
    return small(num_classes=CLASSES, **{"global_pool": "avg", **options})


def probes_of(model: Any, **options: Any) -> Probes:
    return Probes(model, **{"lr": 0.05, "epochs": 3, "batch_size": 16, **options})


def best_of(probes: Probes) -> dict[str, Any]:
    (best,) = [row for row in probes.results if row["best"]]
    return best


# -- each as if it were alone --


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("train", ["head", "pool"])
def test_a_probe_among_many_is_bit_for_bit_what_a_trainer_makes(
    train: str, optimizer: str
) -> None:
    pool = "avg" if train == "head" else "map"
    own = OPTIMIZERS[optimizer]
    common: dict[str, Any] = {
        **own,
        "optimizer": optimizer,
        "epochs": 3,
        "batch_size": 16,
        "warmup": 1,
        "seed": 5,
        "weight_decay": 0.1,
        "label_smoothing": 0.1,
    }
    trained = model_of(global_pool=pool, fc_norm=False, final_norm=True)
    grid = copy.copy(trained)
    trained.set_head(*fresh_head(CLASSES, 32, 5))
    Trainer(trained, train, layer_decay=1.0, **common).fit(X, Y, progress=False)
    # Validated by what the trainer's model says: no other answer has a smaller loss.
    labels = probabilities(trained(NEW[0]))
    many = {**common, "lr": [own["lr"] / 50, own["lr"]], "weight_decay": [0.1, 0.9]}
    probes = Probes(grid, pool, **many)
    assert len(probes) == 4
    probes.fit(X, Y, validation=(NEW[0], labels))
    best = best_of(probes)
    assert (best["lr"], best["weight_decay"]) == (own["lr"], 0.1)
    assert best["val_accuracy"] == 1.0
    assert same(copies(grid), copies(trained))


@pytest.mark.parametrize("norm", ["fc_norm", "norm"])
def test_pools_side_by_side_are_each_alone(norm: str) -> None:
    """Of models that norm before the pool, and of those that norm behind it."""
    model = model_of(fc_norm=norm == "fc_norm", depth=2)
    pools = ["max", "token", "avg", "map"]
    lone = {}
    for pool in pools:
        alone = probes_of(copy.copy(model), pool=pool, lr=[0.05, 0.01])
        lone[pool] = alone.fit(X, Y, validation=NEW)
    together = probes_of(model, pool=pools, lr=[0.05, 0.01])
    rows = together.fit(X, Y, validation=NEW)
    assert [(r["pool"], r["lr"]) for r in rows] == [
        (pool, lr) for pool in pools for lr in (0.05, 0.01)
    ]
    for row in rows:
        (alone_row,) = [r for r in lone[row["pool"]] if r["lr"] == row["lr"]]
        for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert row[key] == pytest.approx(alone_row[key], rel=1e-5), key


@pytest.mark.parametrize("pool", ["avg", "map"])
def test_threads_do_not_change_a_bit(pool: str) -> None:
    before = vitpool.get_num_threads()
    made = []
    try:
        for threads in (1, 3):
            vitpool.set_num_threads(threads)
            model = model_of(global_pool="map")
            probes = probes_of(model, pool=pool, lr=[0.05, 0.02])
            made.append((probes.fit(X, Y, validation=NEW), copies(model)))
    finally:
        vitpool.set_num_threads(before)
    assert made[0][0] == made[1][0]
    assert same(made[0][1], made[1][1])


# -- the best is the model's --


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("fc_norm", [False, True])
@pytest.mark.parametrize("pool", ["avg", "token", "max"])
def test_the_models_outputs_are_those_that_were_validated(
    pool: str, fc_norm: bool, batch_norm: bool
) -> None:
    model = model_of(fc_norm=fc_norm, global_pool="avg")
    probes = probes_of(
        model, pool=pool, lr=[1e-3, 0.05], batch_norm=batch_norm, epochs=4
    )
    probes.fit(X, Y, validation=NEW)
    best = best_of(probes)
    assert model.global_pool == pool
    logits = model(NEW[0]).astype(np.float64)
    accuracy = (logits.argmax(1) == NEW[1]).mean()
    assert accuracy == pytest.approx(best["val_accuracy"], abs=1e-9)
    shifted = logits - logits.max(1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    loss = -log[np.arange(len(log)), NEW[1]].mean()
    assert loss == pytest.approx(best["val_loss"], rel=1e-5)
    assert best["val_accuracy"] == max(r["val_accuracy"] for r in probes.results)


def test_the_best_is_by_accuracy_and_then_by_loss() -> None:
    probes = probes_of(model_of(), lr=[1e-4, 0.1, 0.05, 2e-4], pool=["avg", "map"])
    rows = probes.fit(X, Y, validation=NEW)
    want = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert want not in (rows[0], rows[-1])  # which a mistake would take
    assert best_of(probes) is want


def test_the_frozen_part_stays_and_an_attention_pool_is_added_where_there_is_none() -> (
    None
):
    model = model_of(global_pool="token")
    before = copies(model)
    assert model.attn_pool is None
    probes_of(model, pool="map", lr=[0.05, 0.01]).fit(X, Y, validation=NEW)
    after = copies(model)
    assert model.attn_pool is not None
    assert not model.untrained()
    for name, array in before.items():
        if not name.startswith("head."):
            np.testing.assert_array_equal(after[name], array)


def test_the_models_own_attention_pool_is_where_training_begins() -> None:
    model = model_of(global_pool="map")
    latent = np.array(model.attn_pool.latent)
    probes_of(model, pool="map", lr=1e-9, optimizer="adamw", epochs=1).fit(X, Y)
    np.testing.assert_allclose(model.attn_pool.latent, latent, atol=1e-6)


# -- batch norm --


def test_batch_norm_keeps_torchs_running_statistics() -> None:
    norm = BatchNorm(4)
    mean, var = np.zeros(4), np.ones(4)
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((5, 4), "f4") * 3 + 2
        got = norm.train(x)
        rows = x.astype("f8")
        want = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-6)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
        mean = 0.9 * mean + 0.1 * rows.mean(0)
        var = 0.9 * var + 0.1 * rows.var(0, ddof=1)
    np.testing.assert_allclose(norm.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(norm.var, var, rtol=1e-12)
    weight = RNG.standard_normal((2, 4), "f4")
    bias = RNG.standard_normal(2, "f4")
    want = (rows - mean) / np.sqrt(var + 1e-6) @ weight.T + bias
    folded, offset = norm.folded(weight, bias)
    np.testing.assert_allclose(rows @ folded.T + offset, want, rtol=1e-5, atol=1e-5)


def test_batch_norm_makes_probes_indifferent_to_the_scale_of_features() -> None:
    rows = RNG.standard_normal((40, 32), "f4") + Y[:, None]
    found = []
    for scale in (np.ones(32, "f4"), np.geomspace(0.01, 100, 32, dtype="f4")):
        probes = probes_of(model_of(), batch_norm=True, epochs=4)
        probes.fit(rows * scale, Y, validation=(rows * scale, Y))
        found.append(best_of(probes)["val_loss"])
    assert found[0] == pytest.approx(found[1], rel=0.05)


def test_a_last_batch_of_one_is_left_out_under_batch_norm() -> None:
    probes = probes_of(model_of(), batch_norm=True, batch_size=13)  # 13, 13, 13, 1
    probes.fit(X, Y)
    assert np.isfinite(best_of(probes)["loss"])


# -- what comes in --


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_images_tokens_and_vectors_train_the_same_probes(dtype: Any) -> None:
    model = model_of(global_pool="avg", fc_norm=False)
    other = copy.copy(model)
    other.reset_classifier(CLASSES, "map", add_attn_pool=True)
    tokens = features(other, X, train="pool")
    vectors = features(model, X, train="head")
    new = features(other, NEW[0], train="pool"), features(model, NEW[0], train="head")
    rows = []
    for x, held in ((X, NEW[0]), (tokens, new[0]), (tokens[:], new[0][:])):
        probes = probes_of(copy.copy(model), lr=[0.05, 0.01])
        rows.append(probes.fit(x, Y, validation=(held, NEW[1])))
    probes = probes_of(copy.copy(model), lr=[0.05, 0.01])
    rows.append(probes.fit(vectors, Y, validation=(new[1], NEW[1])))
    for others in rows[1:]:
        for a, b in zip(rows[0], others, strict=True):
            assert b["val_loss"] == pytest.approx(a["val_loss"], rel=1e-4)
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    probes = probes_of(copy.copy(model), lr=[0.05, 0.01])
    half = probes.fit(X, Y, validation=NEW, dtype=dtype, memory=0)
    for a, b in zip(rows[0], half, strict=True):
        assert b["val_loss"] == pytest.approx(a["val_loss"], rel=1e-2)


def test_vectors_of_the_models_own_attention_pool_train_the_head_alone() -> None:
    model = model_of(global_pool="map")
    before = copies(model)
    vectors = features(model, X, train="head")
    probes_of(model).fit(vectors, Y)
    assert {
        k for k, v in copies(model).items() if not np.array_equal(v, before[k])
    } == {
        "head.weight",
        "head.bias",
    }


def test_pictures_that_are_left_out_leave_their_labels_out() -> None:
    model = vitpool.create_model("vit_digits", pretrained=True)
    paths = [str(path) for path in vitpool.samples()]
    labels = np.arange(10)
    rows = []
    for x, y in ((paths, labels), ([paths[0], __file__, *paths[1:]], None)):
        given = labels if y is not None else np.concatenate([[0, 9], labels[1:]])
        probes = probes_of(copy.copy(model), pool="avg", lr=0.01)
        if y is None:
            with pytest.warns(vitpool.transforms.ImageWarning):
                rows.append(probes.fit(x, given, on_error="skip"))
        else:
            rows.append(probes.fit(x, given))
    assert rows[0] == rows[1]


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse"])
def test_other_losses_train_too(loss: Any) -> None:
    soft = np.eye(CLASSES, dtype="f4")
    probes = probes_of(model_of(), lr=[0.05, 0.2], loss=loss, epochs=8)
    rows = probes.fit(X, soft[Y], validation=(NEW[0], soft[NEW[1]]))
    first = probes_of(model_of(), lr=1e-9, loss=loss).fit(X, soft[Y])
    assert rows[1]["loss"] < 0.8 * first[0]["loss"]
    assert (rows[0]["val_accuracy"] is None) == (loss == "mse")


# -- grids --


def test_learning_rates_are_what_was_given_unless_scaling_is_asked_for() -> None:
    plain = probes_of(model_of(), lr=[0.1], batch_size=64).fit(X, Y)
    scaled = probes_of(model_of(), lr=[0.4], batch_size=64, scale_lr=True).fit(X, Y)
    assert plain == scaled
    assert scaled[0]["lr"] == 0.1


@pytest.mark.parametrize(("preset", "count"), [(DINOV2, 13), (VJEPA2, 20)])
def test_published_grids_have_their_number_of_probes_and_train(
    preset: dict[str, Any], count: int
) -> None:
    model = model_of()
    probes = Probes(model, **{**preset, "epochs": 1})
    assert len(probes) == count
    rows = probes.fit(X, Y, validation=NEW)
    assert len(rows) == count
    assert sum(row["best"] for row in rows) == 1


# -- where it ends badly --


@pytest.mark.parametrize("pool", ["avg", "map"])
def test_a_probe_that_diverges_ends_and_the_others_do_not_notice(pool: str) -> None:
    rates = [0.05, 1e38]
    probes = probes_of(model_of(), pool=pool, lr=rates, weight_decay=[0.0, 0.5])
    with np.errstate(all="ignore"):
        rows = probes.fit(X, Y, validation=NEW)
    alone = probes_of(model_of(), pool=pool, lr=[0.05], weight_decay=[0.0, 0.5])
    want = alone.fit(X, Y, validation=NEW)
    assert rows[:2] == want
    lost = [row for row in rows if row["diverged"]]
    assert lost
    for row in lost:
        assert row["lr"] == 1e38
        assert row["val_loss"] is None
        assert not row["best"]


def test_where_all_diverge_the_model_is_as_it_was() -> None:
    model = model_of()
    with unchanged(model), np.errstate(all="ignore"):
        probes = probes_of(model, lr=[1e38, 2e38], weight_decay=1.0)
        with pytest.raises(TrainingDiverged, match="no probe") as caught:
            probes.fit(X, Y, validation=NEW)
    assert caught.value.step > 1
    assert caught.value.lr in (1e38, 2e38)


def test_a_model_that_was_changed_meanwhile_stays_as_it_was_changed() -> None:
    model = model_of()

    class Data:
        def __len__(self) -> int:
            return len(X)

        def batch(self, indices: Any, epoch: int, seed: int) -> np.ndarray:
            model.set_head(np.ones((CLASSES, 32)))
            return X[indices]

    with pytest.raises(RuntimeError, match="was changed during training"):
        probes_of(model).fit(Data(), Y)
    assert (model.head.weight == 1).all()


def test_other_threads_see_the_old_model_or_the_new_one() -> None:
    model = model_of(depth=2)
    old, seen = model(NEW[0]).tobytes(), set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(model(NEW[0]).tobytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        probes_of(model, pool=["token", "map"], lr=[0.05, 0.01]).fit(
            X, Y, validation=NEW
        )
    finally:
        stop.set()
        thread.join()
    assert seen <= {old, model(NEW[0]).tobytes()}


# -- what is refused --


BAD_OPTIONS: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "pool": (ValueError, "'middle'", {"pool": "middle"}),
    "a pool twice": (ValueError, "each once", {"pool": "avg,avg"}),
    "no pool": (ValueError, "one or more", {"pool": []}),
    "lr": (ValueError, "lr must be above 0", {"lr": [0.1, 0]}),
    "lr twice": (ValueError, "each once", {"lr": [0.1, 0.1]}),
    "no lr": (ValueError, "one number or several", {"lr": []}),
    "lr's type": (TypeError, "lr must be a number", {"lr": "fast"}),
    "decay": (ValueError, "weight_decay must be at least 0", {"weight_decay": -1}),
    "optimizer": (ValueError, "'adamw', 'sgd', 'lars'", {"optimizer": "adam"}),
    "schedule": (ValueError, "'cosine', 'constant'", {"schedule": "linear"}),
    "epochs": (ValueError, "epochs must be at least 1", {"epochs": 0}),
    "warm-up": (ValueError, "warmup must be below epochs", {"warmup": 3}),
    "batch_norm": (TypeError, "batch_norm must be True or False", {"batch_norm": 1}),
    "loss": (ValueError, "'cross_entropy'", {"loss": "hinge"}),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_are_checked_at_once(name: str) -> None:
    error, words, options = BAD_OPTIONS[name]
    model = model_of()
    with refused(error, words, model=model):
        probes_of(model, **options)


class Untouched:
    """Pictures that may not be looked at: what is wrong is known before."""

    def __len__(self) -> int:
        return len(X)

    def batch(self, indices: Any, epoch: int, seed: int) -> np.ndarray:
        raise AssertionError("pictures were run before the error")


VECTORS = np.ones((20, 32), "f4")
BAD_FITS: dict[str, tuple[type[Exception], str, Any, Any, dict[str, Any]]] = {
    "length": (ValueError, "39 labels for 40", Untouched(), Y[:39], {}),
    "range": (ValueError, "classes are 0 to 2", Untouched(), Y + 1, {}),
    "one class": (ValueError, "one class only", Untouched(), Y * 0, {}),
    "text": (TypeError, "numbers", Untouched(), Y.astype(str), {}),
    "validation": (
        ValueError,
        "validation y",
        Untouched(),
        Y,
        {"validation": (NEW[0], NEW[1] + 1)},
    ),
    "no pair": (TypeError, "a pair", Untouched(), Y, {"validation": NEW[0]}),
    "mixed": (ValueError, "both", Untouched(), Y, {"validation": (VECTORS, NEW[1])}),
    "width": (ValueError, "(n, 32)", np.ones((40, 31), "f4"), Y, {}),
    "dtype": (ValueError, "float32, bfloat16", Untouched(), Y, {"dtype": "int8"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FITS)
def test_labels_and_inputs_are_checked_before_any_work(name: str) -> None:
    error, words, x, y, options = BAD_FITS[name]
    model = model_of()
    with refused(error, words, model=model):
        probes_of(model).fit(x, y, **options)


def test_many_probes_need_a_validation() -> None:
    with refused(ValueError, "the best of 2"):
        probes_of(model_of(), lr=[0.1, 0.2]).fit(Untouched(), Y)


def test_vectors_are_of_the_models_own_pool() -> None:
    model = model_of(global_pool="avg")
    vectors = features(model, X, train="head")
    for pool in ("token", "map", "avg,token"):
        with refused(ValueError, "the model's 'avg'", "give tokens"):
            probes_of(model, pool=pool, lr=0.1).fit(vectors, Y, validation=(vectors, Y))


def test_tokens_before_the_norm_are_refused() -> None:
    model = model_of()
    tokens = features(model, X, train=1)
    with refused(ValueError, "before block 0", "train='pool'"):
        probes_of(model).fit(tokens, Y)


def test_batch_norm_before_an_attention_pool_is_refused() -> None:
    with refused(ValueError, "'map'", "cannot be folded"):
        probes_of(model_of(), pool="map", batch_norm=True).fit(Untouched(), Y)


def test_a_model_without_a_classifier_or_without_the_pool_is_refused() -> None:
    with refused(ValueError, "no classifier"):
        probes_of(small(num_classes=0))
    with refused(ValueError, "class token"):
        probes_of(model_of(class_token=False), pool="token")
