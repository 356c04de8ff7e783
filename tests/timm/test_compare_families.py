# SPDX-License-Identifier: Apache-2.0
"""vitpool.compare, facts, records and pins of timm's other classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import timm
from dice import Dice, examples
from family_configurations import CLASSES, OPTIONS, input_size, timms
from test_random_configs import show
from test_random_families import built
from test_records_live import check_as_timm_does

import vitpool
from vitpool.testing import compare, open_record, write_record
from vitpool.testing.comparison.facts import different, facts_of, facts_of_module
from vitpool.testing.comparison.opened import opened
from vitpool.testing.comparison.torch_module import TorchModule


def images(dice: Dice, options: dict[str, Any]) -> np.ndarray:
    """Pictures that every side takes: without a rest at their edges."""
    patch, size = options["patch_size"], input_size(dice, options)
    size = tuple(s // p * p for s, p in zip(size, patch, strict=True))
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, options["in_chans"], *size), np.float32)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("example", examples(4))
def test_timm_and_vitpool_are_alike_in_any_configuration(
    kind: str, example: int
) -> None:
    """No false alarm, in the whole and stage by stage; the configuration is one."""
    dice = Dice(f"compare {kind}", example)
    ours, module, options = built(kind, dice)
    x = images(dice, options)
    isolate = dice.pick(False, True)
    show(isolate=isolate)
    for pair in ((module, ours), (ours, module)):
        found = compare(*pair, x, isolate=isolate, rtol=1e-3)
        assert found.ok, str(found)
        assert not found.configuration, str(found)
        assert not found.parameters, str(found)
        names = [row.name for row in found.stages]
        blocks = {f"blocks.{i}.attn" for i in range(options["depth"])}
        assert blocks | {"pos_embed", "pool"} <= set(names)
    told = dict(TorchModule(module).stages(x))
    assert [row.name for row in found.stages] == [n for n in told if n in names]


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("example", examples(20))
def test_a_random_configuration_has_timms_facts(kind: str, example: int) -> None:
    options = OPTIONS[kind](Dice(f"facts {kind}", example))
    module = timms(kind, options)
    families.draw(module)
    found = different(facts_of_module(module), facts_of(vitpool.from_timm(module)))
    assert not found


def test_a_naflexvit_says_that_it_has_no_float64() -> None:
    ours, module, options = built("NaFlexVit", Dice("judge", 1))
    found = compare(module, ours, images(Dice("judge", 2), options), float64=True)
    assert "NaFlexVit cannot be had in float64" in str(found)


@pytest.mark.parametrize("kind", [k for k in CLASSES if k != "NaFlexVit"])
def test_both_draw_the_same_weights_and_are_judged_in_float64(kind: str) -> None:
    dice = Dice(f"judge {kind}", 1)
    ours, module, options = built(kind, dice)
    x = images(dice, options)
    found = compare(module, ours, x, randomize=True, float64=True)
    assert found.ok, str(found)
    assert not found.parameters
    # Two ways to float64, of which neither knows the other; timm's own keeps its
    # rotations and distances in float32.
    exact = [dict(opened(side).drawn(0).exact().stages(x)) for side in (module, ours)]
    for name, output in exact[0].items():
        assert output.dtype == np.float64
        limit = 1e-5 * max(1.0, np.abs(output).max())
        np.testing.assert_allclose(exact[1][name], output, rtol=0, atol=limit)


EVA = {
    "vit_small_patch16_rope_224": {},
    "eva02_base_patch16_clip_224": {},
    "vit_pe_core_tiny_patch16_384": {"attn_pool_num_heads": 4},
    "vit_small_patch16_dinov3": {},
}


@pytest.mark.parametrize("name", EVA)
def test_one_weight_of_a_block_says_that_block(name: str) -> None:
    options = {"img_size": 32, "embed_dim": 64, "depth": 3, "num_heads": 4}
    module = timm.create_model(name, **options | EVA[name]).eval()
    families.draw(module)
    ours = vitpool.from_timm(module)
    key = next(k for k in ours.param_shapes() if k.startswith("blocks.1.mlp.fc1"))
    changed = ours.get_parameter(key).copy()
    changed.flat[7] += 1
    ours.load_state_dict({key: changed}, strict=False)
    found = compare(module, ours, isolate=True)
    assert found.first.name == "blocks.1.mlp"
    assert [row.name for row in found.stages if not row.ok] == ["blocks.1.mlp"]


@pytest.mark.parametrize("name", EVA)
def test_a_record_of_an_eva_is_one_that_timms_own_test_takes(
    name: str, tmp_path: Path
) -> None:
    options = {"img_size": 32, "embed_dim": 64, "depth": 2, "num_heads": 4}
    module = timm.create_model(name, **options | EVA[name]).eval()
    families.draw(module)
    model = vitpool.from_timm(module)
    file = tmp_path / "record.safetensors"
    write_record(file, model)
    check_as_timm_does(module, file)
    assert compare(open_record(file), module, rtol=1e-3).ok
