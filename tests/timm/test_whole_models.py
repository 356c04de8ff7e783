# SPDX-License-Identifier: Apache-2.0
"""Three models of full size beside timm: outputs, attention pool, and from_timm."""

from __future__ import annotations

import pytest
import reference
import timm
from golden import recipe

import vitpool

NAMES = ("vit_tiny_patch16_224", "vit_base_patch16_224", "vit_base_patch16_siglip_224")


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_model_agrees(name: str) -> None:
    reference.torch.manual_seed(0)
    model = timm.create_model(name, num_classes=1000).eval()
    ours = vitpool.create_model(name, num_classes=1000, weights=reference.fill(model))
    x = recipe.picture((2, 3, 224, 224))
    reference.agree(ours, model, x, count=1)
    model.reset_classifier(2000, "avg")
    ours.reset_classifier(2000, "avg")
    ours.load_state_dict(reference.state(model))
    reference.agree(ours, model, x, count=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_model_as_timm_initialises_it(name: str) -> None:
    """Weights as small as untrained ones are, by way of from_timm."""
    reference.torch.manual_seed(0)
    model = timm.create_model(name).eval()
    ours = vitpool.from_timm(model)
    x = recipe.picture((2, 3, 224, 224))
    reference.agree(ours, model, x, count=1)
