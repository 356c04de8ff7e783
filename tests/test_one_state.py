# SPDX-License-Identifier: Apache-2.0
"""Every answer is of one state of the model, whatever another thread does to it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import X, small

import vitpool
from vitpool import _core, plot

DIFF = {"attn_layer": "diff"}


def load_other(model: Any) -> None:
    rng = np.random.default_rng(5)
    model.load_state_dict(
        {k: rng.standard_normal(v.shape, "f4") for k, v in model.state_dict().items()}
    )


def prune(model: Any) -> None:
    model.prune_intermediate_layers(1)


def other_patches(model: Any) -> None:
    model.set_input_size(patch_size=16)


def other_head(model: Any) -> None:
    model.reset_classifier(3, "avg", seed=1)


CHANGES = [load_other, prune, other_patches, other_head]


def saved(model: Any, folder: Path) -> dict[str, bytes]:
    vitpool.save_pretrained(model, folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


CALLS: dict[str, Callable[[Any], Any]] = {
    "return_attn": lambda m: m(X, return_attn=[0, 1, -1]),
    "intermediates": lambda m: m.forward_intermediates(X, return_prefix_tokens=True),
    "intermediate layers": lambda m: m.get_intermediate_layers(X, 2, reshape=True),
    "state_dict": lambda m: m.state_dict(),
    "named_parameters": lambda m: dict(m.named_parameters()),
    "pickle": lambda m: pickle.loads(pickle.dumps(m)).state_dict(),
    "repr": repr,
    "attention maps": lambda m: plot.attention_maps(m, X, -1),
    "rollout": lambda m: plot.rollout(m, X),
    "pool weights": lambda m: plot.pool_weights(m, X, "max"),
}


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.tobytes() == b.tobytes()
    return bool(a == b)


# What of the core an answer may be made of, each a moment at which another thread may
# come in between.
MOMENTS = ["_run", "_options", "param_shapes", "get_parameter", "_grid"]
MOMENTS += ["_snapshot", "_adopt"]


class Hooked(vitpool.VisionTransformer):
    """A model that another thread changes at one of its moments."""

    change: Callable[[Any], None]
    target: (
        Any  # the model that the other thread has; copies of it are the caller's own
    )
    left = 0  # moments until then; negative: it has come


def hook(name: str) -> Any:
    real = getattr(_core.VisionTransformer, name)

    def moment(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = real(self, *args, **kwargs)
        if any(model is Hooked.target for model in (self, *args)):
            Hooked.left -= 1
            if Hooked.left == 0:
                Hooked.left = -1
                Hooked.change(Hooked.target)
                Hooked.left = -1
        return result

    return moment


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("call", [*CALLS, "save_pretrained"])
def test_no_answer_is_of_two_states(
    call: str,
    change: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The model is changed at each moment in turn: the answer is one or the other's."""
    # timm's config.json has no word for differential attention
    attention = {} if call == "save_pretrained" else DIFF
    original = small(**attention, depth=3, seed=1)

    def answer(model: Any, folder: str) -> Any:
        if call == "save_pretrained":
            return saved(model, tmp_path / folder)
        return CALLS[call](model)

    before = answer(copy.copy(original), "before")
    changed = copy.copy(original)
    change(changed)
    after = answer(changed, "after")
    monkeypatch.setattr(Hooked, "change", staticmethod(change), raising=False)
    for name in MOMENTS:
        for number in range(1, 9):
            model = copy.copy(original)
            model.__class__ = Hooked
            with monkeypatch.context() as patch:
                patch.setattr(Hooked, name, hook(name), raising=False)
                patch.setattr(Hooked, "target", model, raising=False)
                patch.setattr(Hooked, "left", number)
                got = answer(model, f"{name}{number}")
                came = Hooked.left < 0
            assert equal(got, before) or equal(got, after), (name, number)
            if not came:
                break  # there are no more such moments
