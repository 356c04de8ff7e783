# SPDX-License-Identifier: Apache-2.0
"""Pictures drawn anew for training: timm's training transform on Pillow, without torch.

random resized crop -> flips -> RandAugment -> colour jitter -> grey -> normalised in C
-> random erasing. Ranges, probabilities and pixels are those of timm and torchvision;
what is drawn depends on the seed, the epoch and the picture's index alone.
"""

from __future__ import annotations

from .augment import Augment, create_augment
from .rand_augment import RandAugment

__all__ = ["Augment", "RandAugment", "create_augment"]
