# SPDX-License-Identifier: Apache-2.0
"""A run that is stopped anywhere comes to the same bits; another's file is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import copies, same, small
from safetensors.numpy import load_file, save_file

from vitpool.train import Trainer, TrainingDiverged

MAP = {"class_token": False, "global_pool": "map", "num_classes": 5, "depth": 2}
RNG = np.random.default_rng(0)
Y = np.arange(22) % 5
X = RNG.standard_normal((22, 3, 32, 32)).astype(np.float32)
X += RNG.standard_normal((5, 3, 32, 32)).astype(np.float32)[Y]
OPTIONS: dict[str, Any] = {
    **{"epochs": 3, "batch_size": 4, "accumulate": 2, "lr": 3e-3, "seed": 7},
    **{"ema": 0.8, "mixup": 0.5, "cutmix": 0.5, "label_smoothing": 0.1},
    **{"drop_rate": 0.1, "clip_grad": 1.0, "class_weight": [1, 2, 3, 4, 5.0]},
}
STEPS = 9
VALIDATION = (X[::-1], Y[::-1])


class Killed(Exception):
    pass


def train(
    model: Any,
    path: Path | None,
    kill: int | None = None,
    what: Any = "pool",
    **fit: Any,
) -> Any:
    """A fit that dies before its step number `kill`, counted from where it goes on."""
    trainer = Trainer(model, what, **{**OPTIONS, **fit.pop("options", {})})
    update, done = trainer._steps.update, 0

    def counted(*arguments: Any) -> Any:
        nonlocal done
        if done == kill:
            raise Killed
        done += 1
        return update(*arguments)

    trainer._steps.update = counted  # type: ignore[method-assign]
    options = {"validation": VALIDATION, "progress": False, "checkpoint": path}
    return trainer.fit(X, Y, **{**options, **fit})


def without_time(history: Any) -> Any:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


@pytest.fixture(scope="module")
def whole() -> tuple[Any, Any]:
    """A run that nothing stopped, without a file: its state and history."""
    model = small(**MAP)
    history = train(model, None)
    return copies(model), without_time(history)


@pytest.mark.parametrize("every", [None, 1, 2])
@pytest.mark.parametrize("kill", range(STEPS))
def test_a_run_killed_at_any_step_comes_to_the_same_bits(
    tmp_path: Path, whole: tuple[Any, Any], kill: int, every: int | None
) -> None:
    path = tmp_path / "run"
    with pytest.raises(Killed):
        train(small(**MAP), path, kill, checkpoint_steps=every)
    resumed = small(**MAP)
    history = train(resumed, path, checkpoint_steps=every)
    assert same(copies(resumed), whole[0])
    assert without_time(history) == whole[1]


def test_a_run_killed_at_every_step_comes_to_the_same_bits(
    tmp_path: Path, whole: tuple[Any, Any]
) -> None:
    path = tmp_path / "run"
    for _ in range(STEPS - 1):
        with pytest.raises(Killed):
            train(small(**MAP), path, 1, checkpoint_steps=1)
    resumed = small(**MAP)
    history = train(resumed, path, 1, checkpoint_steps=1)
    assert same(copies(resumed), whole[0])
    assert without_time(history) == whole[1]


@pytest.mark.parametrize("what", ["head", 1, "all"])
@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_other_optimisers_and_parts_resume_too(
    tmp_path: Path, what: Any, optimizer: str
) -> None:
    options = {"optimizer": optimizer, "lr": 0.01}
    model, resumed = small(**MAP), small(**MAP)
    train(model, None, what=what, options=options, validation=None)
    path = tmp_path / "run"
    with pytest.raises(Killed):
        train(small(**MAP), path, 5, what, options=options, validation=None)
    train(resumed, path, what=what, options=options, validation=None)
    assert same(copies(resumed), copies(model))


def test_a_random_head_is_in_the_file_before_the_first_step(tmp_path: Path) -> None:
    models = [small(**MAP) for _ in range(2)]
    for seed, model in enumerate(models):
        model.reset_classifier(5, seed=seed)
    path = tmp_path / "run"
    with pytest.raises(Killed):
        train(models[0], path, 0)
    first = small(**MAP)
    first.reset_classifier(5, seed=0)
    train(first, None)
    train(models[1], path)
    assert same(copies(models[1]), copies(first))


def test_a_run_that_is_done_gives_its_model_and_history(tmp_path: Path) -> None:
    path, model, again = tmp_path / "run", small(**MAP), small(**MAP)
    history = train(model, path)
    stamp = path.stat().st_mtime_ns
    assert train(again, path, kill=0) == history
    assert same(copies(again), copies(model))
    assert path.stat().st_mtime_ns == stamp


def test_a_patience_that_was_used_up_stays_so(tmp_path: Path) -> None:
    options = {"patience": 2, "epochs": 40, "lr": 0.5, "ema": None}
    model, path = small(**MAP), tmp_path / "run"
    history = train(model, None, options=options)
    assert len(history) < 40
    with pytest.raises(Killed):
        train(small(**MAP), path, 3 * (len(history) - 1), options=options)
    resumed = small(**MAP)
    assert without_time(train(resumed, path, options=options)) == without_time(history)
    assert same(copies(resumed), copies(model))


PROGRAM = """
import sys
import test_train_checkpoint as t
model = t.small(**t.MAP)
path, callbacks = t.Path(sys.argv[1]), [t.die_at(sys.argv[2])]
t.train(model, path, checkpoint_steps=1, callbacks=callbacks)
"""


def die_at(epoch: str) -> Any:
    def die(_: Any, row: dict[str, Any]) -> None:
        if row["epoch"] == int(epoch):
            os.kill(os.getpid(), 9)

    return die


def test_a_process_that_was_killed_is_resumed_by_another(
    tmp_path: Path, whole: tuple[Any, Any]
) -> None:
    path = tmp_path / "run"
    for epoch in "12":
        program = [sys.executable, "-c", PROGRAM, str(path), epoch]
        done = subprocess.run(program, cwd=Path(__file__).parent, check=False)
        assert done.returncode == -9
    resumed = small(**MAP)
    train(resumed, path)
    assert same(copies(resumed), whole[0])


# -- files of others --


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    with pytest.raises(Killed):
        train(small(**MAP), path, 4, checkpoint_steps=1)
    return path


@pytest.mark.parametrize(
    ("model", "fit", "text"),
    [
        ({}, {"options": {"lr": 1e-3}}, r"option lr \(there 0.003, here 0.001\)"),
        ({}, {"options": {"seed": 8}}, "option seed"),
        ({}, {"options": {"epochs": 4}}, r"option epochs \(there 3, here 4\)"),
        ({}, {"options": {"ema": None}}, r"option ema \(there 0.8, here null\)"),
        ({}, {"options": {"drop_rate": 0.2}}, r"option drop \(there 0.1, here 0.2\)"),
        ({}, {"options": {"class_weight": None}}, "option class_weight"),
        ({}, {"options": {"memory": 1}}, "option memory"),
        ({}, {"options": {"checkpointing": True}}, "option checkpointing"),
        ({}, {"options": {"cutmix": 0.0}, "what": "head"}, "model trained"),
        ({}, {"validation": None}, "data validation length"),
        ({}, {"validation": (X, Y)}, "data validation labels"),
        ({"num_heads": 4}, {}, r"model num_heads \(there 2, here 4\)"),
        ({"act_layer": "relu"}, {}, "model act_layer"),
    ],
)
def test_a_file_of_another_run_is_refused_and_says_what_differs(
    begun: Path, model: dict[str, Any], fit: dict[str, Any], text: str
) -> None:
    bytes_there, mine = begun.read_bytes(), small(**(MAP | model))
    before = copies(mine)
    with pytest.raises(ValueError, match=f"run is the checkpoint of another.*{text}"):
        train(mine, begun, **fit)
    assert begun.read_bytes() == bytes_there
    assert same(copies(mine), before)


def test_other_frozen_weights_or_labels_or_images_are_another_run(begun: Path) -> None:
    model = small(**MAP)
    model.blocks[0].norm1.bias = model.blocks[0].norm1.bias + 1
    with pytest.raises(ValueError, match="model frozen weights"):
        train(model, begun)
    trainer = Trainer(small(**MAP), "pool", **OPTIONS)
    options: Any = {"checkpoint": begun, "progress": False, "validation": VALIDATION}
    for x, y, text in (
        (X, Y[::-1], "data labels"),
        (X[:20], Y[:20], r"data length \(there 22, here 20\)"),
    ):
        with pytest.raises(ValueError, match=text):
            trainer.fit(x, y, **options)


def test_what_is_no_whole_file_is_refused_and_left(begun: Path) -> None:
    good, model = begun.read_bytes(), small(**MAP)
    before = copies(model)
    for content in (
        b"",
        b"no file of ours",
        good[:100],
        good[: len(good) // 2],
        good[:-1],
    ):
        begun.write_bytes(content)
        with pytest.raises(ValueError, match=r"run is no whole checkpoint"):
            train(model, begun)
        assert begun.read_bytes() == content
    save_file({"a": np.zeros(3, np.float32)}, begun)
    with pytest.raises(ValueError, match=r"none of vitpool\.train"):
        train(model, begun)
    assert same(copies(model), before)


def test_a_file_of_a_later_format_is_refused(begun: Path) -> None:
    begun.write_bytes(
        begun.read_bytes().replace(b'{\\"format\\": 1', b'{\\"format\\": 9')
    )
    with pytest.raises(ValueError, match="format 9; this vitpool reads 1"):
        train(small(**MAP), begun)


def test_a_file_that_cannot_be_written_stops_before_the_first_step(
    tmp_path: Path,
) -> None:
    model = small(**MAP)
    before = copies(model)
    with pytest.raises(FileNotFoundError, match="absent"):
        train(model, tmp_path / "absent" / "run")
    with pytest.raises(IsADirectoryError):
        train(model, tmp_path)
    assert same(copies(model), before)


def test_an_error_while_writing_leaves_the_file_before_whole(
    begun: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Any, Any]
) -> None:
    before = begun.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            train(small(**MAP), begun, checkpoint_steps=1)
    assert begun.read_bytes() == before
    assert [p.name for p in begun.parent.iterdir()] == ["run"]
    model = small(**MAP)
    train(model, begun)
    assert same(copies(model), whole[0])


def test_divergence_leaves_a_file_of_a_good_state(tmp_path: Path) -> None:
    options = {"optimizer": "sgd", "lr": 1e25, "ema": None, "clip_grad": None}
    path = tmp_path / "run"
    with pytest.raises(TrainingDiverged):
        train(small(**MAP), path, options=options, checkpoint_steps=1)
    assert all(np.isfinite(a).all() for a in load_file(path).values())


def test_a_file_is_safetensors_that_others_read(begun: Path) -> None:
    arrays = load_file(begun)
    shapes = small(**MAP).param_shapes()
    for kind in ("weights", "exp_avg", "exp_avg_sq", "average", "best"):
        named = {
            k.split("/")[1]: a for k, a in arrays.items() if k.startswith(f"{kind}/")
        }
        assert {k: a.shape for k, a in named.items()} == {
            k: s for k, s in shapes.items() if k.startswith(("attn_pool.", "head."))
        }
    header = begun.read_bytes()
    length = int.from_bytes(header[:8], "little")
    assert length % 8 == 0
    json.loads(header[8 : 8 + length])


# -- single steps --


def test_saved_steps_go_on_bit_for_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"lr": 1e-2, "mixup": 0.5, "drop_rate": 0.1, "ema": 0.5}
    model, other = small(**MAP), small(**MAP)
    trainer = Trainer(model, "pool", **options)
    for _ in range(3):
        trainer.step(X, Y)
    trainer.save(tmp_path / "steps")
    expected = [trainer.step(X, Y) for _ in range(3)]
    resumed = Trainer(other, "pool", **options)
    resumed.load(tmp_path / "steps")
    assert [resumed.step(X, Y) for _ in range(3)] == expected
    assert same(copies(other), copies(model))
    with pytest.raises(ValueError, match="option mixup"):
        Trainer(other, "pool", **{**options, "mixup": 0.4}).load(tmp_path / "steps")
    with pytest.raises(ValueError, match=r"another run.*data labels"):
        train(small(**MAP), tmp_path / "steps")
