# SPDX-License-Identifier: Apache-2.0
"""Put what a program measured of this CPU into its section of a Markdown file.

usage: python -m benchmarks.kernel_table PROGRAM FILE

PROGRAM prints a section that begins with a line "## CPU". It takes the place of the
file's section of that name, or comes last; the other sections stay as they are.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def refresh(text: str, section: str) -> str:
    """Return text with the section in the place of the one with the same first line."""
    title = section.partition("\n")[0]
    head, *sections = re.split(r"(?m)^(?=## )", text)
    old = [s.partition("\n")[0] for s in sections]
    if title in old:
        sections[old.index(title)] = section
    else:
        sections.append(section)
    return "\n\n".join(part.strip() for part in [head, *sections]) + "\n"


def main() -> None:
    """Run the program and rewrite the file."""
    program, path = sys.argv[1], Path(sys.argv[2])
    section = subprocess.run([program], check=True, capture_output=True, text=True)
    path.write_text(refresh(path.read_text(), section.stdout))
    print(section.stdout, end="")


if __name__ == "__main__":
    main()
