# SPDX-License-Identifier: Apache-2.0
"""Trainer: what a step and a fit come to, and what they leave as it was."""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from models import copies, same, small
from trainings import FEATURES, MAP, QUIET, RNG, X, Y, trained

import vitpool
from vitpool.train import Trainer, features_of, gradients
from vitpool.train.mix import mix
from vitpool.train.schedule import factor
from vitpool.train.sources import MIX, generator

# -- a step --


def test_twenty_steps_of_a_head_are_adamws_in_float64() -> None:
    model = small(num_classes=5)
    w = {
        k: model.get_parameter(k).astype(np.float64)
        for k in ("head.weight", "head.bias")
    }
    trainer = Trainer(model, lr=0.01, weight_decay=0.1)
    m = {k: np.zeros_like(a) for k, a in w.items()}
    v = {k: np.zeros_like(a) for k, a in w.items()}
    x = FEATURES.astype(np.float64)
    for step in range(1, 21):
        logits = x @ w["head.weight"].T + w["head.bias"]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        loss = -np.log(p[np.arange(30), Y]).mean()
        assert trainer.step(FEATURES, Y) == pytest.approx(loss, rel=1e-5)
        d = (p - np.eye(5)[Y]) / 30
        for key, g in {"head.weight": d.T @ x, "head.bias": d.sum(0)}.items():
            m[key] = 0.9 * m[key] + 0.1 * g
            v[key] = 0.999 * v[key] + 0.001 * g**2
            w[key] *= 1 - 0.01 * (0.1 if key == "head.weight" else 0)
            root = np.sqrt(v[key] / (1 - 0.999**step)) + 1e-8
            w[key] -= 0.01 * m[key] / (1 - 0.9**step) / root
    for key, array in w.items():
        np.testing.assert_allclose(
            model.get_parameter(key), array, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("train", ["head", "pool", 1, "all"])
def test_a_step_moves_what_trains_and_shares_the_rest(train: Any) -> None:
    model = small(**MAP)
    before, x = copies(model), features_of(model, Trainer(model, train).part, X)
    held, memory = model.attn_pool, model.memory_bytes()["weights"]
    trainer = Trainer(model, train)
    np.testing.assert_array_equal(trainer.features(X), x)
    assert trainer.step(x, Y) == gradients(small(**MAP), X, Y, train=train)[0]
    after = copies(model)
    moved = {k for k in after if not np.array_equal(before[k], after[k])}
    assert moved == set(trainer.part.names)
    assert model.attn_pool is held
    assert model.memory_bytes()["weights"] == memory
    assert not set(model.untrained()) & set(trainer.part.names)


def test_images_and_their_features_train_alike() -> None:
    for train in ("head", "pool", 1):
        a, b = small(**MAP), small(**MAP)
        x = features_of(a, Trainer(a, train).part, X)
        assert same(trained(a, train=train), trained(b, x, train=train))


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        ("cross_entropy", Y),
        ("cross_entropy", RNG.dirichlet(np.ones(5), 30)),
        ("binary_cross_entropy", Y),
        ("mse", RNG.standard_normal((30, 5))),
    ],
)
def test_accumulated_gradients_are_one_batchs(loss: Any, y: Any) -> None:
    options: dict[str, Any] = {
        **{"lr": 0.1, "optimizer": "sgd", "loss": loss, "drop_rate": 0.3},
        **{"class_weight": [1, 2, 3, 4, 5.0], "train": "pool"},
    }
    models = [small(**MAP) for _ in range(3)]
    steps = [
        Trainer(model, accumulate=count, **options)
        for model, count in zip(models, (1, 4, 30), strict=True)
    ]
    for _ in range(3):
        losses = [trainer.step(X, y) for trainer in steps]
        assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)
    whole, *others = (copies(model) for model in models)
    for other in others:
        for key, array in whole.items():
            np.testing.assert_allclose(other[key], array, rtol=1e-4, atol=1e-6)


def test_mixed_classes_are_divided_as_soft_ones() -> None:
    """Their mean loss is that of the same soft labels, which no mixing has touched."""
    weight, rng = [1, 2, 3, 4, 5.0], generator(0, MIX, 0)
    model = small(num_classes=5)
    x, soft = mix(FEATURES, np.eye(5, dtype=np.float32)[Y], rng, mixup=0.8)
    expected, _ = gradients(model, x, soft, train="head", class_weight=weight)
    trainer = Trainer(model, mixup=0.8, class_weight=weight, seed=0)
    assert trainer.step(FEATURES, Y) == pytest.approx(expected, rel=1e-6)


def test_clipping_bounds_a_step() -> None:
    model = small(num_classes=5)
    before = copies(model)
    Trainer(model, optimizer="sgd", lr=1.0, clip_grad=1e-3, weight_decay=0).step(X, Y)
    moved = sum(((a - before[k]) ** 2).sum() for k, a in copies(model).items())
    assert np.sqrt(moved) == pytest.approx(1e-3, rel=1e-3)


def test_a_step_is_one_exchange_that_other_threads_see_whole() -> None:
    model = small(**MAP)
    trainer = Trainer(model, "all", lr=1e-2)
    states = {copies_bytes(model)}
    seen, stop = set(), threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(copies_bytes(model))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(10):
            trainer.step(X[:4], Y[:4])
            states.add(copies_bytes(model))
    finally:
        stop.set()
        thread.join()
    assert seen
    assert seen <= states


def copies_bytes(model: Any) -> bytes:
    return b"".join(a.tobytes() for a in model.state_dict().values())


# -- a fit --


@pytest.mark.parametrize("train", ["head", "pool", 1, "all"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_training_lowers_the_loss(train: Any, optimizer: Any) -> None:
    model = small(**MAP)
    lr = {"adamw": 3e-3, "sgd": 0.05, "lars": 10.0 if train == "head" else 0.2}
    trainer = Trainer(
        model, train, optimizer=optimizer, lr=lr[optimizer], epochs=8, batch_size=10
    )
    start = trainer.evaluate(X, Y)
    history = trainer.fit(X, Y, **QUIET)
    assert trainer.history is history
    assert [row["epoch"] for row in history] == list(range(1, 9))
    assert [row["step"] for row in history] == list(range(3, 25, 3))
    end = trainer.evaluate(X, Y)
    assert end["loss"] < 0.9 * start["loss"]
    assert history[-1]["loss"] < history[0]["loss"]


def test_every_epoch_has_every_image_once_in_another_order() -> None:
    seen: list[list[int]] = []

    class Noted:
        def __len__(self) -> int:
            return 30

        def batch(self, indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
            assert seed == 5
            seen.append([epoch, *indices.tolist()])
            return FEATURES[indices]

    a, b = small(num_classes=5), small(num_classes=5)
    options = {"batch_size": 4, "accumulate": 2, "seed": 5}
    one = trained(a, Noted(), **options)
    orders = []
    for epoch in range(3):
        parts = [places for first, *places in seen if first == epoch]
        assert [len(part) for part in parts] == [4] * 7 + [2]
        orders.append([place for part in parts for place in part])
        assert sorted(orders[-1]) == list(range(30))
    assert len(set(map(tuple, orders))) == 3
    assert same(one, trained(b, FEATURES, **options))


def test_a_step_after_a_fit_begins_anew() -> None:
    model, other = small(num_classes=5), small(num_classes=5)
    trainer = Trainer(model, lr=0.1, epochs=2)
    trainer.fit(FEATURES, Y, **QUIET)
    other.load_state_dict(model.state_dict())
    assert trainer.step(FEATURES, Y) == Trainer(other, lr=0.1).step(FEATURES, Y)
    assert same(copies(model), copies(other))


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_rates_follow_the_schedule_step_by_step(
    monkeypatch: pytest.MonkeyPatch, schedule: Any
) -> None:
    rates = []
    trainer = Trainer(
        small(num_classes=5),
        **{"lr": 0.5, "epochs": 4, "batch_size": 8, "warmup": 1.5},
        schedule=schedule,
    )
    update = trainer._steps.update

    def noted(pieces: Any, labels: Any, lr: float) -> Any:
        rates.append(lr)
        return update(pieces, labels, lr)

    monkeypatch.setattr(trainer._steps, "update", noted)
    history = trainer.fit(FEATURES, Y, **QUIET)
    assert rates == [0.5 * factor(step, 16, 6, schedule) for step in range(16)]
    assert [row["lr"] for row in history] == rates[3::4]


def test_rows_are_the_means_of_their_epoch() -> None:
    model = small(num_classes=5)
    weight = [1, 2, 3, 4, 5.0]
    still = Trainer(model, lr=0.0, epochs=1, batch_size=8, class_weight=weight)
    (row,) = still.fit(FEATURES, Y, validation=(FEATURES, Y), **QUIET)
    found = still.evaluate(FEATURES, Y, batch_size=7)
    assert row["loss"] == pytest.approx(found["loss"], rel=1e-6)
    assert row["accuracy"] == found["accuracy"] == row["val_accuracy"]
    assert row["val_loss"] == pytest.approx(found["loss"], rel=1e-6)
    logits = model.head(FEATURES)
    assert found["accuracy"] == (logits.argmax(1) == Y).mean()


def test_the_best_epochs_state_is_kept_by_accuracy_then_loss() -> None:
    model, states = small(num_classes=5), []
    options: dict[str, Any] = {"epochs": 8, "batch_size": 8, "warmup": 0}
    trainer = Trainer(model, lr=0.1, **options)
    # What has nothing to do with the classes: accuracy wanders, the loss only grows.
    others = np.random.default_rng(1).standard_normal((60, 32)).astype(np.float32)
    validation = others, np.tile(Y, 2)

    def note(own: Trainer, row: dict[str, Any]) -> None:
        assert own is trainer
        states.append(copies(model))

    history = trainer.fit(FEATURES, Y, validation=validation, callbacks=[note], **QUIET)
    losses = [row["val_loss"] for row in history]
    ranks = [(row["val_accuracy"], -row["val_loss"]) for row in history]
    best = ranks.index(max(ranks))
    assert best not in (7, losses.index(min(losses))), "nothing is tested"
    assert sum(rank[0] == ranks[best][0] for rank in ranks) > 1, "no equal accuracy"
    assert same(copies(model), states[best])
    assert trainer.evaluate(*validation)["loss"] == pytest.approx(losses[best])


def test_without_validation_the_last_state_is_kept() -> None:
    model = small(num_classes=5)
    last: list[Any] = []
    trained(
        model, FEATURES, fit={"callbacks": [lambda t, r: last.append(copies(model))]}
    )
    assert same(copies(model), last[-1])


def test_patience_stops_early() -> None:
    model = small(num_classes=5)
    trainer = Trainer(model, lr=0.3, epochs=50, batch_size=8, patience=3)
    noise = np.random.default_rng(1).permutation(Y)
    history = trainer.fit(FEATURES, Y, validation=(FEATURES[::-1], noise), **QUIET)
    ranks = [(row["val_accuracy"], -row["val_loss"]) for row in history]
    best = ranks.index(max(ranks))
    assert len(history) == best + 4 < 50


def test_the_average_is_evaluated_and_kept() -> None:
    model, free = small(num_classes=5), small(num_classes=5)
    w, mean = [], {k: free.get_parameter(k).astype(float) for k in ("head.weight",)}
    trainer = Trainer(free, lr=0.05, epochs=2, batch_size=8, schedule="constant")
    update = trainer._steps.update

    def noted(*arguments: Any) -> Any:
        out = update(*arguments)
        w.append(free.get_parameter("head.weight"))
        return out

    trainer._steps.update = noted  # type: ignore[method-assign]
    trainer.fit(FEATURES, Y, **QUIET)
    for one in w:
        mean["head.weight"] += 0.2 * (one - mean["head.weight"])
    averaged = Trainer(
        model, lr=0.05, epochs=2, batch_size=8, schedule="constant", ema=0.8
    )
    history = averaged.fit(FEATURES, Y, validation=(FEATURES, Y), **QUIET)
    kept = model.get_parameter("head.weight")
    assert history[-1]["val_loss"] < history[0]["val_loss"]
    np.testing.assert_allclose(kept, mean["head.weight"], rtol=1e-5, atol=1e-6)
    found = averaged.evaluate(FEATURES, Y)
    assert found["loss"] == pytest.approx(history[-1]["val_loss"], rel=1e-6)


def test_mapped_bfloat16_and_float16_features_are_read_by_batches(
    tmp_path: Path,
) -> None:
    path = tmp_path / "features.npy"
    np.save(path, FEATURES)
    plain = trained(small(num_classes=5), FEATURES)
    mapped = np.load(path, mmap_mode="r")
    assert same(plain, trained(small(num_classes=5), mapped))
    for dtype in (ml_dtypes.bfloat16, np.float16):
        short = FEATURES.astype(dtype)
        wide = trained(small(num_classes=5), short.astype(np.float32))
        assert same(trained(small(num_classes=5), short), wide)


def test_mixing_changes_batches_and_is_seeded() -> None:
    runs = {}
    for seed in (0, 1):
        for options in ({}, {"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 1, "cutmix": 1}):
            key = (seed, *options)
            runs[key] = trained(small(**MAP), train="pool", seed=seed, **options)
            again = trained(small(**MAP), train="pool", seed=seed, **options)
            assert same(runs[key], again)
    assert len({r["head.weight"].tobytes() for r in runs.values()}) == 8
    trained(small(num_classes=5), FEATURES, mixup=0.8)


@pytest.mark.parametrize("train", ["head", "pool", 1, "all"])
def test_weights_do_not_depend_on_threads(train: Any) -> None:
    options: dict[str, Any] = {
        **{"train": train, "ema": 0.9, "mixup": 0.2, "clip_grad": 1.0},
        **{"drop_rate": 0.1, "label_smoothing": 0.1},
    }
    if train in (1, "all"):
        options |= {"attn_drop_rate": 0.1, "drop_path_rate": 0.1}
    threads = vitpool.get_num_threads()
    try:
        states = []
        for count in (1, 2, 5):
            vitpool.set_num_threads(count)
            states.append(trained(small(**MAP), **options))
    finally:
        vitpool.set_num_threads(threads)
    assert same(states[0], states[1])
    assert same(states[0], states[2])


def test_checkpointing_and_memory_change_no_more_than_the_rounding() -> None:
    options: dict[str, Any] = {"train": "all", "optimizer": "sgd"}
    plain = trained(small(**MAP), **options)
    for other in ({"checkpointing": True}, {"memory": 1}):
        chunked = trained(small(**MAP), **options, **other)
        for key, array in plain.items():
            np.testing.assert_allclose(chunked[key], array, rtol=1e-4, atol=1e-5)


def test_a_copys_training_leaves_the_model_alone() -> None:
    import copy

    model = small(**MAP)
    before = copies(model)
    trained(copy.copy(model), train="all")
    assert same(copies(model), before)


@pytest.mark.parametrize("train", ["head", "pool", 1])
def test_an_array_of_images_goes_through_the_frozen_part_once(
    monkeypatch: pytest.MonkeyPatch, train: Any
) -> None:
    class Images:
        def __len__(self) -> int:
            return 30

        def batch(self, indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
            return X[indices]

    each_time = trained(small(**MAP), Images(), train=train)
    seen = []
    through = vitpool.train.features_of

    def counted(model: Any, part: Any, images: Any) -> Any:
        seen.append(len(images))
        return through(model, part, images)

    for module in ("features", "steps"):
        place = importlib.import_module(f"vitpool.train.{module}")
        monkeypatch.setattr(place, "features_of", counted)
    fit = {"validation": (X[:7], Y[:7])}
    once = small(**MAP)
    Trainer(once, train, epochs=3, batch_size=8, lr=1e-2).fit(X, Y, **QUIET)
    assert same(copies(once), each_time)
    assert sum(seen) == 30
    trained(small(**MAP), train=train, fit=fit)
    assert sum(seen) == 30 + 30 + 7
    trained(small(**MAP), train=train, fit=fit, mixup=0.5)
    assert sum(seen) == 67 + 3 * 30 + 7
