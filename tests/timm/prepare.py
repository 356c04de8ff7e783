# SPDX-License-Identifier: Apache-2.0
"""Makes `import timm` work, or fail plainly: import this before timm."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from import_timm import timm

TIMM = "1.0.31"

# This folder is called timm too: without the package it would be found in its place.
if getattr(timm, "__version__", None) != TIMM:
    found = getattr(timm, "__version__", "none")
    raise ImportError(f"these tests compare with timm {TIMM}; found {found}")
