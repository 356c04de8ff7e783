# SPDX-License-Identifier: Apache-2.0
"""Lets tests import their helpers (`measure`, `golden.recipe`) from this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from rerun import (  # noqa: F401
    pytest_itemcollected,
    pytest_report_header,
    pytest_runtest_makereport,
)
