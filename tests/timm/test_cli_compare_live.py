# SPDX-License-Identifier: Apache-2.0
"""`vitpool compare` with timm's models, and with a fork of one."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import prepare  # noqa: F401
import pytest
import timm
import torch
from timm.models import save_for_hf

import vitpool
from vitpool import cli

NAME = "vit_tiny_patch16_224"
KEY = "blocks.7.mlp.fc1.weight"
SMALL = ["--kwargs", "depth=8", "img_size=64"]
FORK = """\
from timm.models.vision_transformer import VisionTransformer

class Fork(VisionTransformer):
    def __init__(self, **options):
        super().__init__(embed_dim=192, num_heads=3, **options)

class Slow(Fork):
    def forward_features(self, x, **options):
        print("as it runs")
        return super().forward_features(x, **options)

class Late(Fork):
    def __init__(self, **options):
        super().__init__(**options)
        self.blocks[7].norm1.eps = 1e-2

class Breaks(Fork):
    def __init__(self, **options):
        super().__init__(**options)
        self.blocks[3].register_forward_hook(self.fail)

    def fail(self, *_):
        raise RuntimeError("in block 3")
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`before`, and `after` with one weight of block 7 changed, as timm saves them."""
    root = tmp_path_factory.mktemp("compare")
    torch.manual_seed(0)
    model = timm.create_model(NAME, depth=8, img_size=64).eval()
    for name in ("before", "after"):
        if name == "after":
            with torch.no_grad():
                model.get_parameter(KEY)[3, 4] += 0.5
        save_for_hf(model, root / name, safe_serialization=True)
    (root / "fork.py").write_text(FORK)
    return root


@pytest.fixture(autouse=True)
def there(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folders)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("fork", None)


def run(capsys: pytest.CaptureFixture, *argv: object) -> tuple[int, str, str]:
    code = cli.main(["compare", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("candidate", ["after", "timm:local-dir:after"])
def test_one_weight_of_block_7_is_found(capsys, candidate: str, isolate: bool) -> None:
    argv = [f"timm:{NAME}", candidate, "--reference-checkpoint", "before"]
    code, out, _ = run(capsys, *argv, *SMALL, *(["--isolate"] if isolate else []))
    assert code == 1
    assert "blocks.7.mlp" in out.splitlines()[0]
    assert KEY in out
    parted = re.findall(r"^(\S+) .* parts ", out, re.MULTILINE)
    assert parted[0] == "blocks.7.mlp"
    assert (len(parted) == 1) == isolate


@pytest.mark.parametrize("more", [[], ["--isolate"], ["--images", *vitpool.samples()]])
def test_timms_model_and_ours_are_alike(capsys, more: list[object]) -> None:
    code, out, err = run(capsys, f"timm:{NAME}", NAME, *SMALL, *more)
    assert code == 0, out
    assert out.startswith("alike")
    assert err.startswith("vitpool: neither model has trained weights")
    weights = ["--candidate-checkpoint", "before"]
    assert run(capsys, "before", f"timm:{NAME}", *SMALL, *weights)[0] == 0


def test_a_fork_is_compared_with_what_it_was_made_from(capsys) -> None:
    for kind, code in (("Fork", 0), ("Slow", 0), ("Late", 1)):
        argv = [f"timm:{NAME}", f"fork.py:{kind}", "--checkpoint", "before", "--json"]
        got, out, err = run(capsys, *argv, *SMALL)
        told = json.loads(out)
        assert got == code, told["verdict"]
        assert told["first"] == ("blocks.7.attn" if code else None)
        assert ("as it runs" in err) == (kind == "Slow")
    argv = [f"timm:{NAME}", "fork.py:Breaks", "--checkpoint", "before"]
    code, out, _ = run(capsys, *argv, *SMALL)
    assert code == 1
    assert out.startswith("they part at blocks.3")
    assert "stopped: RuntimeError: in block 3" in out.splitlines()[0]
    name = "torch:timm.models.vision_transformer:VisionTransformer"
    argv = [f"timm:{NAME}", name, "--candidate-kwargs", "embed_dim=192", "num_heads=3"]
    assert run(capsys, *argv, *SMALL)[0] == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["timm:vit_tinny_patch16_224", NAME], "no such model; did you mean 'vit_tiny"),
        (["timm:", NAME], "timm:: timm "),
        ([f"timm:{NAME}", NAME, "--kwargs", "deptth=2"], "unexpected keyword argument"),
        (["timm:vit_small_patch16_224", NAME, "--checkpoint", "before"], "Error(s) in"),
        ([f"timm:{NAME}", "fork.py:Fork", "--candidate-kwargs", "a=1"],
         "fork.py:Fork: TypeError: VisionTransformer.__init__() got an unexpected"),
        (["timm:resnet18", NAME], "timm:resnet18: ResNet has no blocks"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_cannot_be_compared_is_2_and_one_line(capsys, argv, words) -> None:
    code, out, err = run(capsys, *argv, "-q")
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("vitpool: ")]
    assert words in line
