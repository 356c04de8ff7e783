# SPDX-License-Identifier: Apache-2.0
"""Each deep check of an audit: red on a planted fault, green on what is sound.

Every fault is a small subclass of timm's ViT, of which that check, and it alone of
those looked at, must say so; the program that it gives must fail too.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from import_timm import timm
from timm.layers import SelectAdaptivePool2d
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn as timms_filter
from torch import nn

import vitpool
from vitpool.testing.audit import CHECKS, Finding, Subject, chosen
from vitpool.testing.audit.run import run_check

SMALL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
}
MODULES = (
    *("sequences", "equal", "constructor", "intermediates", "pruning"),
    *("checkpoint", "weights", "classifier", "gradients"),
)
chosen()
DEEP = [c for c in CHECKS.values() if c.run.__module__.rpartition(".")[2] in MODULES]


@functools.cache
def subject(make: Any, **options: Any) -> Subject:
    """One subject a model: its walks and variants are made once."""
    return Subject(make, source="raise SystemExit", kwargs=SMALL | options)


def findings(make: Any, check: str, **options: Any) -> list[Finding]:
    found = run_check(CHECKS[check], subject(make, **options))
    broken = [f.reason for f in found if not isinstance(f, Finding) and f.failed]
    assert not broken
    return [f for f in found if isinstance(f, Finding)]


def fails(finding: Finding, make: Any) -> bool:
    """Whether the finding's program fails, with `make` given."""
    program = finding.reproduce.replace("raise SystemExit", "")
    try:
        exec(program, {"make": make})
    except Exception:
        return True
    return False


# -- faults --


class Deaf(VisionTransformer):
    """reset_classifier drops the pool that it is given."""

    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        super().reset_classifier(num_classes)


class NoHead(VisionTransformer):
    """The old head stays where classes are taken away and given back."""

    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        head = self.head
        super().reset_classifier(num_classes, global_pool)
        if isinstance(head, nn.Identity):
            self.head = head


class WrongSize(VisionTransformer):
    """A head of another width: forward fails."""

    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        if num_classes and global_pool == "avg":
            self.head = nn.Linear(self.embed_dim + 1, num_classes)


class Accident(VisionTransformer):
    """A pool is refused by an attribute that is not there."""

    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        if global_pool == "max":
            self.no_such_thing()  # type: ignore[operator]
        super().reset_classifier(num_classes, global_pool)


class Narrow(VisionTransformer):
    """head_hidden_size is not that of what the head sees."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.head_hidden_size = 7


class Narrowed(VisionTransformer):
    """The constructor refuses a pool that a reset takes."""

    def __init__(self, **options: Any) -> None:
        assert options.get("global_pool") != "max"
        super().__init__(**options)


class NormLost(VisionTransformer):
    """The final norm goes with a reset."""

    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self.norm = nn.Identity()


class OverPrefix(VisionTransformer):
    """A model that is reset to avg takes the class token in."""

    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self.pool_include_prefix = global_pool == "avg"


class Redrawn(VisionTransformer):
    """A reset draws the class token anew."""

    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        nn.init.normal_(self.cls_token)


class Replaced(VisionTransformer):
    """A reset puts an equal class token in the place of the old."""

    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self.cls_token = nn.Parameter(self.cls_token.detach().clone())


class Unrecorded(VisionTransformer):
    """fc_norm is not recorded, other arguments are."""

    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self._model_args = {"depth": 2}


class Unused(VisionTransformer):
    """The bias of the head is not added."""

    def forward_head(self, x: Any, pre_logits: bool = False) -> Any:
        x = super().forward_head(x, pre_logits=True)
        return x if pre_logits else nn.functional.linear(x, self.head.weight)


class Ignoring(VisionTransformer):
    """qkv_bias is taken and dropped."""

    def __init__(self, qkv_bias: bool = True, **options: Any) -> None:
        super().__init__(**options)


class Unfit(VisionTransformer):
    """qk_norm is taken, and forward fails."""

    def __init__(self, qk_norm: bool = False, **options: Any) -> None:
        super().__init__(qk_norm=qk_norm, **options)
        if qk_norm:
            self.blocks[0].attn.q_norm = nn.LayerNorm(3)


class Emptying(VisionTransformer):
    """The constructor empties a list that it is given."""

    def __init__(self, extra: Any = (), **options: Any) -> None:
        super().__init__(**options)
        extra.clear()


class Plain(VisionTransformer):
    """forward_intermediates with one thing wrong, `fault` says what."""

    fault = ""

    def forward_intermediates(self, x: Any, *args: Any, **flags: Any) -> Any:
        if self.fault == "stop_early" and flags.get("stop_early"):
            flags["indices"] = [0]
        if self.fault == "prefix" and flags.get("return_prefix_tokens"):
            raise UnboundLocalError("prefix_tokens")
        told = super().forward_intermediates(x, *args, **flags)
        if self.fault == "format" and flags.get("output_fmt") == "NLC":
            return [value.flip(1) for value in told]
        if self.fault == "norm" and flags.get("norm"):
            return told[0], [value + 1 for value in told[1]]
        if self.fault == "final" and isinstance(told, tuple):
            return told[0] + 1, told[1]
        return told


def plain(fault: str) -> type[Plain]:
    return type(f"Plain_{fault}", (Plain,), {"fault": fault})


class InfoLies(VisionTransformer):
    """feature_info has another number of channels."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for row in self.feature_info:
            row["num_chs"] += 1


class InfoLost(VisionTransformer):
    """feature_info names modules that are not there."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for row in self.feature_info:
            row["module"] = "layers.0"


class Overpruned(VisionTransformer):
    """Pruning takes a norm that intermediates go through."""

    def prune_intermediate_layers(self, *args: Any, **ways: Any) -> Any:
        kept = super().prune_intermediate_layers(*args, **ways)
        self.patch_embed = nn.Sequential(self.patch_embed, nn.Tanh())
        self.patch_embed.dynamic_feat_size = self.patch_embed[0].dynamic_feat_size
        return kept


class StillPooling(VisionTransformer):
    """Pruning takes the head and leaves the pool."""

    def prune_intermediate_layers(self, *args: Any, **ways: Any) -> Any:
        pool = self.global_pool
        kept = super().prune_intermediate_layers(*args, **ways)
        self.global_pool = pool
        return kept


class Headless(VisionTransformer):
    """A pruned model takes a head of another width."""

    def prune_intermediate_layers(self, *args: Any, **ways: Any) -> Any:
        kept = super().prune_intermediate_layers(*args, **ways)
        self.embed_dim += 1
        return kept


class OtherHead(VisionTransformer):
    """get_classifier gives a head that forward does not use."""

    def get_classifier(self) -> nn.Module:
        return nn.Linear(self.embed_dim, self.num_classes)


class Container(VisionTransformer):
    """get_classifier gives more than the head."""

    def get_classifier(self) -> nn.Module:
        return nn.Sequential(nn.Tanh(), self.head)


class OtherLogits(VisionTransformer):
    """pre_logits are scaled."""

    def forward_head(self, x: Any, pre_logits: bool = False) -> Any:
        told = super().forward_head(x, pre_logits)
        return told * 2 if pre_logits else told


class Losing(VisionTransformer):
    """The checkpointed path leaves the last block out."""

    def forward_features(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        if self.grad_checkpointing:
            x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
            return self.norm(self.blocks[0](x))
        return super().forward_features(x, *args, **kwargs)


class Ungrouped(VisionTransformer):
    """group_matcher has forgotten the class token."""

    def group_matcher(self, coarse: bool = False) -> Any:
        told = super().group_matcher(coarse)
        return told | {"stem": r"^pos_embed|patch_embed|norm_pre"}


class ChangingFilter(VisionTransformer):
    """The filter of this module doubles a bias, in the caller's checkpoint."""


class SeekingFilter(VisionTransformer):
    """The filter of this module looks for register tokens in every checkpoint."""


class SquareFilter(VisionTransformer):
    """The filter of this module fits no positions to a model with register tokens."""


def checkpoint_filter_fn(state_dict: Any, model: Any) -> Any:
    """What timm calls for the classes of this file."""
    if isinstance(model, ChangingFilter):
        state_dict["head.bias"] *= 2
    if isinstance(model, SeekingFilter) and model.reg_token is not None:
        assert state_dict["reg_token"].ndim == 3
    if isinstance(model, SquareFilter) and model.reg_token is not None:
        return state_dict
    return timms_filter(state_dict, model)


FAULTS: list[tuple[str, Any, dict[str, Any]]] = [
    ("forward_runs_after_resets", WrongSize, {}),
    ("refusals_are_meant", Accident, {}),
    ("attributes_tell_classes_and_pool", Deaf, {}),
    ("attributes_tell_widths", Narrow, {}),
    ("head_goes_and_comes_back", NoHead, {}),
    ("constructor_takes_what_reset_takes", Narrowed, {}),
    ("parameters_are_those_of_a_model_built_that_way", NormLost, {}),
    ("output_is_that_of_a_model_built_that_way", OverPrefix, {}),
    ("resets_are_recorded", Unrecorded, {}),
    ("every_parameter_is_used", Unused, {}),
    ("options_that_are_taken_matter", Ignoring, {}),
    ("options_that_are_taken_run", Unfit, {}),
    ("intermediates_end_in_the_features", plain("final"), {}),
    ("intermediates_flags_agree", plain("stop_early"), {}),
    ("prefix_tokens_come_with_intermediates", plain("prefix"), {}),
    ("intermediates_formats_agree", plain("format"), {}),
    ("normalised_intermediates_end_in_the_features", plain("norm"), {}),
    ("feature_info_tells_the_intermediates", InfoLies, {}),
    ("feature_info_tells_the_intermediates", InfoLost, {}),
    ("pruned_intermediates_are_the_same", Overpruned, {}),
    ("pruned_model_runs", StillPooling, {}),
    ("pruned_model_takes_a_head", Headless, {}),
    ("own_checkpoint_passes_the_filter", ChangingFilter, {}),
    ("filter_leaves_the_checkpoint_alone", ChangingFilter, {}),
    ("filter_takes_other_variants", SeekingFilter, {}),
    ("checkpoints_of_other_sizes_are_fitted", SquareFilter, {}),
    ("kept_pool_is_bit_equal", Redrawn, {}),
    ("kept_pool_is_bit_equal", Replaced, {}),
    ("other_weights_stay", Redrawn, {}),
    ("get_classifier_is_the_head", OtherHead, {}),
    ("classifier_sees_the_pre_logits", Container, {}),
    ("pre_logits_are_the_headless_output", OtherLogits, {}),
    ("grad_checkpointing_keeps_the_numbers", Losing, {}),
    ("layer_groups_have_the_stem", Ungrouped, {}),
]


@pytest.mark.parametrize(
    ("check", "make", "options"),
    FAULTS,
    ids=[f"{check}-{make.__name__}" for check, make, _ in FAULTS],
)
def test_a_planted_fault_is_found_and_its_program_fails(
    check: str, make: Any, options: dict[str, Any]
) -> None:
    found = findings(make, check, **options)
    assert found
    assert all(finding.check == check for finding in found)
    assert fails(found[0], make)
    assert not fails(found[0], VisionTransformer)


def test_each_check_is_tried_on_a_fault() -> None:
    tried = {check for check, *_ in FAULTS} | {check for _, _, check, _ in CONFIRMED}
    tried |= {"arguments_are_left_alone", *KNOWN, *OF_CNNS}
    assert {check.name for check in DEEP} <= tried


def test_a_constructor_that_empties_its_arguments_is_found() -> None:
    made = Subject(Emptying, source="", kwargs=SMALL | {"extra": [1]})
    found = run_check(CHECKS["arguments_are_left_alone"], made)
    assert [f.message for f in found] == [
        "the constructor changes what it is given as extra"
    ]
    assert fails(found[0], Emptying)


# Of timm 1.0.31's ViT these two are faults, and known (docs/audited.md).
KNOWN = {"output_is_that_of_a_model_built_that_way", "asked_pool_is_honoured"}


@pytest.mark.parametrize("check", [c.name for c in DEEP])
def test_timms_vit_is_sound_but_for_what_is_known(check: str) -> None:
    found = findings(VisionTransformer, check)
    assert bool(found) == (check in KNOWN), [f.message for f in found]
    assert all(fails(finding, VisionTransformer) for finding in found)


@pytest.mark.parametrize("check", [c.name for c in DEEP])
def test_vitpools_own_model_has_no_finding(check: str) -> None:
    found = findings(vitpool.VisionTransformer, check)
    assert not found, [f.message for f in found]


# -- what is confirmed of timm 1.0.31 is found by checks that know no class --

RESNET: dict[str, Any] = {
    "block": BasicBlock,
    "layers": [1, 1, 1, 1],
    "channels": [8, 8, 8, 16],
}


CONFIRMED: list[tuple[Any, dict[str, Any], str, str]] = [
    (VisionTransformer, {}, "output_is_that_of_a_model_built_that_way", "'prr'"),
    (Eva, {}, "prefix_tokens_come_with_intermediates", "UnboundLocalError"),
    (Beit, {"use_rel_pos_bias": True}, "own_checkpoint_passes_the_filter", "table"),
    (VisionTransformerDistilled, {}, "every_parameter_is_used", "reg_token"),
    (VisionTransformerDistilled, {}, "every_parameter_is_used", "fc_norm.weight"),
    (VisionTransformerDistilled, {}, "options_that_are_taken_matter", "'none'"),
    (
        VisionTransformerDistilled,
        {},
        "options_that_are_taken_run",
        "no_embed_class",
    ),
    (VisionTransformerDistilled, {}, "attributes_tell_classes_and_pool", "''"),
    (NaFlexVit, {}, "plain_vit_checkpoints_are_read", "reg_tokens=1"),
    (NaFlexVit, {}, "filter_leaves_the_checkpoint_alone", "cls_token"),
]


@pytest.mark.parametrize(("make", "options", "check", "words"), CONFIRMED)
def test_what_is_confirmed_of_timm_is_found(
    make: Any, options: dict[str, Any], check: str, words: str
) -> None:
    found = findings(make, check, **options)
    named = [finding for finding in found if words in finding.message]
    assert named
    assert fails(named[0], make)


OF_CNNS = (
    "forward_runs_after_resets",
    "constructor_refuses_what_forward_cannot_do",
    "head_without_a_pool_sees_channels",
)


@pytest.mark.parametrize("check", OF_CNNS)
def test_a_head_over_the_width_of_a_map_is_found(check: str) -> None:
    made = Subject(ResNet, kwargs=RESNET | {"num_classes": 5})
    found = run_check(CHECKS[check], made)
    assert [type(f) for f in found] == [Finding]
    assert fails(found[0], ResNet)


def test_pools_are_found_where_the_attribute_is_a_module() -> None:
    made = Subject(ResNet, kwargs=RESNET | {"num_classes": 5})
    assert isinstance(made.build().global_pool, SelectAdaptivePool2d)
    assert {"avg", "max", "avgmax", "catavgmax", ""} == set(made.pools)


def test_options_behind_kwargs_are_found() -> None:
    assert subject(VisionTransformerDistilled).options.keys() >= {"reg_tokens", "depth"}
    assert subject(NaFlexVit).options.keys() >= {"class_token", "fc_norm", "img_size"}
    assert timm.__version__
