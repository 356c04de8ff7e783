# SPDX-License-Identifier: Apache-2.0
"""Replay: hashes of every golden output, on each target, with one thread and with more.

usage: python tools/replay.py [--base COMMIT]

A change that calls itself a refactoring keeps the bits. With --base the core of that
commit is built in build/replay/ and runs the same goldens; each output whose bits part
is named, and the exit status is 1. Bits differ from machine to machine (a compiler's, a
BLIS's, a libm's), so that hashes are compared, never stored.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
THREADS = (1, 2)


def hash_outputs() -> dict[str, str]:
    """{'case output': hash of its dtype, shape, bytes}, of the vitpool on the path."""
    sys.path.insert(0, str(ROOT / "tests"))
    import numpy as np

    golden = importlib.import_module("test_golden")
    found = {}
    for name, record in golden.CASES.items():
        for path, value in golden.outputs(golden.build(record), record).items():
            array = np.ascontiguousarray(value)
            digest = hashlib.blake2b(digest_size=8)
            digest.update(f"{array.dtype} {array.shape} ".encode())
            digest.update(array.tobytes())
            found[f"{name} {path}"] = digest.hexdigest()
    return found


def run(tree: Path, target: str, threads: int) -> dict[str, str]:
    """hash_outputs() in a process of its own, with the package of `tree`."""
    env = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "VITPOOL_TARGET": target,
        "VITPOOL_NUM_THREADS": str(threads),
    }
    command = [sys.executable, __file__, "--hash"]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
    hashes: dict[str, str] = json.loads(done.stdout)
    return hashes


def targets(tree: Path) -> list[str]:
    """The targets of this machine that the package of `tree` has."""
    ask = "import vitpool; print(*vitpool.show_config()['targets'])"
    env = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", ask], env=env, cwd=tree, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(f"replay: {tree} has no extension that loads:\n{done.stderr}")
    return done.stdout.split()


def build(commit: str) -> Path:
    """The tree of a commit with its extension, in build/replay/; made once."""
    git = ["git", "-C", str(ROOT)]
    done = subprocess.run(
        [*git, "rev-parse", "--short=12", f"{commit}^{{commit}}"],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"replay: no commit {commit!r} here")
    tree = ROOT / "build" / "replay" / done.stdout.strip()
    if not tree.exists():
        archive = subprocess.run(
            [*git, "archive", commit], stdout=subprocess.PIPE, check=True
        ).stdout
        tree.mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree,
        check=True,
    )
    return tree


def total(hashes: dict[str, str]) -> str:
    """One hash of all of them."""
    text = "\n".join(f"{name} {value}" for name, value in sorted(hashes.items()))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def main() -> int:
    """Print a line for each target and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", metavar="COMMIT", help="compare with this commit")
    parser.add_argument("--hash", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.hash:
        json.dump(hash_outputs(), sys.stdout)
        return 0
    base = build(args.base) if args.base else None
    common = targets(ROOT)
    if base is not None:
        there = targets(base)
        common = [target for target in common if target in there]
    status = 0
    for target in common:
        for threads in THREADS:
            now = run(ROOT, target, threads)
            line = f"{target:<10}{threads} thread(s)  {len(now)} outputs  {total(now)}"
            if base is not None:
                before = run(base, target, threads)
                parted = [name for name in now if before.get(name) != now[name]]
                line += f"  {args.base}: {total(before)}  "
                line += f"{len(parted)} parted" if parted else "the same bits"
                status = 1 if parted else status
            print(line, flush=True)
            for name in parted[:20] if base is not None else []:
                print(f"    {name}")
    return status


if __name__ == "__main__":
    sys.exit(main())
