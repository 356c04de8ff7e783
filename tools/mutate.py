#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plants faults into a copy of the tree, one at a time: each must turn its tests red.

    make mutate                        every fault
    make mutate FAULTS="ID ID ..."     these
    make mutate SAMPLE=20              so many, drawn by a seed that is printed
    python tools/mutate.py --list      what there is
    python tools/mutate.py --table     writes CONTRIBUTING's table

The faults are in tests/faults/*.toml. A fault has an `id`, the `file` that it changes,
`what` goes wrong, the exact `old` text, which the file holds once, the `new` one, and
`red`: the tests that must fail, each a node of pytest, or a program of tests/c after
its environment ("VITPOOL_UKR=blis tests/c/test_gemm.c", and VITPOOL_SANITIZE=thread
where chance decides without). A fault that no test can notice on a lesser CPU `needs` a
target of csrc/base/targets.h: where the machine has not got it, the fault is not tried,
and that is told.

A test that stays green is an error, and so is one that is red without the fault, and a
fault that cannot be planted or built. The copy is build/mutate.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[1]
FAULTS = ROOT / "tests" / "faults"
TREE = ROOT / "build" / "mutate"
TABLE = ROOT / "CONTRIBUTING.md"
TIMEOUT = 300  # seconds; a test that hangs is red


class Refused(Exception):
    """The fault cannot be tried; the message says why."""


@dataclass(frozen=True)
class Fault:
    """One line to break, and who must notice."""

    id: str
    file: str
    what: str
    old: str
    new: str
    red: tuple[str, ...]
    needs: str = "baseline"

    def planted(self, text: str) -> str:
        """The file's text with the fault in it."""
        count = text.count(self.old)
        if count != 1:
            raise Refused(f"{self.file} holds the old text {count} times, not once")
        return text.replace(self.old, self.new)


def read_faults() -> list[Fault]:
    """All faults, in the order of the files; ids and texts are checked."""
    faults: list[Fault] = []
    for path in sorted(FAULTS.glob("*.toml")):
        for entry in tomllib.loads(path.read_text())["fault"]:
            fault = Fault(**{**entry, "red": tuple(entry["red"])})
            if not fault.red or fault.old == fault.new:
                raise ValueError(f"{path.name}: {fault.id} has no test or no change")
            faults.append(fault)
    ids = [fault.id for fault in faults]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ValueError(f"two faults are called {', '.join(twice)}")
    return faults


# ------------------------------------------------------------------------- the copy


def sources() -> set[Path]:
    """Every file of the working tree that git tracks or would track."""
    command = ["git", "ls-files", "-z", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    names = {Path(os.fsdecode(name)) for name in listed.split(b"\0") if name}
    return {name for name in names if (ROOT / name).is_file()}


def refresh() -> None:
    """Bring the copy up to the working tree; what has not changed keeps its time."""
    wanted = sources()
    for path in list(TREE.rglob("*")):
        name = path.relative_to(TREE)
        made = name.parts[0] == "build" or path.suffix == ".so"
        if path.is_file() and name not in wanted and not made:
            path.unlink()
    for name in wanted:
        data, copy = (ROOT / name).read_bytes(), TREE / name
        if not copy.exists() or copy.read_bytes() != data:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
            shutil.copymode(ROOT / name, copy)


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """The copy with the fault in it."""
    path = TREE / fault.file
    if not path.exists():
        raise Refused(f"there is no {fault.file}")
    before = path.read_text()
    path.write_text(fault.planted(before))
    try:
        yield
    finally:
        path.write_text(before)  # newer than the object made of the fault


# ------------------------------------------------------------------- building, testing


def run(
    command: Sequence[str], **variables: str
) -> subprocess.CompletedProcess[str] | None:
    """Run a command in the copy; None where it does not end."""
    # Bytecode is told apart by whole seconds: it could miss a fault, or outlive it.
    own = {"PYTHONPATH": str(TREE), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(
            command,
            cwd=TREE,
            env=os.environ | own | variables,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return None


def is_program(test: str) -> bool:
    """Is the test a program of tests/c?"""
    return test.endswith(".c")


def parts(test: str) -> tuple[dict[str, str], str]:
    """The environment of a test, and the program's path or pytest's node."""
    if not is_program(test):
        return {}, test
    *variables, path = test.split()
    return dict(v.split("=", 1) for v in variables), path


def build(tests: Sequence[str]) -> None:
    """Build what these tests need."""
    programs = [parts(test) for test in tests if is_program(test)]
    steps = [
        (given, ["build_ctests", f"--only={Path(p).stem}"]) for given, p in programs
    ]
    if any(not is_program(test) for test in tests):
        steps.append(({}, ["build_ext", "--inplace"]))
    for given, step in steps:
        done = run([sys.executable, "setup.py", "-q", *step], **given)
        if done is None or done.returncode != 0:
            raise Refused(f"does not build: {done.stderr if done else 'no end'}")


def notices(test: str) -> bool:
    """Does the test fail?"""
    if is_program(test):
        variables, path = parts(test)
        variant = variables.get("VITPOOL_SANITIZE", "")
        # as in the Makefile's tsan
        before = ["setarch", "-R"] if variant == "thread" else []
        variables["TSAN_OPTIONS"] = "die_after_fork=0"
        program = Path("build", variant, "ctests", Path(path).stem)
        done = run([*before, str(program)], **variables)
        return done is None or done.returncode != 0
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = run([*pytest, test])
    if done is not None and done.returncode > 1:
        # 2 to 5: the test did not run, for instance since the module cannot be imported
        raise Refused(f"{test} does not run:\n{done.stdout}{done.stderr}")
    return done is None or done.returncode != 0


def check_unbroken(faults: Iterable[Fault]) -> None:
    """Raise Refused where a test is red, or not there, without any fault."""
    tests = sorted({test for fault in faults for test in fault.red})
    build(tests)
    bad = [test for test in tests if is_program(test) and notices(test)]
    nodes = [test for test in tests if not is_program(test)]
    if nodes:
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        done = run([*pytest, *nodes])
        if done is None or done.returncode != 0:
            bad.append(done.stdout + done.stderr if done else "pytest does not end")
    if bad:
        raise Refused("red without any fault:\n" + "\n".join(bad))


def targets() -> set[str]:
    """The targets that this machine can run."""
    build(["tests"])
    ask = "import vitpool; print(*vitpool.show_config()['targets'])"
    done = run([sys.executable, "-c", ask])
    if done is None or done.returncode != 0:
        raise Refused(f"no targets: {done.stderr if done else 'no end'}")
    return set(done.stdout.split())


def lacking(faults: Sequence[Fault]) -> list[Fault]:
    """The faults whose target this machine has not got."""
    if all(fault.needs == "baseline" for fault in faults):
        return []
    here = targets()
    return [fault for fault in faults if fault.needs not in here]


def elsewhere(fault: Fault) -> str:
    """Where the old text is now, for a fault whose file has lost it."""
    folder, ending = Path(fault.file).parts[0], Path(fault.file).suffix
    texts = {
        str(name): (ROOT / name).read_text()
        for name in sources()
        if name.parts[0] == folder and name.suffix == ending
    }
    found = [name for name, text in texts.items() if text.count(fault.old) == 1]
    return f"; it is in {found[0]}" if len(found) == 1 else ""


def tried(fault: Fault) -> str:
    """What is wrong with this fault or its tests; '' is as it should be."""
    try:
        with planted(fault):
            build(fault.red)
            green = [test for test in fault.red if not notices(test)]
    except Refused as error:
        moved = elsewhere(fault) if "old text 0 times" in str(error) else ""
        return f"{error}{moved}"
    return f"stays green: {', '.join(green)}" if green else ""


# ---------------------------------------------------------------------------- the table

START, END = "<!-- faults: tools/mutate.py --table -->\n", "<!-- faults end -->"


def short(test: str) -> str:
    """A test as the table has it."""
    variables, path = parts(test)
    given = [f"{name}={value}" for name, value in variables.items()]
    name = re.sub(r"\[.*\]$", "", path.rpartition("::")[2])
    return f"`{' '.join([*given, name if '::' in path else Path(path).stem])}`"


def table(faults: Iterable[Fault]) -> str:
    """CONTRIBUTING's table of all faults."""
    rows = []
    for fault in faults:
        red = ", ".join(dict.fromkeys(map(short, fault.red)))
        rows.append(f"| `{fault.id}` | {fault.what} (`{fault.file}`) | {red} |\n")
    return (
        f"{START}| Fault | What it breaks | Red |\n|---|---|---|\n{''.join(rows)}{END}"
    )


def with_table(text: str, faults: Iterable[Fault]) -> str:
    """The document with the current table."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError("the document has no place for the table")
    return before + table(faults) + after


# ----------------------------------------------------------------------------- command


def chosen(faults: list[Fault], args: argparse.Namespace) -> list[Fault]:
    """The faults that the command line asks for."""
    unknown = set(args.ids) - {fault.id for fault in faults}
    if unknown:
        sys.exit(f"no such fault: {', '.join(sorted(unknown))}")
    if args.ids:
        return [fault for fault in faults if fault.id in args.ids]
    if args.sample and args.sample < len(faults):
        seed = args.seed if args.seed is not None else random.randrange(10**6)
        print(f"again: python tools/mutate.py --sample {args.sample} --seed {seed}")
        picked = random.Random(seed).sample(range(len(faults)), args.sample)
        return [faults[i] for i in sorted(picked)]
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ids", nargs="*", metavar="ID", help="faults; none: all")
    parser.add_argument("--sample", type=int, metavar="N", help="this many of them")
    parser.add_argument("--seed", type=int, help="of the sample")
    parser.add_argument("--list", action="store_true", help="list the faults")
    parser.add_argument("--table", action="store_true", help="write CONTRIBUTING's")
    args = parser.parse_args()
    faults = read_faults()
    if args.table:
        TABLE.write_text(with_table(TABLE.read_text(), faults))
        return 0
    faults = chosen(faults, args)
    if args.list:
        for fault in faults:
            print(f"{fault.id}: {fault.what}\n    {', '.join(fault.red)}")
        return 0

    TREE.mkdir(parents=True, exist_ok=True)
    with open(TREE.with_name("mutate.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refresh()
        try:
            for fault in lacking(faults):
                print(f"{fault.id}: not tried, it needs a CPU with {fault.needs}")
                faults.remove(fault)
            check_unbroken(faults)
        except Refused as error:
            sys.exit(str(error))
        bad = []
        for fault in faults:
            start = time.monotonic()
            wrong = tried(fault)
            took = f"{time.monotonic() - start:.1f} s"
            print(f"{fault.id}: {wrong or 'red'}, {took}", flush=True)
            if wrong:
                bad.append(fault.id)
    print(f"{len(faults) - len(bad)} of {len(faults)} faults are noticed")
    if bad:
        print(f"again: python tools/mutate.py {' '.join(bad)}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
