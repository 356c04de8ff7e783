# SPDX-License-Identifier: Apache-2.0
"""The live comparison needs torch and timm, and fails where they are missing."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import prepare  # noqa: F401
import torch

# Small models wait for torch's threads more than they compute, and for ever where other
# tests have the cores: a thousand passes then took minutes that take a second.
torch.set_num_threads(1)
