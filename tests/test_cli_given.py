# SPDX-License-Identifier: Apache-2.0
"""Code that a user names as text: torch:package.module:Class or file.py:Class."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vitpool
from vitpool.cli.errors import UsageError
from vitpool.cli.given import is_object, load_object, source_of, where

MODEL = """\
from vitpool import VisionTransformer
{more}
class Fork(VisionTransformer):
    pass
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of the test's own, and what it imports forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(path: str, text: str) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("fork.py:Fork", True),
        ("/a/b c/fork.py:Fork.make", True),
        ("fork.py", True),
        ("torch:package.module:Fork", True),
        ("torch:", True),
        ("timm:vit_tiny_patch16_224", False),
        ("vit_tiny_patch16_224", False),
        ("hf-hub:org/name", False),
        ("local-dir:folder", False),
        ("weights.pth", False),
    ],
)
def test_code_is_told_from_a_name(text: str, code: bool) -> None:
    assert is_object(text) == code


def test_a_folder_may_be_called_like_a_file() -> None:
    Path("model.py").mkdir()
    assert not is_object("model.py")


@pytest.mark.parametrize(
    "text", ["fork.py:Fork", "torch:fork:Fork", "pack/sub/fork.py:Fork", "a-b.py:Fork"]
)
def test_a_class_is_found_and_its_source_imports_it_anew(text: str) -> None:
    write("fork.py", MODEL.format(more=""))
    write("a-b.py", MODEL.format(more=""))
    write("pack/__init__.py", "")
    write("pack/sub/__init__.py", "")
    write("pack/sub/beside.py", "")
    write("pack/sub/fork.py", MODEL.format(more="from . import beside"))
    assert load_object(text).__name__ == "Fork"
    root = Path(vitpool.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", f"{source_of(text)}\nprint(make.__name__)"],
        capture_output=True, text=True, env={"PYTHONPATH": str(root)}, cwd="/",
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("Fork\n", "")


def test_a_function_and_what_is_within_a_class_are_found() -> None:
    write("fork.py", MODEL.format(more="def make(**options): return Fork(**options)"))
    write("more.py", "class Models:\n    @staticmethod\n    def make(): return 7\n")
    assert load_object("fork.py:make").__name__ == "make"
    assert load_object("more.py:Models.make")() == 7


def test_two_copies_of_a_package_are_each_its_own() -> None:
    """The second is not the first one again, for having its name."""
    for copy in ("old", "new"):
        write(f"{copy}/pack/__init__.py", "")
        write(f"{copy}/pack/who.py", f"WHO = {copy!r}")
        write(
            f"{copy}/pack/fork.py",
            MODEL.format(more="from .who import WHO") + "    who = WHO\n",
        )
        write(f"{copy}/layers.py", f"WHO = {copy!r}")
        write(
            f"{copy}/one.py",
            MODEL.format(more="from layers import WHO") + "    who = WHO\n",
        )
    for file in ("pack/fork.py", "one.py"):
        kinds = [load_object(f"{copy}/{file}:Fork") for copy in ("old", "new", "old")]
        assert [kind.who for kind in kinds] == ["old", "new", "old"]


def test_a_file_takes_no_name_that_python_or_we_have() -> None:
    write("json.py", MODEL.format(more=""))
    write("vitpool.py", MODEL.format(more=""))
    import json

    for name in ("json", "vitpool"):
        assert load_object(f"{name}.py:Fork").__module__ == f"given_{name}"
    assert sys.modules["json"] is json
    assert sys.modules["vitpool"] is vitpool


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fork.py:Frok", "fork.py:Frok: no such name; did you mean 'Fork'?"),
        ("fork.py:Zzz", "fork.py:Zzz: no such name; it has Fork"),
        ("fork.py", "fork.py: say the class, or the function that makes a model"),
        ("fork.py", "; it has Fork$"),
        ("torch:fork", "as torch:package.module:Class or file.py:Class; it has Fork"),
        ("torch:", "torch:: say the class"),
        ("fork.py:SEVEN", "must be a class, or a function .*, got int"),
        ("fork.py:Plain", r"a torch module \(torch.nn.Module\), its bases are object"),
        ("torch:no.such:A", "^torch:no.such:A: ModuleNotFoundError: No module named"),
        ("raises.py:A", r"ZeroDivisionError: division by zero \(line 2 .*raises.py\)"),
        ("needs.py:A", r"No module named 'nothing_here' \(line 1 of .*needs.py\)$"),
        ("stops.py:A", r"stops.py:A: SystemExit: 3 \(line 2 of .*stops.py\)$"),
        ("broken.py:A", r"SyntaxError: invalid syntax \(broken.py, line 1\)$"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_said_by_name(text: str, words: str) -> None:
    write("fork.py", MODEL.format(more="SEVEN = 7\nclass Plain: pass\n"))
    write("raises.py", "\n1 / 0\n")
    write("needs.py", "import nothing_here\n")
    write("stops.py", "import sys\nsys.exit(3)\n")
    write("broken.py", "def f(:\n")
    with pytest.raises(UsageError, match=words):
        load_object(text)


@pytest.mark.parametrize("text", ["nothing.py:Fork", "nothing.py"])
def test_a_file_that_is_not_there_is_said(text: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"^nothing.py: no such file$"):
        load_object(text)


def test_an_error_is_cut_and_its_line_is_the_users() -> None:
    write("deep.py", "import json\ndef f():\n    json.loads('{')\n")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_object("deep.py:f")()
    assert where(caught.value).endswith("deep.py)")
    assert "(line 3 of " in where(caught.value)
    assert where(RuntimeError("x" * 1000)) == f"RuntimeError: {'x' * 300} ..."
    assert where(RuntimeError()) == "RuntimeError"
