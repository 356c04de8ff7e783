# SPDX-License-Identifier: Apache-2.0
"""`vitpool audit timm`, where timm is imported by way of `import_timm.py`.

python tools/audit_timm.py [PATTERN] [options of vitpool audit]

    python tools/audit_timm.py 'vision_transformer*'
    python tools/audit_timm.py --json > build/audit.json

Without a pattern all of timm's classes are audited, in half an hour. `tools/audited.py`
runs the programs of what is found, and makes docs/audited.md of it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS.parent))

from import_timm import timm  # noqa: E402, F401

from vitpool.cli import main  # noqa: E402


def run(argv: list[str]) -> int:
    """The command's exit code; its own processes find timm too."""
    fresh = [str(TOOLS / "fresh"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, fresh))
    given, options = argv[:1], argv[1:]
    if given and given[0].startswith("-"):
        given, options = [], argv
    return main(["audit", ":".join(["timm", *given]), *options])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
