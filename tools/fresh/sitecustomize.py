# SPDX-License-Identifier: Apache-2.0
"""Read by each Python that starts with this folder on PYTHONPATH: `import timm` works.

For programs that import timm by themselves, as the snippets of an audit do, where
torchvision does not load beside torch (`import_timm.py`).
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import import_timm  # noqa: F401
