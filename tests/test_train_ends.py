# SPDX-License-Identifier: Apache-2.0
"""Trainer: what ends a run, and what it refuses."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from models import copies, same, small
from trainings import FEATURES, MAP, QUIET, X, Y, trained

from vitpool.train import Trainer, TrainingDiverged

# -- what ends a run --


def test_a_change_by_another_is_kept_and_said() -> None:
    model = small(**MAP)
    trainer = Trainer(model, "pool", epochs=5, batch_size=8)

    def change(own: Trainer, row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            model.reset_classifier(3, seed=1)

    with pytest.raises(RuntimeError, match=r"changed during training.*left as it"):
        trainer.fit(X, Y, callbacks=[change], **QUIET)
    assert model.num_classes == 3
    with pytest.raises(ValueError, match="classes are 0 to 2"):
        trainer.fit(X, Y, **QUIET)
    trainer.fit(X, Y % 3, **QUIET)


def test_a_change_in_the_middle_of_a_step_is_kept() -> None:
    model = small(num_classes=5)
    trainer, theirs = Trainer(model, epochs=1), []

    class Changes:
        def __len__(self) -> int:
            return 30

        def batch(self, indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
            model.head.bias = model.head.bias + 1
            theirs.append(copies(model))
            return FEATURES[indices]

    with pytest.raises(RuntimeError, match="changed during training"):
        trainer.fit(Changes(), Y, **QUIET)
    assert same(copies(model), theirs[-1])
    assert len(theirs) == 1


def test_a_change_between_steps_is_kept_and_the_next_step_begins_anew() -> None:
    model = small(**MAP)
    trainer = Trainer(model, "pool", lr=1e-3)
    trainer.step(X, Y)
    model.load_state_dict(small(**MAP).state_dict())
    loaded = copies(model)
    with pytest.raises(RuntimeError, match="changed during training"):
        trainer.step(X, Y)
    assert same(copies(model), loaded)
    trainer.step(X, Y)
    other = small(**MAP)
    Trainer(other, "pool", lr=1e-3).step(X, Y)
    assert same(copies(model), copies(other))


def test_divergence_leaves_the_last_good_state() -> None:
    model = small(num_classes=5)
    trainer = Trainer(model, optimizer="sgd", lr=1e20)
    big, good = FEATURES * 1e10, [copies(model)]
    trainer.step(big, Y)
    assert not same(copies(model), good[0])
    with pytest.raises(TrainingDiverged, match="loss is not finite in step 2") as error:
        trainer.step(big, Y)
    assert (error.value.step, error.value.lr) == (2, 1e20)
    assert same(copies(model), good[0])
    assert np.isfinite(trainer.evaluate(big, Y)["loss"])
    trainer.step(FEATURES, Y, lr=1e-3)


def test_divergence_in_a_fit_keeps_the_history() -> None:
    model = small(num_classes=5)
    bad = FEATURES.copy()

    class Rots:
        def __len__(self) -> int:
            return 30

        def batch(self, indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
            return bad[indices] * (np.inf if epoch == 2 else 1)

    trainer = Trainer(model, epochs=5, batch_size=10)
    with pytest.raises(TrainingDiverged) as error:
        trainer.fit(Rots(), Y, **QUIET)
    assert error.value.step == 7
    assert [row["epoch"] for row in error.value.history] == [1, 2]
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.step) == (str(error.value), 7)
    assert all(np.isfinite(a).all() for a in copies(model).values())


def test_a_nan_among_the_first_images_leaves_the_model_as_it_was() -> None:
    model = small(num_classes=5)
    before, bad = copies(model), FEATURES.copy()
    bad[3, 4] = np.nan
    with pytest.raises(TrainingDiverged, match="step 1"):
        Trainer(model).step(bad, Y)
    assert same(copies(model), before)


def test_a_weight_beyond_floats_never_reaches_the_model() -> None:
    model = small(num_classes=5)
    before = copies(model)
    with pytest.raises(TrainingDiverged, match="a weight is not finite in step 1"):
        Trainer(model, optimizer="sgd", lr=1e38).step(FEATURES * 1e3, Y)
    assert same(copies(model), before)


# -- arguments --


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"optimizer": "adam"}, ValueError, "did you mean 'adamw'"),
        ({"optimizer": None}, TypeError, "optimizer"),
        ({"lr": -1.0}, ValueError, "lr must be at least 0"),
        ({"lr": float("nan")}, ValueError, "lr must be finite"),
        ({"lr": "1"}, TypeError, "lr must be a number"),
        ({"weight_decay": -1}, ValueError, "weight_decay"),
        ({"betas": (0.9,)}, TypeError, "betas must be two numbers"),
        ({"betas": (0.9, 1.0)}, ValueError, "betas must be from 0 to below 1"),
        ({"momentum": 1.0}, ValueError, "momentum must be at least 0 and below 1"),
        ({"schedule": "linear"}, ValueError, "'cosine', 'constant', not 'linear'"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"epochs": 5, "warmup": 5}, ValueError, "warmup must be below epochs, 5"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"accumulate": 1.5}, TypeError, "accumulate must be an integer"),
        ({"clip_grad": 0}, ValueError, "clip_grad must be above 0"),
        ({"ema": 1.0}, ValueError, "ema must be at least 0 and below 1"),
        ({"mixup": -1}, ValueError, "mixup"),
        ({"patience": 0}, ValueError, "patience"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"checkpointing": "yes"}, TypeError, "checkpointing"),
        ({"loss": "bce"}, ValueError, "loss must be"),
        ({"label_smoothing": 2}, ValueError, "label_smoothing"),
        ({"class_weight": [1.0]}, ValueError, r"\(5,\)"),
        ({"drop_rate": 1.5}, ValueError, "drop_rate must be from 0"),
        ({"drop_path_rate": 0.1}, ValueError, "drop_path_rate would do nothing"),
        ({"train": "tail"}, ValueError, "train must be"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Trainer(small(num_classes=5), **options)


@pytest.mark.parametrize(
    ("options", "train", "text"),
    [
        (
            {"block_fn": "ParallelThingsBlock"},
            1,
            "block_fn 'ParallelThingsBlock' does not train",
        ),
        ({"attn_layer": "diff"}, "all", "attn_layer 'diff' does not train"),
    ],
)
def test_a_kind_that_does_not_train_is_named_at_once(
    options: dict[str, Any], train: Any, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        Trainer(small(**options), train)
    trained(small(**options, num_classes=5), train="head")


@pytest.mark.parametrize(
    ("x", "y", "fit", "error", "text"),
    [
        (FEATURES, Y + 1, {}, ValueError, r"y\[4\] is 5"),
        (FEATURES, Y[:-1], {}, ValueError, "y has 29 labels for 30 images"),
        (FEATURES, Y * 0 + 2, {}, ValueError, "one class only, 2"),
        (FEATURES[:0], Y[:0], {}, ValueError, "x is empty"),
        (FEATURES[:, :31], Y, {}, ValueError, r"x must be images .* \(B, 32\)"),
        ((FEATURES * 9).astype(int), Y, {}, TypeError, "x must be"),
        (FEATURES, Y, {"validation": FEATURES}, TypeError, "pair"),
        (FEATURES, Y, {"validation": (FEATURES, Y[:3])}, ValueError, "validation y"),
        (FEATURES, Y, {"validation": ([], [])}, ValueError, "validation x|shape"),
        (FEATURES, Y, {"checkpoint_steps": 2}, ValueError, "needs checkpoint"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_any_step(
    x: Any, y: Any, fit: dict[str, Any], error: type[Exception], text: str
) -> None:
    model = small(num_classes=5)
    before = copies(model)
    with pytest.raises(error, match=text):
        Trainer(model, epochs=1, lr=1.0).fit(x, y, **QUIET, **fit)
    assert same(copies(model), before)


def test_patience_and_cutmix_say_what_they_need() -> None:
    model = small(num_classes=5)
    with pytest.raises(ValueError, match="patience needs validation"):
        Trainer(model, patience=2).fit(FEATURES, Y, **QUIET)
    for run in (Trainer(model, cutmix=1.0).fit, Trainer(model, cutmix=1.0).step):
        with pytest.raises(ValueError, match="cutmix needs images"):
            run(FEATURES, Y)


def test_a_dataset_that_gives_another_number_is_refused() -> None:
    class Short:
        def __len__(self) -> int:
            return 30

        def batch(self, indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
            return FEATURES[indices[1:]]

    with pytest.raises(ValueError, match="gave 7 inputs for 8 indices"):
        trained(small(num_classes=5), Short())


def test_every_default_is_in_the_table() -> None:
    from vitpool.train import RECIPES

    model = small(**MAP)
    for train, kind in (
        ("head", "head"),
        ("pool", "pool"),
        (1, "blocks"),
        ("all", "all"),
    ):
        options, recipe = Trainer(model, train).options, RECIPES[kind]
        assert options.epochs == recipe.epochs
        assert options.batch_size == recipe.batch_size
        assert options.weight_decay == recipe.weight_decay
        assert options.layer_decay == recipe.layer_decay
        assert options.warmup == recipe.warmup
        scale = options.batch_size / 256 if "adamw" in recipe.per_256 else 1
        assert options.lr == recipe.lr["adamw"] * scale


def test_a_bar_shows_loss_and_accuracy_and_none_is_silent(
    capfd: pytest.CaptureFixture[str],
) -> None:
    Trainer(small(num_classes=5), epochs=2).fit(FEATURES, Y, **QUIET)
    assert capfd.readouterr() == ("", "")
    Trainer(small(num_classes=5), epochs=2).fit(FEATURES, Y)
    shown = capfd.readouterr().err
    assert "epoch 2/2: 100%" in shown
    assert "loss=" in shown
    assert "accuracy=" in shown
