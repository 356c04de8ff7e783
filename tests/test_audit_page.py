# SPDX-License-Identifier: Apache-2.0
"""An audit told: all forms tell the same, and one fault of many classes once."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from vitpool.testing.audit import SEVERITIES, Audit, Finding, Skip
from vitpool.testing.audit.groups import grouped
from vitpool.testing.audit.page import (
    audits_of,
    document,
    html_page,
    markdown,
    table,
)

CHECK = "forward_runs_after_resets"
OTHER = "near_misses_are_refused_by_reset"


def lost(n: int) -> Finding:
    message = f"'avg', reset_classifier({n}, '') is accepted, then forward fails: {n}x2"
    return Finding(CHECK, "B", message, f"model = make({n})\nmodel(x)\n")


AUDITS = (
    Audit("a.A", (lost(7), Finding(OTHER, "A", "'<b>' is taken", "1 / 0")), (), ()),
    Audit("b.B", (lost(9),), (Skip(OTHER, "its models tell of no pool"),), ()),
    Audit("c.C", (), (), (CHECK, OTHER)),
    Audit("d.D", (), (Skip(CHECK, "KeyError: 'x'", failed=True),), ()),
)
ANSWERS = {CHECK: "it refuses.", OTHER: "it refuses, too."}


class Text(HTMLParser):
    """The words of a page, and the tags that are open at its end."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def forms() -> dict[str, str]:
    return {
        "table": table(AUDITS),
        "html": Text(html_page(AUDITS)).text,
        "markdown": re.sub(r"\\(\W|_)", r"\1", markdown(AUDITS, "", "", ANSWERS)),
    }


def test_one_fault_of_two_classes_is_one_entry():
    worst, then = grouped(AUDITS)
    assert (worst.check, worst.severity, worst.names) == (OTHER, "A", ("a.A",))
    assert (then.check, then.names) == (CHECK, ("a.A", "b.B"))
    assert [kind.message for kind in then.kinds] == [lost(7).message]
    assert then.sentence  # of the check of that name


def test_two_faults_of_one_check_stay_two():
    other = Finding(CHECK, "B", "'max', built so, loses its norm", "")
    (group,) = grouped([*AUDITS[1:], Audit("e.E", (other, lost(1)), (), ())])
    assert [kind.names for kind in group.kinds] == [("b.B", "e.E"), ("e.E",)]


def test_the_attributes_of_one_module_are_one_place():
    texts = ("head.pool, head.flatten", "head.fc.drop", "head, norm.eps")
    found = [
        Audit(f"{text}.A", (Finding(CHECK, "C", f"it has changed {text}", ""),), (), ())
        for text in texts
    ]
    (group,) = grouped(found)
    assert [len(kind.names) for kind in group.kinds] == [2, 1]


@pytest.mark.parametrize("form", ["table", "html", "markdown"])
def test_each_form_tells_every_finding_and_every_class(form):
    text = forms()[form]
    for group in grouped(AUDITS):
        assert group.check in text
        for kind in group.kinds:
            assert text.count(kind.message) == 1
    for audit in AUDITS:
        assert audit.name in text
    assert "KeyError" in text  # what broke is never left out


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_a_page_has_each_program_and_what_was_not_checked(form):
    text = forms()[form]
    for group in grouped(AUDITS):
        for kind in group.kinds:
            assert text.count(kind.reproduce.strip()) == 1
        assert group.sentence[1:] in text
    assert "its models tell of no pool" in text


def test_the_page_of_html_needs_no_other_file_and_takes_text_as_text():
    page = html_page(AUDITS, title="a & b")
    assert "<b>" not in page
    assert "a &amp; b" in page
    assert not {"link", "script", "img"} & set(Text(page).tags)
    assert "http" not in page


def test_markdown_wants_an_answer_for_every_check_with_a_finding():
    with pytest.raises(KeyError, match=OTHER):
        markdown(AUDITS, "title", "lead", {CHECK: "it refuses."})
    page = markdown(AUDITS, "title", "lead", ANSWERS)
    assert "vitpool: it refuses, too." in page


def test_the_document_is_json_and_gives_the_reports_back():
    told = document(AUDITS)
    assert told["counts"] == dict.fromkeys(SEVERITIES, 0) | {"A": 1, "B": 2}
    assert told["ok"] is False
    assert tuple(audits_of(json.loads(json.dumps(told)))) == AUDITS


def test_no_finding_is_said():
    sound = [AUDITS[2]]
    assert document(sound)["ok"] is True
    assert "no finding" in html_page(sound)
    assert "c.C" in table(sound)
