# SPDX-License-Identifier: Apache-2.0
"""Write the text of timm's models of tests/concepts.py: trees.txt in this folder.

    python tests/golden/make_trees.py

It needs timm 1.0.31 and torch; the test that reads the file needs neither. Each model
is a line `== name`, then its repr() and the names of its parameters.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent / "timm")]

import prepare  # noqa: E402, F401
from concept_models import build  # noqa: E402
from concepts import CONCEPTS  # noqa: E402
from test_tree import by_default, timms_text  # noqa: E402


def main() -> None:
    """Write the file."""
    lines = []
    for name in CONCEPTS:
        model = build(name)
        lines += [f"== {name}", by_default(timms_text(model))]
        lines += [key for key, _ in model.named_parameters()]
    (FOLDER / "trees.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
