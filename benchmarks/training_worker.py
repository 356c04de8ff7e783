# SPDX-License-Identifier: Apache-2.0
"""A step of training by each engine, in a process of its own; see worker.py.

    python -m benchmarks.training_worker ENGINE SPEC_JSON DIR THREADS

The spec has one thing more, `part`: what trains, or 'extract', what of a model is
computed once where all of it stays frozen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .engines.float32 import Torch
from .engines.float32 import Vitpool as Inference
from .worker import main

Call = Callable[[], np.ndarray]

# AdamW as vitpool's Trainer has it; small, so that hundreds of steps change little.
LR, DECAY = 1e-5, 0.05
PARTS: dict[str, Any] = {
    **{"head": "head", "pool": "pool", "last 2": 2},
    **{"all": "all", "all, map": "all"},
}


def labels(batch: int, classes: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, classes, batch)


class VitpoolStep(Inference):
    """vitpool.train.Trainer.step, on cached features where only head or pool trains."""

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        super().__init__(spec, files, threads)
        self.part, self.classes = spec["part"], spec["options"]["num_classes"]

    def prepare(self, x: np.ndarray) -> Call:
        if self.part == "extract":
            return lambda: self.model.forward_features(x)
        from vitpool.train import Trainer

        y = labels(len(x), self.classes)
        trainer = Trainer(
            self.model,
            train=PARTS[self.part],
            optimizer="adamw",
            lr=LR,
            weight_decay=DECAY,
            schedule="constant",
            warmup=0,
            epochs=1,
            batch_size=len(x),
        )
        if self.part in ("head", "pool"):
            x = self.model.forward_features(x)
        if self.part == "head":
            x = self.model.forward_head(x, pre_logits=True)
        return lambda: np.array(trainer.step(x, y))


class TorchStep(Torch):
    """The same in eager torch: what stays frozen wants no gradient, AdamW is fused."""

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        super().__init__(spec, files, threads)
        self.part, self.classes = spec["part"], spec["options"]["num_classes"]
        self.setup = "eager, AdamW(fused=True)"

    def compiled(self, call: Any) -> Any:
        return call

    def prepare(self, x: np.ndarray) -> Call:
        torch, model = self.torch, self.model
        images = torch.from_numpy(x)
        if self.part == "extract":
            extract = self.compiled(model.forward_features)

            def features() -> np.ndarray:
                with torch.inference_mode():
                    return extract(images).numpy()

            return features
        y = torch.from_numpy(labels(len(x), self.classes))
        forward = model
        with torch.no_grad():  # not inference_mode: backward saves these
            if self.part == "pool":
                images, forward = model.forward_features(images), model.forward_head
            if self.part == "head":
                features = model.forward_features(images)
                images = model.forward_head(features, pre_logits=True)
                forward = model.head
        optimizer = torch.optim.AdamW(self.groups(), lr=LR, fused=True)

        def loss_of(inputs: Any, wanted: Any) -> Any:
            return torch.nn.functional.cross_entropy(forward(inputs), wanted)

        loss_of = self.compiled(loss_of)

        def step() -> np.ndarray:
            optimizer.zero_grad()
            loss = loss_of(images, y)
            loss.backward()
            optimizer.step()
            return loss.detach().numpy()

        return step

    def groups(self) -> Any:
        """What trains; what decays is what timm lets decay."""
        from timm.optim import param_groups_weight_decay

        starts: tuple[str, ...] = ("head.",)
        if self.part != "head":
            starts += ("attn_pool.", "fc_norm.")
        if self.part == "last 2":
            depth = len(self.model.blocks)
            starts += ("norm.", *(f"blocks.{i}." for i in range(depth - 2, depth)))
        for name, parameter in self.model.named_parameters():
            trains = PARTS[self.part] == "all" or name.startswith(starts)
            parameter.requires_grad_(trains)
        return param_groups_weight_decay(
            self.model,
            weight_decay=DECAY,
            no_weight_decay_list=self.model.no_weight_decay(),
        )


class TorchCompileStep(TorchStep):
    """torch.compile of the loss, so of its backward pass too."""

    def __init__(self, spec: dict[str, Any], files: Path, threads: int) -> None:
        super().__init__(spec, files, threads)
        self.setup = "inductor, AdamW(fused=True)"

    def compiled(self, call: Any) -> Any:
        return self.torch.compile(call, dynamic=False)


ENGINES = {
    "vitpool": VitpoolStep,
    "torch": TorchStep,
    "torch.compile": TorchCompileStep,
}

if __name__ == "__main__":
    main(sys.argv[1:], ENGINES)
