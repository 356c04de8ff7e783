# SPDX-License-Identifier: Apache-2.0
"""Random small configurations of timm's other classes, beside timm.

Ten of each class; VITPOOL_TEST_EXAMPLES=20 makes them 200.
"""

from __future__ import annotations

from typing import Any

import families
import measure
import pytest
import reference
from dice import Dice, examples
from family_configurations import CLASSES, OPTIONS, input_size, timms
from golden import recipe
from test_random_configs import show

import vitpool
from vitpool import from_timm

RATIOS: list[float] = []


def built(kind: str, dice: Dice) -> tuple[Any, Any, dict[str, Any]]:
    """Ours, timm's and their options, with drawn weights."""
    options = OPTIONS[kind](dice)
    show(options=options)
    model = timms(kind, options)
    state = families.draw(model, dice.integer(0, 2**32))
    ours = getattr(vitpool, kind)(**options, weights=state)
    shapes = [(k, tuple(v)) for k, v in ours.param_shapes().items()]
    assert shapes == list(reference.shapes(model).items())
    return ours, model, options


def picture(dice: Dice, options: dict[str, Any], batch: int = 2) -> Any:
    size = input_size(dice, options)
    show(size=size)
    return recipe.picture((batch, options["in_chans"], *size))


def views(model: Any, x: Any) -> dict[str, Any]:
    """Without intermediates, whose order of tokens the next test has."""
    return {
        name: value
        for name, value in families.views(model, x)
        if name != "forward_intermediates"
    }


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("example", examples(10))
def test_a_random_configuration_agrees(kind: str, example: int) -> None:
    dice = Dice(f"{kind} configuration", example)
    ours, model, options = built(kind, dice)
    x = picture(dice, options)
    RATIOS.extend(families.check(ours, model, views, x))
    again = from_timm(model)
    assert type(again) is type(ours)
    assert again.param_shapes() == ours.param_shapes()
    assert again(x).tobytes() == ours(x).tobytes()


def test_errors_are_no_larger_than_timms_on_the_whole() -> None:
    """Over the configurations that ran before in this session."""
    if not RATIOS:
        pytest.fail("run this test together with the configurations")
    assert measure.mean_ratio(RATIOS) < 1.1


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("example", examples(4))
def test_random_intermediates_agree(kind: str, example: int) -> None:
    dice = Dice(f"{kind} intermediates", example)
    ours, model, options = built(kind, dice)
    depth = options["depth"]
    given: dict[str, Any] = {
        "indices": dice.pick(None, depth, [0], [-1, 0]),
        # timm's Eva fails to give tokens that there are not
        "return_prefix_tokens": bool(model.num_prefix_tokens) and dice.sometimes(),
        "norm": dice.pick(False, True),
        "stop_early": dice.pick(False, True),
        "output_fmt": dice.pick("NCHW", "NLC"),
        "intermediates_only": dice.pick(False, True),
    }
    show(given=given)

    def call(either: Any, x: Any) -> Any:
        return either.forward_intermediates(x, **given)

    families.check(ours, model, call, picture(dice, options))


@pytest.mark.parametrize("kind", [k for k in CLASSES if k != "NaFlexVit"])
@pytest.mark.parametrize("example", examples(3))
def test_random_input_sizes_agree(kind: str, example: int) -> None:
    dice = Dice(f"{kind} sizes", example)
    ours, model, options = built(kind, dice)
    patch = options["patch_size"]
    size = (dice.integer(2, 6) * patch[0], dice.integer(2, 6) * patch[1])
    show(size=size)

    def call(either: Any, x: Any) -> Any:
        return views(either, x)

    double = families.exact(model)
    families.resized((model, double, ours), size)
    x = recipe.picture((2, options["in_chans"], *size))
    plain = reference.plainly(model, call, x)
    right = reference.exactly(double, call, x)
    reference.compare(views(ours, x), right, plain)
