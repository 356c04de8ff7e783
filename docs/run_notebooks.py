# SPDX-License-Identifier: Apache-2.0
"""Run the notebooks of docs/, each from a fresh kernel, and keep what they print.

    python docs/run_notebooks.py [--check] [NOTEBOOK ...]

With --check nothing is written. A cell that raises is an error. Needs vitpool's extra
`docs`, and timm.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "notebooks"


def execute(path: Path) -> Any:
    """The notebook with new outputs, and without what changes from run to run."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    # What a cell runs by `!python` is this Python, not the machine's.
    here = str(Path(sys.executable).parent)
    environ = os.environ | {"PATH": os.pathsep.join((here, os.environ["PATH"]))}
    NotebookClient(
        notebook,
        timeout=300,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute(env=environ)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/jpeg"] = jpeg(output.data.pop("image/png"))
            if "text" in output:  # of a command, as a terminal ends its lines
                output.text = output.text.replace("\r\n", "\n")
    notebook.metadata.pop("language_info", None)
    return notebook


def jpeg(png: str) -> str:
    """A figure, PNG to JPEG (both in base64): a fifth of the bytes."""
    from PIL import Image

    figure = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    buffer = io.BytesIO()
    figure.save(buffer, "JPEG", quality=88, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> int:
    """Run them all, or those named."""
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    for path in args.notebooks or sorted(FOLDER.glob("*.ipynb")):
        notebook = execute(path)
        if not args.check:
            nbformat.write(notebook, path)
        print(f"{path.name}: {len(notebook.cells)} cells")
    return 0


if __name__ == "__main__":
    sys.exit(main())
