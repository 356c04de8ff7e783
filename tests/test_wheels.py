# SPDX-License-Identifier: Apache-2.0
"""What `make wheels` promises, as far as that can be told without a compiler."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.utils import parse_wheel_filename

from vitpool import _core

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import build_blis  # noqa: E402
import wheels  # noqa: E402

linux = pytest.mark.skipif(sys.platform != "linux", reason="the module is no ELF")


@linux
def test_the_module_shows_its_init_alone() -> None:
    shown, asked = wheels.symbols(Path(_core.__file__).read_bytes())
    assert shown == {"PyInit__core"}
    assert {"PyModuleDef_Init", "pthread_create", "memcpy"} <= asked
    assert [name for name in asked if name.startswith(("bli_", "vp_"))] == []


@pytest.mark.parametrize("platform", wheels.PLATFORMS)
def test_a_tag_is_a_platforms_and_its_compilers(platform: str) -> None:
    *_, tags = parse_wheel_filename(f"vitpool-0.1.0-cp310-abi3-{platform}.whl")
    assert {tag.platform for tag in tags} == {platform}
    system, _, release = platform.partition("linux_")
    machine, _, libc = wheels.PLATFORMS[platform].partition("-linux-")
    assert platform.endswith(machine)
    assert machine in build_blis.LISTS
    if system == "many":
        assert libc == f"gnu.{release.removesuffix(machine)[:-1].replace('_', '.')}"
    else:
        assert libc == "musl"


@linux
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"PyInit__core", b"PyInit__cook", "shows not PyInit__core alone"),
        (b"pthread_create", b"bli_thread_new", "lacks"),
        (b"\x7fELF\x02", b"\x7fELF\x01", "no 64-bit"),
    ],
)
def test_a_wheel_that_breaks_a_promise_is_refused(
    tmp_path: Path, old: bytes, new: bytes, said: str
) -> None:
    wheel = tmp_path / "vitpool-0.1.0-cp310-abi3-linux_x86_64.whl"
    module = Path(_core.__file__).read_bytes()
    assert old in module
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr("vitpool/_core.abi3.so", module.replace(old, new))
    with pytest.raises(SystemExit, match=said):
        wheels.check(wheel)


def test_a_wheel_over_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "vitpool-0.1.0-cp310-abi3-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr("vitpool/_core.abi3.so", b"")
    monkeypatch.setattr(wheels, "symbols", lambda _: ({"PyInit__core"}, set()))
    monkeypatch.setattr(wheels, "LIMIT", 10)
    with pytest.raises(SystemExit, match="bytes, over 10"):
        wheels.check(wheel)


def test_no_other_platform_is_taken() -> None:
    with pytest.raises(SystemExit, match="'win_amd64' is none of manylinux"):
        wheels.main(["win_amd64"])


def test_blis_has_the_configurations_that_are_asked_for_alone() -> None:
    text = (
        "#ifndef BLIS_CONFIG_H\n#define BLIS_CONFIG_H\n"
        "#define BLIS_CONFIG_SKX\n#define BLIS_CONFIG_HASWELL\n"
        "#define BLIS_CONFIG_GENERIC\n#define BLIS_KERNELS_SKX\n"
        "#define BLIS_KERNELS_HASWELL\n#define BLIS_KERNELS_ZEN\n#endif\n"
    )
    left = build_blis.header(text, {"haswell", "generic"})
    assert left == "".join(
        line for line in text.splitlines(True) if not line.endswith("SKX\n")
    )


@pytest.mark.parametrize("arm", [False, True])
def test_blis_is_built_of_its_frame_and_what_is_asked_for(
    tmp_path: Path, arm: bool
) -> None:
    def line(source: str, *macros: str) -> dict[str, object]:
        flags = ["-O3", "-march=haswell", "-fvisibility=default"]
        return {
            "source": source,
            "flags": flags,
            "macros": list(macros),
            "include": ["-Ihere"],
        }

    taken = [
        line("config/haswell/init.c"),
        line("kernels/zen/dotv.c"),
        line("ref_kernels/3/gemm.c", "-DBLIS_CNAME=haswell"),
        line("frame/3/check.c"),
        line("frame/base/gks.c"),
    ]
    left = [
        line("config/skx/init.c"),
        line("kernels/skx/sgemm.c"),
        line("ref_kernels/3/gemm.c", "-DBLIS_CNAME=skx"),
    ]
    listed = tmp_path / "list.jsonl"
    rows = [{"environment": {}}, *left, *taken]
    listed.write_text("\n".join(json.dumps(row) for row in rows))
    steps = list(build_blis.steps(listed, {"haswell"}, arm))
    assert [step[-1] for step in steps] == [row["source"] for row in taken]
    assert steps[2] == [
        "-O3",
        *([] if arm else ["-march=haswell"]),
        "-DBLIS_CNAME=haswell",
        "-Ihere",
        "ref_kernels/3/gemm.c",
    ]
