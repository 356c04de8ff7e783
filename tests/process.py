# SPDX-License-Identifier: Apache-2.0
"""Python code in a process of its own, for what no test can do to its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`code` in a process of its own; a hang is an error."""
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=Path(__file__).parent,
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
