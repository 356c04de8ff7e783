# SPDX-License-Identifier: Apache-2.0
"""Training of a head, a pool, the last blocks or all of a model, without torch.

>>> model.reset_classifier(10, "map", add_attn_pool=True)
>>> trainer = vitpool.train.Trainer(model, "pool", epochs=20)
>>> trainer.fit(images, labels, validation=(others, their_labels))

And pictures to train on: class folders and lists, and what draws them anew each epoch.
"""

from __future__ import annotations

from ..transforms.augment import Augment, create_augment
from .data import Pictures
from .features import features
from .folders import PictureFolder, PictureList
from .gradients import gradients
from .history import TrainingDiverged
from .losses import Loss
from .options import RECIPES, Recipe
from .parts import Part, features_of, logits_of, part_of
from .probes import DINOV2, VJEPA2, Probes
from .stored import Features
from .trainer import Trainer

__all__ = [
    "DINOV2",
    "RECIPES",
    "VJEPA2",
    "Augment",
    "Features",
    "Loss",
    "Part",
    "PictureFolder",
    "PictureList",
    "Pictures",
    "Probes",
    "Recipe",
    "Trainer",
    "TrainingDiverged",
    "create_augment",
    "features",
    "features_of",
    "gradients",
    "logits_of",
    "part_of",
]
