# SPDX-License-Identifier: Apache-2.0
"""`vitpool audit`: is a classifier sound when its classes and its pool are switched?"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import sys
import textwrap
import time
from typing import Any

from ..text import did_you_mean
from .errors import CANNOT, OK, UsageError
from .given import is_object, load_object, source_of
from .options import AS_JSON, KEY_VALUES, count
from .progress import page_file, print_json, print_text, progress

FOUND = 1  # as grep has it: an answer, and no error
FORMS = "timm[:PATTERN], vitpool[:PATTERN], file.py:Class or torch:package.module:Class"


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "audit",
        help="tell what is wrong when a classifier's classes and pool are switched",
        description="Build small models of a class, switch their classes and pools in "
        "every way, and tell what is wrong: names that are taken for others, weights "
        "lost, models that compute what no model built that way does, state that a "
        "refused call leaves behind. Each finding has a program that shows it (-v).\n"
        "Severity A: wrong numbers without an error; B: accepted, and fails later; C: "
        "inconsistent; D: cosmetic. Exit code 0: no finding; 1: there are; 2: it "
        "cannot run.\n"
        "Each class runs in a process of its own, so that a crash is a finding.",
        examples=[
            "vitpool audit fork.py:ViT --kwargs img_size=32 embed_dim=32 depth=2",
            "vitpool audit timm:vision_transformer.* --html page.html",
            "vitpool audit vitpool:vit_*siglip*",
            "vitpool audit timm:Eva --only output_is_that_of_a_model_built_that_way -v",
        ],
    )
    sub.add_argument(
        "subject",
        nargs="*",
        metavar="CLASS",
        help="timm[:PATTERN] (classes of timm.models, as timm:resnet.*), "
        "vitpool[:PATTERN] (architectures of `vitpool list`), file.py:Class or "
        "torch:package.module:Class, or a function that makes a model",
    )
    sub.add_argument(
        "--kwargs",
        **KEY_VALUES,
        help="options of the small model that is audited, as img_size=32 depth=2",
    )
    sub.add_argument(
        "--only", action="append", metavar="CHECK", help="this check alone; repeatable"
    )
    sub.add_argument(
        "--skip", action="append", metavar="CHECK", help="not this check; repeatable"
    )
    sub.add_argument(
        "--list", action="store_true", help="print the checks and what each pins"
    )
    sub.add_argument(
        "-j",
        "--jobs",
        type=count(1),
        metavar="N",
        help="processes at once (default: as many as there are CPUs)",
    )
    sub.add_argument(
        "--timeout",
        type=count(1),
        default=300,
        metavar="SECONDS",
        help="for one check; a longer one is a finding (default %(default)s)",
    )
    sub.add_argument("--json", **AS_JSON)
    sub.add_argument("--html", metavar="FILE", help="write a page")
    sub.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="print the programs that show the findings, and what was skipped",
    )
    sub.add_argument("-q", "--quiet", action="store_true", help="no bar")
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from .. import show_config
    from ..testing.audit.page import document, html_page, table
    from ..testing.audit.process import audit_many
    from ..testing.audit.registry import chosen

    only, skip = args.only or (), args.skip or ()
    checks = chosen(only, skip)
    if args.list:
        _print_checks(checks, args.json)
        return OK
    if not args.subject:
        raise UsageError(f"say what to audit: {FORMS}")
    entries, audits = [], []
    for text in args.subject:
        own, told = _entries(text)
        entries += [
            dataclasses.replace(entry, kwargs=entry.kwargs | args.kwargs)
            for entry in own
        ]
        audits += [] if only else told
    jobs = args.jobs or show_config()["cpus"]
    options = {"only": only, "skip": skip, "jobs": jobs, "seconds": args.timeout}
    began = time.monotonic()
    with page_file(args.html) as page:
        running = audit_many(entries, **options)
        with (
            contextlib.closing(running),
            progress(args, len(entries), "class") as bar,
        ):
            for audit in running:
                audits.append(audit)
                bar.set_postfix_str(audit.name, refresh=False)
                bar.update()
        places = {entry.name: place for place, entry in enumerate(entries)}
        audits.sort(key=lambda audit: places.get(audit.name, len(places)))
        if page is not None:
            title = f"vitpool audit {' '.join(args.subject)}"
            page.write(html_page(audits, title).encode())
    if args.json:
        took = {"seconds": round(time.monotonic() - began, 1), "jobs": jobs}
        print_json({**_versions(), **took, **document(audits)})
    else:
        for line in table(audits).splitlines():
            print_text(line)
        for audit in audits if args.verbose else ():
            print_text("")
            for line in audit.lines(verbose=True):
                print_text(line)
    if any(audit.findings for audit in audits):
        return FOUND
    return OK if all(audit.ok for audit in audits) else CANNOT


def _print_checks(checks: list[Any], as_json: bool) -> None:
    """The names of checks, and the sentence of each."""
    if as_json:
        print_json({check.name: check.sentence for check in checks})
        return
    for check in checks:
        print_text(check.name)
        for line in textwrap.wrap(check.sentence, 80, break_on_hyphens=False):
            print_text(f"    {line}")


def _entries(text: str) -> tuple[list[Any], list[Any]]:
    """What a subject names: entries to run, and reports of what cannot be run."""
    from ..testing.audit.own import own_models
    from ..testing.audit.timm import Entry, classes, unaudited

    kind, _, pattern = text.partition(":")
    if kind == "vitpool":
        return own_models(pattern), []
    if kind == "timm":
        importlib.import_module("timm.models")  # here, that no process has to
        return classes(pattern or "*"), unaudited(pattern or "*")
    if not is_object(text):
        hint = did_you_mean(kind, ("timm", "vitpool"))
        raise UsageError(f"{text}: must be {FORMS}{hint}")
    load_object(text)
    return [Entry(text, source_of(text), None)], []


def _versions() -> dict[str, str]:
    """What was audited, and by what."""
    from .. import __version__

    modules = [(name, sys.modules.get(name)) for name in ("timm", "torch")]
    return {"vitpool": __version__} | {
        name: str(module.__version__) for name, module in modules if module is not None
    }
