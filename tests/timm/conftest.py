# SPDX-License-Identifier: Apache-2.0
"""The live comparison needs torch and timm, and fails where they are missing."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import prepare  # noqa: F401
