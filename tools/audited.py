# SPDX-License-Identifier: Apache-2.0
"""Run the programs of an audit, and write docs/audited.md.

python tools/audited.py AUDIT.json [--markdown FILE] [--kinds]

AUDIT.json is what `tools/audit_timm.py --json` printed. A program has to fail, and with
what its finding tells: one that ends well, or falls over something else, is a fault of
the check and is printed; then the exit code is 1.

The programs of the page, one of each kind of fault in a check, run in a fresh process
each. Those of the same fault in other classes run in forks of one that has imported
timm, but for those that start a Python of their own. --kinds: the page's alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

from vitpool.testing.audit import Audit
from vitpool.testing.audit.groups import grouped
from vitpool.testing.audit.page import audits_of, markdown
from vitpool.testing.audit.timm import entries

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

TOOLS = Path(__file__).resolve().parent
WORDS = tomllib.loads((TOOLS / "audited.toml").read_text("utf-8"))
SECONDS = 300
# '  File "<string>", line 12, in build': where the program itself was.
FRAME = re.compile(r'^  File "([^"]+)", line \d+', re.MULTILINE)


def run_program(text: str) -> subprocess.CompletedProcess[str]:
    """A program by itself, in a new interpreter where timm can be imported."""
    path = os.pathsep.join([str(TOOLS / "fresh"), str(TOOLS.parent)])
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def run_forked(text: str) -> subprocess.CompletedProcess[str]:
    """The same in a fork of this process, which has timm, and computes nothing."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            signal.alarm(SECONDS)
            for stream in (1, 2):
                os.dup2(said.fileno(), stream)
            os._exit(_exit_code(text))
        _, status = os.waitpid(child, 0)
        said.seek(0)
        stderr = said.read().decode("utf-8", "replace")
    code = os.waitstatus_to_exitcode(status)
    return subprocess.CompletedProcess(text, code, "", stderr)


def _exit_code(text: str) -> int:
    """What a program ends with when this process runs it; the traceback is written."""
    warnings.simplefilter("ignore")
    sys.modules["torch"].set_num_threads(1)
    try:
        exec(compile(text, "<string>", "exec"), {"__name__": "__main__"})
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        return 1
    return 0


def objection(message: str, done: subprocess.CompletedProcess[str]) -> str:
    """Why that run does not show what the message tells; '' where it does.

    It shows it by an assert of its own, by the error that the message quotes, or by the
    want of an attribute that the message names.
    """
    if done.returncode == 0:
        return "it passes"
    lines = done.stderr.strip().splitlines()
    if not lines:
        return f"exit code {done.returncode} and not a word"
    frames = FRAME.findall(done.stderr)
    last = lines[-1]
    kind, _, text = last.partition(": ")
    own = bool(frames) and frames[-1] == "<string>"
    if own and kind == "AssertionError":
        return ""
    said = f"{kind}: {text}" if text else kind
    if kind in message or (text and _plain(text)[:40] in _plain(message)):
        return ""
    wanted = re.search(r"has no attribute '(\w+)'$", last)
    if wanted and wanted[1] in message:
        return ""
    return f"it fails otherwise: {said}"


def _plain(text: str) -> str:
    """Text without the numbers, which differ from run to run."""
    return re.sub(r"[\d.e-]+", "#", text)


def objections(
    programs: list[tuple[str, str, str]],
    run: Callable[[str], subprocess.CompletedProcess[str]] = run_program,
) -> list[str]:
    """Of (name, message, program) those that do not show what they tell, and why."""

    def judged(item: tuple[str, str, str]) -> str:
        name, message, program = item
        try:
            why = objection(message, run(program))
        except subprocess.TimeoutExpired:
            why = f"it runs longer than {SECONDS} s"
        return f"{name}: {message}\n    {why}" if why else ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [line for line in pool.map(judged, programs) if line]


def programs_of(audits: list[Audit], kinds: bool) -> list[tuple[str, str, str]]:
    """What is to be run: each finding, or one of each kind."""
    if kinds:
        return [
            (f"{kind.names[0]}: {group.check}", kind.message, kind.reproduce)
            for group in grouped(audits)
            for kind in group.kinds
        ]
    return [
        (f"{audit.name}: {finding.check}", finding.message, finding.reproduce)
        for audit in audits
        for finding in audit.findings
    ]


def run_of(document: dict[str, Any], audits: list[Audit]) -> str:
    """What the audit took, when and where, in a sentence."""
    names = re.findall(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    cpu = f"{len(names)} cores of {names[0]}" if names else platform.machine()
    had = {audit.name for audit in audits}
    left = [entry.name for entry in entries() if entry.name not in had]
    return (
        f"On {date.today()} the audit of {len(audits)} models took "
        f"{document['seconds'] / 60:.0f} minutes, {document['jobs']} at a time, on "
        f"{cpu}, with torch {document['torch']}."
        + (f" Not among them: {', '.join(left)}." if left else "")
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("audit", type=Path)
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--kinds", action="store_true")
    options = parser.parse_args(argv)
    document: dict[str, Any] = json.loads(options.audit.read_text("utf-8"))
    audits = audits_of(document)
    shown = programs_of(audits, kinds=True)
    wrong = objections(shown)
    others = []
    if not options.kinds:
        rest = programs_of(audits, kinds=False)
        others = [p for p in rest if p not in shown and "subprocess" not in p[2]]
        importlib.import_module("import_timm")
        wrong += objections(others, run_forked)
    for line in wrong:
        print(line)
    count = len(shown) + len(others)
    print(f"{count - len(wrong)} of {count} programs show their finding")
    if options.markdown:
        title = f"timm {document['timm']}, audited"
        lead = f"{WORDS['lead'].strip()}\n\n{run_of(document, audits)}"
        page = markdown(audits, title, lead, WORDS["vitpool"])
        options.markdown.write_text(page, "utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
