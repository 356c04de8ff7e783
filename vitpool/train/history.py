# SPDX-License-Identifier: Apache-2.0
"""What a run went through, epoch by epoch, and how it may end."""

from __future__ import annotations

from typing import Any, NamedTuple

History = list[dict[str, Any]]


class TrainingDiverged(ValueError):
    """A loss, a gradient or a weight was not finite.

    step: its number, from 1. lr: of the last step that was done. history: of the epochs
    before. The model has the last state whose loss was finite.
    """

    def __init__(self, what: str, step: int, lr: float, history: History) -> None:
        super().__init__(
            f"training diverged: {what} in step {step} (lr {lr:.3g}); the model has "
            "the last good state. A smaller lr, a warm-up or clip_grad may help"
        )
        self._given = what, step, lr, history
        self.step, self.lr, self.history = step, lr, history

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._given


class Sums(NamedTuple):
    """Losses and hits of an epoch so far."""

    loss: float = 0.0
    weight: float = 0.0
    hits: int = 0
    of: int = 0

    def add(self, loss: float, weight: float, hits: tuple[int, int] | None) -> Sums:
        """With another batch: its mean loss, counted `weight` times."""
        right, of = hits or (0, 0)
        return Sums(
            self.loss + loss * weight,
            self.weight + weight,
            self.hits + right,
            self.of + of,
        )

    @property
    def mean(self) -> float:
        """The mean loss."""
        return self.loss / self.weight if self.weight else float("nan")

    @property
    def accuracy(self) -> float | None:
        """The share of hits; None: they are not counted."""
        return self.hits / self.of if self.of else None


def better(row: dict[str, Any], best: dict[str, Any] | None) -> bool:
    """Whether an epoch's validation is better: by accuracy, then by loss."""
    if best is None:
        return True
    return _rank(row) > _rank(best)


def _rank(row: dict[str, Any]) -> tuple[float, float]:
    accuracy = row["val_accuracy"]
    return (0.0 if accuracy is None else accuracy, -row["val_loss"])
