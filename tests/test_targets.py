# SPDX-License-Identifier: Apache-2.0
"""The lists of targets and of micro-kernels, and what is named after their lines."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vitpool

CSRC = Path(__file__).resolve().parents[1] / "csrc"
CPUINFO = Path("/proc/cpuinfo")


def listed(header: str, line: str) -> list[tuple[str, ...]]:
    """The lines of an X-macro of csrc/, by a pattern of their parentheses."""
    text = re.sub(r"[\\\s]+", " ", (CSRC / header).read_text())
    return [m if isinstance(m, tuple) else (m,) for m in re.findall(line, text)]


TARGETS = {
    name: (arch, vectors)
    for name, arch, vectors in listed(
        "base/targets.h", r"\bX\((\w+), (x86|arm64|any), (\w+), (?:NEEDS|\))"
    )
}
UKRS = dict(
    listed("ukernels/ukr.h", r"\bX\((vp_gemm_\w+), (?:blis_)?(x86|arm64|any)\)")
)
WEIGHTS = [name for (name,) in listed("base/dtype.h", r"\bX\((\w+), \d, ")]
ROWS = [name for (name,) in listed("base/dtype.h", r"\bX\((\w+), \d\)")]


def test_lists_are_read() -> None:
    assert next(iter(TARGETS)) == "baseline"
    assert TARGETS["baseline"] == ("any", "baseline")
    assert len(UKRS) >= 4
    assert WEIGHTS == ["f32", "bf16", "f16", "s8", "s8a16"]
    assert ROWS == ["f32", "bf16", "u8", "s8", "s16"]
    assert all(vectors in TARGETS for _, vectors in TARGETS.values())


def test_supported_targets_are_listed_ones_in_order() -> None:
    known = vitpool.show_config()["targets"]
    assert known == [name for name in TARGETS if name in known]


@pytest.mark.parametrize(
    ("target", "flag"),
    [
        ("avxvnni", "avx_vnni"),
        ("avx512vnni", "avx512_vnni"),
        ("avx512bf16", "avx512_bf16"),
        ("neondot", "asimddp"),
        ("neoni8mm", "i8mm"),
        ("neonbf16", "bf16"),
    ],
)
@pytest.mark.skipif(not CPUINFO.exists(), reason="Linux tells what the CPU has")
def test_a_target_is_supported_where_linux_lists_its_feature(
    target: str, flag: str
) -> None:
    line = "flags" if platform.machine() in ("x86_64", "AMD64") else "Features"
    flags = re.findall(rf"^{line}\s*:(.*)$", CPUINFO.read_text(), re.M)
    if not flags:
        pytest.skip("qemu-user may show the host's /proc/cpuinfo")
    listed_here = flag in flags[0].split()
    assert (target in vitpool.show_config()["targets"]) == listed_here


@pytest.mark.parametrize("name", UKRS)
def test_a_micro_kernel_is_named_by_the_grammar(name: str) -> None:
    rows, weights = "|".join(ROWS), "|".join(WEIGHTS)
    grammar = rf"vp_gemm_({rows})({weights})_(\d+x\d+x\d+|blis)__(\w+)"
    match = re.fullmatch(grammar, name)
    assert match is not None
    assert TARGETS[match[4]][0] == UKRS[name]


def test_a_file_named_after_a_target_is_a_micro_kernel_of_the_list() -> None:
    files = {f"vp_{p.stem}" for p in CSRC.rglob("*__*.c")}
    assert files == {name for name in UKRS if "_blis_" not in name}
    assert {p.parent.name for p in CSRC.rglob("*__*.c")} == {"ukernels"}


def test_a_micro_kernel_of_this_machine_runs() -> None:
    config = vitpool.show_config()
    assert config["micro_kernel"] in UKRS
    assert config["micro_kernel"].rpartition("__")[2] in config["targets"]


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="instructions of x86",
)
@pytest.mark.parametrize("opcode", [b"\x50", b"\x52"], ids=["vpdpbusd", "vpdpwssd"])
def test_avx_vnni_is_encoded_for_cpus_without_avx512(opcode: bytes) -> None:
    """With VEX, on ymm: an assembler that is not told so may take EVEX."""
    code = Path(vitpool._core.__file__).read_bytes()
    vex = rb"\xc4[\x02\x22\x42\x62\x82\xa2\xc2\xe2][\x05-\x7d]" + re.escape(opcode)
    found = [m for m in re.findall(vex, code) if m[2] & 0x87 == 0x05]
    assert len(found) > 8  # more than chance puts into a file


def imported(**environment: str) -> str:
    """What an import under this environment says, or the micro-kernel that it chose."""
    script = "import vitpool; print(vitpool.show_config()['micro_kernel'])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_an_unknown_target_names_every_target() -> None:
    message = imported(VITPOOL_TARGET="sse9")
    assert message.startswith("ImportError: VITPOOL_TARGET must be one of")
    assert message.endswith(", not 'sse9'")
    assert all(f"'{name}'" in message for name in TARGETS)


def test_vitpool_ukr_is_a_part_of_a_name_or_an_error() -> None:
    assert "_blis__" in imported(VITPOOL_UKR="blis")
    assert imported(VITPOOL_UKR="") == imported(VITPOOL_UKR="f32f32")


def test_an_unknown_micro_kernel_names_every_one_that_runs_here() -> None:
    message = imported(VITPOOL_UKR="no such")
    assert message.startswith("ImportError: VITPOOL_UKR must be")
    assert message.endswith(", not 'no such'")
    supported = vitpool.show_config()["targets"]
    for name in UKRS:
        assert (f"'{name}'" in message) == (name.rpartition("__")[2] in supported)


def test_a_value_that_a_terminal_would_obey_is_escaped() -> None:
    for name in ("VITPOOL_TARGET", "VITPOOL_UKR", "VITPOOL_NUM_THREADS"):
        assert imported(**{name: "\x1b[31m"}).endswith(r", not '\x1b[31m'")
