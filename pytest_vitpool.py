# SPDX-License-Identifier: Apache-2.0
"""vitpool's plugin for pytest: the fixture `model_regression`.

It is beside the package, not in it, as every start of pytest imports it: the package
and NumPy come when a test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vitpool.testing.plugin import ModelRegression


@pytest.fixture
def model_regression(request: pytest.FixtureRequest) -> ModelRegression:
    """Pins a model to a record: `model_regression.check(model)`.

    The first run writes the record beside the test, and fails; `--force-regen` accepts
    what a model has become. See vitpool.testing.plugin.ModelRegression.check.
    """
    from vitpool.testing.plugin import ModelRegression

    return ModelRegression(request)
