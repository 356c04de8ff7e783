# SPDX-License-Identifier: Apache-2.0
"""The facts of timm's modules are those of our models, and a fork's tell as much."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import reference
import torch
from dice import Dice, examples
from models import BASE
from test_all_163 import NAMES, on_meta
from test_random_configs import configuration, models
from torch import nn

import vitpool
from vitpool.registry.create import plan_model
from vitpool.testing.comparison.facts import (
    different,
    facts_of,
    facts_of_module,
    folded,
)


@pytest.mark.parametrize("example", examples(100))
def test_a_random_configuration_has_timms_facts(example: int) -> None:
    ours, model = models(configuration(Dice("facts", example)))
    assert facts_of(ours) == facts_of_module(model)


@pytest.mark.parametrize("example", examples(20))
def test_a_timm_model_that_is_taken_over_keeps_its_facts(example: int) -> None:
    """After a reset of its head and of its pool, too."""
    dice = Dice("facts of a reset", example)
    _, model = models(configuration(dice) | {"depth": 2})
    if model.attn_pool is None:
        model.reset_classifier(dice.integer(0, 3), dice.pick("avg", "max", ""))
    assert facts_of(vitpool.from_timm(model)) == facts_of_module(model)


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_has_timms_facts(name: str) -> None:
    """Of two blocks, narrow; timm's has no numbers to try its parts with."""
    options = plan_model(name).options
    small = {"depth": 2, "embed_dim": 24 * options["num_heads"]}
    ours = vitpool.VisionTransformer(**options | small)
    assert facts_of(ours) == facts_of_module(on_meta(name, **small))


# -- forks --


class Normalise(nn.Module):
    """Another name, another name of eps."""

    def __init__(self, width: int, eps: float, centred: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(width) + 0.5)
        self.shift = nn.Parameter(torch.randn(width)) if centred else None
        self.variance_epsilon = eps
        self.centred = centred

    def forward(self, x: Any) -> Any:
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        x = x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()
        return x * self.gain + (0 if self.shift is None else self.shift)


class Activate(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Stretch(nn.Module):
    def __init__(self, width: int, size: float) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(size * (torch.rand(width) + 0.5))

    def forward(self, x: Any) -> Any:
        return x * self.lambda1


def fork(**parts: Any) -> Any:
    """timm's model with parts of its own, in every block."""
    model = reference.build(BASE | {"depth": 3, "init_values": 1e-5})
    for block in model.blocks:
        for path, part in parts.items():
            parent, _, name = path.replace("__", ".").rpartition(".")
            setattr(block.get_submodule(parent), name, part)
    return model


TIMMS = facts_of_module(reference.build(BASE | {"depth": 3, "init_values": 1e-5}))


def differs(model: Any) -> list[Any]:
    return folded(different(TIMMS, facts_of_module(model)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("width", [8, 32, 768])
def test_norms_and_scales_of_any_name_are_known(width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(width)
    for kind, make in {
        "layernorm": lambda eps: Normalise(width, eps, centred=True),
        "rmsnorm": lambda eps: Normalise(width, eps, centred=False),
        "layerscale": lambda eps: Stretch(width, eps),
    }.items():
        parts = nn.ModuleList(make(eps) for eps in [1e-6, 1e-5, 0.1] * 20)
        facts = facts_of_module(parts.to(dtype))
        assert [facts.get(str(i)) for i in range(len(parts))] == [kind] * len(parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_forks_parts_are_known_by_what_they_do(dtype: torch.dtype) -> None:
    model = fork(
        norm1=Normalise(32, 1e-6, centred=True),
        mlp__act=Activate(nn.functional.gelu),
        ls1=Stretch(32, 1e-5),
    )
    assert differs(model.to(dtype)) == []


def test_a_fork_is_told_of_by_what_its_parts_do() -> None:
    model = fork(
        norm1=Normalise(32, 1e-5, centred=False),
        mlp__act=Activate(lambda x: x * torch.sigmoid(1.702 * x)),
        ls1=nn.Identity(),
    )
    assert differs(model) == [
        ("blocks.0-2.norm1", "layernorm", "rmsnorm"),
        ("blocks.0-2.norm1.eps", 1e-6, 1e-5),
        ("blocks.0-2.ls1", "layerscale", None),
        ("blocks.0-2.mlp.act", "gelu", "quick_gelu"),
    ]


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (nn.GELU(), "gelu"),
        (nn.GELU(approximate="tanh"), "gelu_tanh"),
        (nn.ReLU(inplace=True), "relu"),
        (nn.SiLU(inplace=True), "silu"),
        (nn.Hardswish(), "Hardswish"),
        (Activate(lambda x: x), None),
        (Activate(lambda x: x.softmax(-1)), None),  # no function of each number
        (Activate(lambda x: x.undefined), None),
    ],
)
def test_activations_are_known_by_their_values(act: Any, kind: str | None) -> None:
    got = facts_of_module(fork(mlp__act=act))
    assert got.get("blocks.1.mlp.act") == kind
    again = facts_of_module(fork(mlp__act=act))
    assert (
        got == again
    )  # an activation in place does not spoil what others are tried on


def test_the_block_that_was_changed_is_named() -> None:
    model = fork()
    model.blocks[1].mlp.act = nn.GELU(approximate="tanh")
    model.blocks[2].norm2.eps = 1e-5
    model.blocks[0].attn.scale = 1.0
    model.head = nn.Linear(32, 10, bias=False)
    assert differs(model) == [
        ("blocks.0.attn.scale", 0.25, 1.0),
        ("blocks.1.mlp.act", "gelu", "gelu_tanh"),
        ("blocks.2.norm2.eps", 1e-6, 1e-5),
        ("head.bias", True, False),
    ]


def test_an_old_fork_that_lacks_attributes_is_no_other_model() -> None:
    model = fork()
    for name in ("pool_include_prefix", "dynamic_img_size", "no_embed_class"):
        delattr(model, name)
    for block in model.blocks:
        del block.attn.scale
    assert differs(model) == []


class Hostile(nn.Module):
    """Attributes that raise, or hold what is no fact."""

    global_pool = nn.AdaptiveAvgPool1d(1)
    blocks = None
    num_heads = math.inf

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.norm.eps = torch.tensor(1e-6)  # type: ignore[assignment]

    @property
    def num_classes(self) -> int:
        raise RuntimeError("not yet known")


def test_whatever_a_module_holds_nothing_is_raised() -> None:
    facts = facts_of_module(Hostile())
    assert facts == {"class_token": False, "reg_tokens": 0, "norm": "layernorm"}


def test_asking_for_facts_changes_and_calls_nothing() -> None:
    model = fork(norm1=Normalise(32, 1e-6, centred=True)).train()
    called: list[Any] = []
    for module in model.modules():
        module.register_forward_hook(lambda *_: called.append(1))
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    facts_of_module(model)
    assert not called
    assert model.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_parts_that_blocks_share_are_told_of_in_each() -> None:
    act = nn.GELU()
    assert differs(fork(mlp__act=act)) == []
