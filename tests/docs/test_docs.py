# SPDX-License-Identifier: Apache-2.0
"""What the documents say about the tree is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import vitpool

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
PAGES = ["README.md", "CONTRIBUTING.md", "csrc/README.md", "vitpool/README.md", *(
    str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md"))
)]  # fmt: skip


def test_the_map_has_every_file_of_the_core_once() -> None:
    sections = re.split(
        r"^\| (\w+) \| \|$", (CSRC / "README.md").read_text(), flags=re.M
    )
    listed = {
        f"{room}/{name}"
        for room, text in zip(sections[1::2], sections[2::2], strict=True)
        for name in re.findall(r"^\| `(\w+\.[ch])` \|", text, re.M)
    }
    files = {str(p.relative_to(CSRC)) for p in CSRC.glob("*/*.[ch]")}
    assert listed <= files, "on the map, but not there"
    stems = {name[:-2] for name in listed}
    assert {name[:-2] for name in files} == stems, "there, but not on the map"


def test_the_map_has_every_file_of_the_package_once() -> None:
    package = ROOT / "vitpool"
    text = (package / "README.md").read_text()
    sections = re.split(r"^\| ([\w/]+) \| \|$", text, flags=re.M)
    listed = [
        f"{room}/{name}".removeprefix("package/")
        for room, rows in zip(sections[1::2], sections[2::2], strict=True)
        for name in re.findall(r"^\| `(\w+\.py)` \|", rows, re.M)
    ]
    files = {str(p.relative_to(package)) for p in package.rglob("*.py")}
    named = {f for f in files if Path(f).stem not in ("__init__", "__main__")}
    assert sorted(listed) == sorted(named | {"labels/__init__.py"})


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    named = set(re.findall(r"^\.\. (?:auto|py:)\w+:: (?:vitpool\.)?(\w+)$", text, re.M))
    assert set(vitpool.__all__) <= named


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    path = ROOT / page
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.S | re.M)
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        # the results come from `make bench`
        if not link.startswith("http") and "benchmarks/results" not in link:
            assert (path.parent / link).exists(), link


def test_the_readme_states_the_accuracy_that_was_recorded() -> None:
    folder = Path(vitpool.__file__).parent / "models" / "vit_digits"
    told = json.loads((folder / "config.json").read_text())["metrics"]
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"{told['held_out_right']} of {told['held_out_count']} pictures" in text
    assert f"({told['held_out_accuracy']:.1%}".replace("%", " %") in text


def test_the_readme_s_example_runs_to_the_error_that_it_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text()
    example = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)[0]
    names: dict[str, object] = {}
    with pytest.raises(ValueError, match="did you mean") as error:
        exec(example, names)
    labels = names["logits"].argmax(1)  # type: ignore[attr-defined]
    assert labels.tolist() == list(range(10))
    shown = " ".join(line.lstrip("# ") for line in example.splitlines()[-2:])
    assert shown == f"ValueError: {error.value}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_hold_what_they_printed(path: Path) -> None:
    text = path.read_text()
    code = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert "error" not in kinds
    assert kinds, "no outputs"
    for folder in ("/home/", "/root/", "/tmp/", "site-packages"):
        assert folder not in text


def test_every_source_file_names_its_licence() -> None:
    """At its head, as SPDX has it."""
    parts = ("vitpool", "csrc", "tests", "tools", "benchmarks", "docs")
    files = [p for part in parts for p in (ROOT / part).rglob("*")]
    files += ROOT.glob("*.py")
    kinds = (".py", ".pyi", ".c", ".h", ".sh")
    sources = [p for p in files if p.suffix in kinds]
    assert len(sources) > 150
    unnamed = [
        str(path.relative_to(ROOT))
        for path in sources
        if "SPDX-License-Identifier: Apache-2.0"
        not in "".join(path.read_text(encoding="utf-8").splitlines()[:20])
    ]
    assert unnamed == []


def test_what_is_advised_to_install_is_what_the_project_asks_for() -> None:
    """Messages name packages of an index, and none is called vitpool there."""
    asked = set(
        re.findall(r'^    "([A-Za-z_-]+)', (ROOT / "pyproject.toml").read_text(), re.M)
    )
    asked |= set(
        re.findall(r'= \["([A-Za-z_-]+)', (ROOT / "pyproject.toml").read_text())
    )
    advised = {
        name
        for path in (ROOT / "vitpool").rglob("*.py")
        for name in re.findall(r"pip install '?([A-Za-z_-]+)", path.read_text())
    }
    assert len(advised) > 4
    assert advised <= asked | {"pillow-heif"}  # which Pillow's users know
