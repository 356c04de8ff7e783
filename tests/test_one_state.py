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
from vitpool.checkpoint.spec import Spec

PICTURE = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
DIFF = {"attn_layer": "diff"}
OTHER = small(depth=3, global_pool="map")


def load_other(model: Any) -> None:
    rng = np.random.default_rng(5)
    model.load_state_dict(
        {k: rng.standard_normal(v.shape, "f4") for k, v in model.state_dict().items()}
    )


def prune(model: Any) -> None:
    model.prune_intermediate_layers(1)


def other_patches(model: Any) -> None:
    model.set_input_size(patch_size=8)


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
    "pickle of what is random": lambda m: pickle.loads(pickle.dumps(m)).untrained(),
    "what is random": lambda m: m.untrained(),
    "summary": lambda m: str(m.summary(depth=None)),
    "what is different": lambda m: str(m.diff(OTHER)),
    "repr": lambda m: repr(m).replace("Hooked", "VisionTransformer"),
    "attention maps": lambda m: plot.attention_maps(m, X, -1),
    "rollout": lambda m: plot.rollout(m, X),
    "pool weights": lambda m: plot.pool_weights(m, X, "max"),
    "text for a notebook": lambda m: m._repr_html_(),
    "config": lambda m: m.config,
    "feature_info": lambda m: m.feature_info,
    "grid_size": lambda m: m.patch_embed.grid_size,
    "a token": lambda m: m.cls_token,
    "blocks": lambda m: [part._path for part in m.blocks],
    "parameters of blocks": lambda m: dict(m.blocks.named_parameters()),
    "text of blocks": lambda m: repr(m.blocks),
    "a parameter of a part": lambda m: m.norm.weight,
    "a state dict of a part": lambda m: m.blocks[1].state_dict(),
    "parameters of a slice": lambda m: dict(m.blocks[1:].named_parameters()),
    "names of modules": lambda m: [name for name, _ in m.named_modules()],
    "facts of a part": lambda m: m.blocks[0].attn.qkv.out_features,
    "patches": lambda m: m.patch_embed(X),
    "convolution": lambda m: m.patch_embed.proj(X),
    "a block": lambda m: m.blocks[0](X[:, 0]),
    "all blocks": lambda m: m.blocks(X[:, 0]),
    "some blocks": lambda m: m.blocks[1:](X[:, 0]),
    "attention": lambda m: m.blocks[0].attn(X[:, 0]),
    "a norm": lambda m: m.norm(X[:, 0]),
    "fc_norm": lambda m: m.fc_norm(X[:, 0, 0]),
    "preprocess": lambda m: m.preprocess(PICTURE),
    "resolve_data_config": vitpool.resolve_data_config,
    "spec of a checkpoint": lambda m: repr(Spec.from_model(m)),
    "attention row": lambda m: np.asarray(plot.attention_row(m, None, PICTURE)),
    "attention figure": lambda m: drawn(plot.attention_figure(m, PICTURE)),
    "layers figure": lambda m: drawn(plot.layers_figure(m, PICTURE)),
    "pools figure": lambda m: drawn(plot.pools_figure(m, PICTURE)),
    "pools of": plot.pools_of,
}


def drawn(figure: Any) -> Any:
    """The titles and pictures of a figure."""
    shown = [axis for axis in figure.axes if axis.images]
    return [(a.get_title(), np.asarray(a.images[0].get_array())) for a in shown]


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
MOMENTS += ["_snapshot", "_adopt", "untrained"]


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


MADE: dict[str, Callable[[Any], Any]] = {
    "set_input_size": lambda m: m.set_input_size(48, 8),
    "prune": lambda m: m.prune_intermediate_layers([0], prune_head=False),
    "prune to two": lambda m: m.prune_intermediate_layers([1], prune_norm=True),
    "reset": lambda m: m.reset_classifier(4, seed=2),
    "another pool": lambda m: m.reset_classifier(4, "max", seed=2),
    "load": lambda m: m.load_state_dict(
        {"norm.bias": X[0, 0, 0], "blocks.2.norm1.bias": X[0, 0, 1]}, strict=False
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("call", MADE)
def test_no_change_is_of_two_states(
    call: str, change: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another change comes at each moment of one: both have happened, in some order."""
    original = small(**DIFF, depth=3, seed=1)

    def answer(*changes: Callable[[Any], Any], model: Any = None) -> Any:
        model = copy.copy(original) if model is None else model
        try:
            results = [make(model) for make in changes]
        except ValueError as error:
            results = [str(error)]
        result = results[changes.index(MADE[call])] if len(results) > 1 else results[-1]
        model = copy.copy(model)
        return result, model.config, model.state_dict()

    possible = [
        answer(MADE[call]),
        answer(change, MADE[call]),
        answer(MADE[call], change),
    ]
    monkeypatch.setattr(Hooked, "change", staticmethod(change), raising=False)
    moments = [name for name in MOMENTS if name != "_adopt"]  # none of a change
    for name in [*moments, "_commit"]:
        for number in range(1, 9):
            model = copy.copy(original)
            model.__class__ = Hooked
            with monkeypatch.context() as patch:
                patch.setattr(Hooked, name, hook(name), raising=False)
                patch.setattr(Hooked, "target", model, raising=False)
                patch.setattr(Hooked, "left", number)
                got = answer(MADE[call], model=model)
                came = Hooked.left < 0
            assert any(equal(got, one) for one in possible[came:]), (name, number)
            if not came:
                break


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_input_that_changes_the_model_changes_no_answer(dynamic: bool) -> None:
    model = small(depth=3, seed=1, dynamic_img_size=dynamic, **DIFF)
    original = copy.copy(model)

    class Input:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            prune(model)
            load_other(model)
            other_patches(model)
            return X

    for call in (
        lambda m, x: m(x),
        lambda m, x: m(x, return_attn=[0, -1]),
        lambda m, x: m.forward_intermediates(x, return_prefix_tokens=True),
    ):
        model = copy.copy(original)
        want = call(original, X)
        assert equal(call(model, Input()), want)
        assert not equal(model.state_dict(), original.state_dict())
