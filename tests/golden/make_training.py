# SPDX-License-Identifier: Apache-2.0
"""Write torch's gradients and ten AdamW steps of a small timm model: training.npz.

    python tests/golden/make_training.py

In the manner of llm.c's test: a state that torch wrote once, in float64, which the
tests compare tensor by tensor without torch. Holds inputs, labels, logits, gradients
(`grad.NAME`, by timm's names) and the losses before each of ten steps: `losses`, where
all parameters decay, and `losses_timm`, where those do that timm lets decay
(`param_groups_weight_decay`). `torch_error` is the largest error of torch's float32,
by `gradient_measure`. Weights are recipe.weights' of the same shapes.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent / "timm")]

import gradient_measure  # noqa: E402
import numpy as np  # noqa: E402
import prepare  # noqa: E402, F401
import reference  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from golden import training  # noqa: E402
from timm.optim import param_groups_weight_decay  # noqa: E402


def loss_of(model: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    logits = model(x)
    loss = F.cross_entropy(logits, y, label_smoothing=training.SMOOTHING)
    return loss, logits


def found(model: Any, x: torch.Tensor, y: torch.Tensor) -> gradient_measure.Found:
    model = copy.deepcopy(model)
    loss, logits = loss_of(model, x, y)
    loss.backward()
    grads = {name: p.grad.numpy() for name, p in model.named_parameters()}
    losses = loss.detach().numpy()[None]
    return gradient_measure.Found(losses, logits.detach().numpy(), grads)


def steps(model: Any, x: torch.Tensor, y: torch.Tensor, timms: bool) -> list[float]:
    """The loss before each step of AdamW on the same batch."""
    model = copy.deepcopy(model)
    groups: Any = model.parameters()
    if timms:
        groups = param_groups_weight_decay(
            model,
            weight_decay=training.ADAMW["weight_decay"],
            no_weight_decay_list=model.no_weight_decay(),
        )
    optimizer = torch.optim.AdamW(groups, **training.ADAMW)
    losses = []
    for _ in range(training.STEPS):
        optimizer.zero_grad()
        loss, _ = loss_of(model, x, y)
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
    return losses


def main() -> None:
    torch.set_num_threads(1)
    model = reference.build(training.OPTIONS)
    reference.fill(model)
    double = copy.deepcopy(model).double()
    pictures, labels = training.data()
    x, y = torch.from_numpy(pictures), torch.from_numpy(labels)
    with reference.unrounded():
        exact = found(double, x.double(), y)
        losses = steps(double, x.double(), y, False)
        timms = steps(double, x.double(), y, True)
    error, name = gradient_measure.worst(
        [gradient_measure.errors(found(model, x, y), exact)]
    )
    arrays: dict[str, Any] = {
        "inputs": pictures,
        "labels": labels,
        "logits": exact.logits,
        "losses": np.array(losses),
        "losses_timm": np.array(timms),
        "torch_error": np.array(error),
    }
    for key, value in exact.grads.items():
        arrays[f"grad.{key}"] = value.astype(np.float32)
    np.savez_compressed(training.PATH, **arrays)
    print(f"{len(exact.grads)} gradients; torch's float32 is {error:.2g} off in {name}")
    print("losses", *(f"{loss:.6f}" for loss in losses))
    print(f"{training.PATH.name}: {training.PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
