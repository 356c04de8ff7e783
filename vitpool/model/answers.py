# SPDX-License-Identifier: Apache-2.0
"""What a model answers for pictures: classes and vectors, with the pictures' names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..text import printable
from .parts import Float32

# How many pictures of a long list are shown.
_SHOWN = 20


class Class(NamedTuple):
    """A class of a picture: its name, how probable it is (0 to 1), and its number."""

    label: str
    probability: float
    index: int  # type: ignore[assignment] # the field's word, in place of tuple.index


@dataclass(frozen=True, repr=False)
class Classification:
    """The most probable classes of a picture, the most probable first.

    `result[0].label` is the best one's label, and `for label, probability, index in
    result` goes over all. source: the picture's path, or what it is. error: why it
    could not be read, and then there are no classes; else None.
    """

    source: str
    classes: tuple[Class, ...]
    error: str | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[Class]:
        return iter(self.classes)

    def __getitem__(self, index: int) -> Class:
        return self.classes[index]

    def __repr__(self) -> str:
        found = ", ".join(f"{c.label} {c.probability:.1%}" for c in self.classes)
        return printable(f"Classification({self.source}: {self.error or found})")

    def _repr_html_(self) -> str:
        return _table([self])


class Classifications(list[Classification]):
    """The classifications of many pictures, in their order.

    errors: why pictures could not be read, by their place in what was given.
    """

    def __init__(
        self, items: Sequence[Classification] = (), errors: dict[int, str] | None = None
    ) -> None:
        super().__init__(items)
        self.errors: dict[int, str] = dict(errors or {})

    def __repr__(self) -> str:
        shown, separator = [repr(item) for item in self[:_SHOWN]], ",\n "
        more = len(self) - _SHOWN
        if more > 0:
            shown.append(f"... and {more} more")
        return f"[{separator.join(shown)}]"

    def _repr_html_(self) -> str:
        return _table(self)


def _table(items: Sequence[Classification]) -> str:
    """A row a class with a bar for its probability, a picture's rows together."""
    import html

    rows = []
    for item in items[:_SHOWN]:
        name = html.escape(printable(item.source))
        if item.error is not None:
            reason = html.escape(printable(item.error))
            rows.append(f"<tr><th>{name}</th><td colspan=2><em>{reason}</em></td></tr>")
        for number, (label, probability, _) in enumerate(item.classes):
            # a path is folded where it is wider than a phone
            style = "max-width:14em; overflow-wrap:anywhere"
            head = f"<th rowspan={len(item)} style='{style}'>{name}</th>"
            head = head if number == 0 else ""
            rows.append(
                f"<tr>{head}<td>{html.escape(printable(label))}</td>"
                f"<td>{probability:.1%} <meter value={probability:.4f}></meter></td>"
                "</tr>"
            )
    more = len(items) - _SHOWN
    if more > 0:
        rows.append(f"<tr><td colspan=3>... and {more} more</td></tr>")
    return f"<table>{''.join(rows)}</table>"


@dataclass(frozen=True, repr=False, eq=False)
class Embeddings:
    """Vectors of pictures, a row a picture, in the pictures' order.

    `vectors` (N, C) is float32; NumPy and scikit-learn take the whole for it, and
    `result[3]` is a row. Of several pools each one's vectors are in `pools`, as
    `result.pools["map"]`. sources: each row's picture, by its path, or what it is.
    indices: each row's place in what was given: with errors="skip" rows are left out.
    errors: why pictures could not be read, by their place in what was given.
    """

    pools: dict[str, Float32]
    sources: list[str]
    indices: NDArray[np.int64]
    errors: dict[int, str]

    @property
    def vectors(self) -> Float32:
        """(N, C); ValueError where there are several pools."""
        if len(self.pools) > 1:
            first = next(iter(self.pools))
            raise ValueError(f"several pools: take one, as .pools[{first!r}]")
        return next(iter(self.pools.values()))

    @property
    def shape(self) -> tuple[int, int]:
        """(N, C), of `vectors`."""
        rows, columns = self.vectors.shape
        return rows, columns

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, key: Any) -> Any:
        return self.vectors[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        rows = self.vectors
        return rows.astype(dtype or rows.dtype, copy=bool(copy))

    def __repr__(self) -> str:
        shapes = ", ".join(f"{p} {rows.shape}" for p, rows in self.pools.items())
        failed = f", {len(self.errors)} not readable" if self.errors else ""
        return f"<Embeddings of {len(self)} pictures: {shapes}{failed}>"
