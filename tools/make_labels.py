#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write vitpool/labels/data/imagenet*.txt* from the lists that timm ships (needs timm).

    python tools/make_labels.py [--check]

One line a class: `synset <TAB> lemmas`, and for the larger sets a third column of
letters saying which sets the class is in (see SETS); within a set the order of the
lines is the order of the classes. `--check` compares instead of writing.
The text is WordNet's; its licence, which asks to travel along, is beside it.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import sys
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "vitpool" / "labels" / "data"
SETS = {
    "a": "imagenet12k_synsets.txt",
    "b": "imagenet22k_synsets.txt",
    "c": "imagenet21k_goog_synsets.txt",
    "d": "imagenet21k_miil_synsets.txt",
}


def timm_info() -> Path:
    """Find timm's label files without importing timm (and torch)."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        sys.exit("make_labels: timm is not installed")
    return Path(spec.origin).parent / "data" / "_info"


def build() -> dict[str, bytes]:
    """Return file name -> content."""
    info = timm_info()
    text = (info / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8")
    lemmas = dict(line.split("\t", 1) for line in text.splitlines())

    def synsets(name: str) -> list[str]:
        return (info / name).read_text(encoding="utf-8").split()

    small = "".join(f"{s}\t{lemmas[s]}\n" for s in synsets("imagenet_synsets.txt"))
    members: dict[str, str] = {}
    for letter, name in SETS.items():
        names = synsets(name)
        if names != sorted(names):
            sys.exit(f"make_labels: {name} is not sorted, so one file cannot hold it")
        for synset in names:
            members[synset] = members.get(synset, "") + letter
    large = "".join(f"{s}\t{lemmas[s]}\t{members[s]}\n" for s in sorted(members))
    return {
        "imagenet1k.txt": small.encode(),
        # mtime=0: the same input gives the same bytes
        "imagenet21k.txt.gz": gzip.compress(large.encode(), 9, mtime=0),
    }


def main() -> int:
    """Write or check the files; returns the exit code."""
    parser = argparse.ArgumentParser(description="write the ImageNet label files")
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    check = parser.parse_args().check
    for name, content in build().items():
        path = OUT / name
        if not check:
            OUT.mkdir(exist_ok=True)
            path.write_bytes(content)
            print(f"{path.name}: {len(content)} bytes")
            continue
        here = path.read_bytes()
        if name.endswith(".gz"):  # zlib versions may differ in the compressed bytes
            here, content = gzip.decompress(here), gzip.decompress(content)
        if here != content:
            sys.exit(f"make_labels: {name} is out of date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
