# SPDX-License-Identifier: Apache-2.0
"""A picture's result has the same bits whatever else the process does.

Batch size, position in the batch, thread count, other Python threads, earlier calls,
another process: none may change a bit, on any target.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import recipe

import vitpool

# 65 tokens: 33 pictures are more than one chunk of a forward pass.
BASE: dict[str, Any] = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 10,
}
BATCH = 33
X = recipe.picture((BATCH, 3, 64, 64))

CASES: dict[str, dict[str, Any]] = {
    **{f"pool {p}": {"global_pool": p} for p in ("", "avg", "avgmax", "max", "token")},
    "pool map": {"global_pool": "map", "class_token": False},
    "pool prr": {"global_pool": "prr", "reg_tokens": 3},
    "ResPostBlock": {"block_fn": "ResPostBlock", "init_values": 0.1},
    "ParallelScalingBlock": {"block_fn": "ParallelScalingBlock", "qk_norm": True},
    "ParallelThingsBlock": {"block_fn": "ParallelThingsBlock"},
    "DiffParallelScalingBlock": {
        "block_fn": "DiffParallelScalingBlock",
        "num_heads": 2,
    },
    "diff attention": {"attn_layer": "diff", "num_heads": 2},
    "GluMlp": {"mlp_layer": "GluMlp", "global_pool": "avg"},
    "SwiGLU": {"mlp_layer": "SwiGLU", "act_layer": "silu", "norm_layer": "rmsnorm"},
    # A sum over more inputs than one block of packed weights holds.
    "wide hidden layer": {"mlp_ratio": 23, "depth": 1},
    "no fc_norm": {"global_pool": "avg", "fc_norm": False, "final_norm": True},
}


def build(name: str) -> Any:
    """The case's model with the recipe's weights."""
    model = vitpool.VisionTransformer(**{"seed": 0} | BASE | CASES[name])
    model.load_state_dict(recipe.weights(model.param_shapes()))
    return model


def alone(model: Any, count: int = BATCH) -> list[bytes]:
    """Each picture's result as it comes out alone, on one thread."""
    vitpool.set_num_threads(1)
    return [model(X[i : i + 1]).tobytes() for i in range(count)]


def check(name: str, batches: range = range(1, BATCH + 1)) -> str:
    """Raise AssertionError unless every batch and thread count gives the same bits.

    Gives a digest of them.
    """
    model = build(name)
    want = alone(model)
    before = vitpool.get_num_threads()
    try:
        for batch in batches:
            vitpool.set_num_threads(1 + batch % 4)
            start = batch * 5 % BATCH
            rows = [(start + i) % BATCH for i in range(batch)]
            got = model(X[rows])
            assert len(got) == batch
            different = [i for i in range(batch) if got[i].tobytes() != want[rows[i]]]
            assert different == [], f"{name}: batch {batch}, rows {different} differ"
    finally:
        vitpool.set_num_threads(before)
    return hashlib.sha256(b"".join(want)).hexdigest()


@pytest.fixture(autouse=True)
def _threads() -> Any:
    before = vitpool.get_num_threads()
    yield
    vitpool.set_num_threads(before)


@pytest.mark.parametrize("name", CASES)
def test_a_row_does_not_depend_on_batch_position_or_threads(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", ["pool token", "pool map", "ParallelThingsBlock"])
def test_several_python_threads_at_once_give_the_same_bits(name: str) -> None:
    model = build(name)
    want = alone(model)
    vitpool.set_num_threads(3)
    wrong: list[str] = []

    def work(number: int) -> None:
        try:
            for batch in range(1, 20, 3):
                first = (number * 7 + batch) % (BATCH - batch)
                got = model(X[first : first + batch])
                wrong.extend(
                    f"thread {number}, batch {batch}, row {i}"
                    for i in range(batch)
                    if got[i].tobytes() != want[first + i]
                )
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("fc_norm", [False, True])
@pytest.mark.parametrize("pool", ["token", "", "avgmax", "max", "map"])
def test_forward_is_forward_head_of_forward_features(pool: str, fc_norm: bool) -> None:
    model = vitpool.VisionTransformer(
        **{"seed": 0} | BASE, global_pool=pool, fc_norm=fc_norm
    )
    model.load_state_dict(recipe.weights(model.param_shapes()))
    for batch in (1, 2, 26):
        x = X[:batch]
        whole, features = model(x), model.forward_features(x)
        assert whole.tobytes() == model.forward_head(features).tobytes()
        assert features.tobytes() == b"".join(
            model.forward_features(x[i : i + 1]).tobytes() for i in range(batch)
        )


def test_masks_do_not_tie_pictures_together() -> None:
    model = build("pool token")
    mask = recipe.mask("additive", (BATCH, 1, 65, 65))
    whole = model(X, attn_mask=mask)
    for i in (0, 1, BATCH // 2, BATCH - 1):
        one = model(X[i : i + 1], attn_mask=mask[i : i + 1])
        assert one.tobytes() == whole[i].tobytes()


def test_earlier_calls_leave_nothing_behind() -> None:
    model = build("pool token")
    want = model(X[:3]).tobytes()
    bad = X[:9].copy()
    bad[:] = np.nan
    model(bad)  # fills every scratch number with NaN
    assert model(X[:3]).tobytes() == want
    model(np.full_like(bad, np.inf))
    model.release_workspace()
    assert model(X[:3]).tobytes() == want


def test_a_nan_stays_in_its_own_row() -> None:
    for name in CASES:
        model = build(name)
        x = X[:4].copy()
        want = model(x)
        x[2, 1, 3, 5] = np.nan
        got = model(x)
        assert np.isnan(got[2]).any(), name
        for i in (0, 1, 3):
            assert got[i].tobytes() == want[i].tobytes(), name


SOME = ["pool token", "pool map", "GluMlp", "wide hidden layer", "ParallelThingsBlock"]
SCRIPT = f"""
import test_bit_equality as t, vitpool
print(vitpool.show_config()["target"])
for name in {SOME!r}:
    print(t.check(name, range(1, 34, 4)))
"""


def forced(**environment: str) -> list[str]:
    """What SCRIPT prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=Path(__file__).parent,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("target", vitpool.show_config()["targets"])
def test_every_target_keeps_its_bits(target: str) -> None:
    first = forced(VITPOOL_TARGET=target)
    assert first[0] == target
    assert len(first) == 1 + len(SOME)
    assert forced(VITPOOL_TARGET=target, VITPOOL_NUM_THREADS="2") == first


def test_the_other_micro_kernel_keeps_its_bits() -> None:
    assert len(forced(VITPOOL_UKR="blis")) == 1 + len(SOME)
