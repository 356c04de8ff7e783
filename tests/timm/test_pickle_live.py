# SPDX-License-Identifier: Apache-2.0
"""PyTorch's files: what is read and what is refused, without unsafe advice."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import prepare  # noqa: F401
import pytest
import timm
import torch

from vitpool.checkpoint import open_state_dict


class Planted:
    """What a pickle would run when it is loaded without care."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


def test_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    trace = tmp_path / "it-ran"
    torch.save(
        {"state_dict": {"head.weight": torch.ones(2)}, "x": Planted(trace)}, model
    )
    with pytest.raises(ValueError, match="names getattr, which is code") as caught:
        open_state_dict(model)
    assert str(model) in str(caught.value)
    assert not trace.exists()


def test_damaged_pickle_is_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.pth"
    torch.save({"w": torch.arange(100.0)}, good)
    data = good.read_bytes()
    bad = tmp_path / "bad.pth"
    for size in np.linspace(0, len(data) - 1, 60).astype(int):
        bad.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"bad\.pth"):
            open_state_dict(bad)
    for content in (torch.ones(3), [torch.ones(3)], {"epoch": 3}, {}):
        torch.save(content, bad)
        with pytest.raises(ValueError, match=r"bad\.pth"):
            open_state_dict(bad)


def test_pickle_that_holds_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content
    torch.save(content, path)
    with pytest.raises(ValueError, match="holds no tensors"):
        open_state_dict(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.empty(3, device="meta"),
        torch.ones(3, dtype=torch.float8_e4m3fn),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3, dtype=torch.int32),
    ],
    ids=["sparse", "meta", "float8", "complex", "int"],
)
def test_tensor_that_is_no_weight_is_refused(
    tensor: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "a.pth"
    torch.save({"w": tensor}, path)
    with pytest.raises(ValueError, match=r"a\.pth: w"):
        open_state_dict(path)["w"]


def test_training_checkpoint_with_arguments_is_read(tmp_path: Path) -> None:
    """timm's train.py stores its argparse.Namespace beside the weights."""
    import argparse

    path = tmp_path / "last.pth.tar"
    torch.save(
        {
            "args": argparse.Namespace(lr=0.1),
            "state_dict": {"module.w": torch.ones(2)},
            "state_dict_ema": {"module.w": torch.zeros(2)},
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        },
        path,
    )
    got = open_state_dict(path)
    assert list(got) == ["w"]
    np.testing.assert_array_equal(got["w"], [0, 0])


def small() -> torch.nn.Module:
    return timm.create_model("test_vit", num_classes=2)


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), str(path))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a whole module": (
        lambda path: torch.save(small(), path),
        "names timm.models.vision_transformer.VisionTransformer, which is code to run",
    ),
    "a whole module, before 1.6": (
        lambda path: torch.save(small(), path, _use_new_zipfile_serialization=False),
        "names timm.models.vision_transformer.VisionTransformer, which is code to run",
    ),
    "a module's class in a training checkpoint": (
        lambda path: torch.save({"state_dict": {}, "queue": deque([1])}, path),
        "names collections.deque, which is code to run",
    ),
    "a list": (lambda path: torch.save([torch.ones(2)], path), "holds a list"),
    "a tensor": (lambda path: torch.save(torch.ones(2), path), "holds a Tensor"),
    "a state dict under another name": (
        lambda path: torch.save(
            {"net": small().state_dict(), "optimizer": {"lr": 1}}, path
        ),
        "holds no tensors, but for what is in 'net', 'optimizer'",
    ),
    "TorchScript": (scripted, "a TorchScript program"),
    "a plain pickle": (
        lambda path: path.write_bytes(pickle.dumps(small().state_dict(), protocol=2)),
        "names torch.storage._load_from_bytes, which is code to run",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pickle_that_is_no_state_dict_says_what_to_save(
    name: str, tmp_path: Path
) -> None:
    """torch's own message says that weights_only=False will likely succeed."""
    write, words = REFUSED[name]
    path = tmp_path / "model.pth"
    write(path)
    with pytest.raises(ValueError, match=r"model\.pth: ") as caught:
        open_state_dict(path)
    message = str(caught.value)
    assert words in message
    assert "torch.save(" in message
    assert "weights_only" not in message
    assert message.isprintable()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".h5", ""])
def test_state_dict_is_read_under_any_name(
    suffix: str, zipped: bool, tmp_path: Path
) -> None:
    """torch.load itself asks the name of a path."""
    path = tmp_path / f"model{suffix}"
    state = small().state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    got = open_state_dict(path)
    assert list(got) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(got[key], value.numpy())
