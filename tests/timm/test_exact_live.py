# SPDX-License-Identifier: Apache-2.0
"""Our float64 beside timm's: two programs of one answer, which no rounding parts."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import reference
from configurations import configuration, input_size
from dice import Dice, examples
from golden import recipe
from test_exact import ROUNDING, stages, views
from test_random_configs import models

from vitpool.testing.comparison.exact import ExactVit


@pytest.mark.parametrize("example", examples(60))
def test_a_random_configuration_is_timms_float64(example: int) -> None:
    dice = Dice("exact, live", example)
    options, seed = configuration(dice), dice.integer(0, 2**32)
    ours, model = models(options, seed)
    x = recipe.picture((2, *input_size(options)), seed)
    found = views(stages(ExactVit(ours), x))
    double = copy.deepcopy(model).double()
    for name, want in reference.exactly(double, reference.views, x).items():
        assert found[name].shape == want.shape
        assert np.abs(found[name] - want).max() <= ROUNDING * np.abs(want).max()
