# SPDX-License-Identifier: Apache-2.0
"""tools/arm: what counts the instructions of a pass on arm64, as far as x86 runs it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "tools" / "arm"


@pytest.fixture(scope="module")
def count() -> Any:
    spec = importlib.util.spec_from_file_location("count", FOLDER / "count.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["count"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    del sys.modules["count"]
    return module


def marks(*passes: dict[str, tuple[int, int]]) -> str:
    """What the plugin prints of these passes."""
    lines = ["qemu: a warning"]
    for one in passes:
        lines.append("mark")
        lines += [f"{n} {adds} {name}" for name, (n, adds) in one.items()]
    return "\n".join(lines)


def test_twelve_blocks_are_the_first_and_eleven_times_the_difference(
    count: Any,
) -> None:
    first = {"run": (100, 80), "finish": (7, 0), "embed": (5, 0)}
    second = {"run": (150, 120), "finish": (9, 1), "embed": (5, 0), "softmax": (3, 1)}
    text = marks({"load": (1000, 0)}, first, {"load": (2000, 0)}, second)
    whole = count.twelve_blocks(count.read_passes(text))
    assert whole.instructions == {
        "run": 100 + 11 * 50,
        "finish": 7 + 11 * 2,
        "embed": 5,
        "softmax": 11 * 3,
    }
    assert whole.multiplies["run"] == 80 + 11 * 40
    assert whole.multiplies["finish"] == 11


def test_a_program_that_stopped_halfway_is_an_error(count: Any) -> None:
    text = marks({"load": (1000, 0)}, {"run": (100, 80)})
    with pytest.raises(SystemExit, match="2 marks, not 4"):
        count.twelve_blocks(count.read_passes(text))


def test_a_table_has_every_instruction(count: Any) -> None:
    one = count.Pass()
    one.instructions.update({"run": 9_000_000, "finish": 995_000, "tiny": 5_000})
    one.multiplies.update({"run": 4_500_000})
    text = count.table("neon", "a kernel", one)
    assert "| `run` | 9.0 | 90.0% | 50.0% |" in text
    assert "`tiny`" not in text
    assert "| others | 0.0 | 0.1% | |" in text
    assert text.endswith("| all | 10.0 | | 45.0% |")


PROGRAM = """
#include "count_plugin.c"
int main(void)
{
    /* fmla and fmls of four floats, by a vector and by each lane */
    static const uint32_t yes[] = {0x4e22cc20, 0x4ea2cc20, 0x4f821020, 0x4fa21020,
                                   0x4f821820, 0x4fbf1bff, 0x4f825020};
    /* of two floats, of doubles, of halves; fmul by a lane; fadd; mla of integers */
    static const uint32_t no[] = {0x0e22cc20, 0x4e62cc20, 0x0f821020, 0x4fc21020,
                                  0x4f021020, 0x4f829020, 0x4e22d420, 0x6f820020};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        if (!multiplies(yes[i])) return 1 + (int)i;
    }
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        if (multiplies(no[i])) return 101 + (int)i;
    }
    return 0;
}
"""


def test_the_plugin_knows_a_multiply_add_of_four_floats(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "the tests need a C compiler, as the build does"
    source, program = tmp_path / "words.c", tmp_path / "words"
    source.write_text(PROGRAM)
    command = [compiler, "-O0", "-Wall", "-Wextra", "-Werror", "-I", str(FOLDER)]
    # qemu has the functions that the plugin calls; nothing here calls them
    command += ["-Wl,--unresolved-symbols=ignore-all", "-no-pie"]
    subprocess.run([*command, str(source), "-o", str(program)], check=True)
    assert subprocess.run([str(program)]).returncode == 0
