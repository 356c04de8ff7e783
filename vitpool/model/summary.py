# SPDX-License-Identifier: Apache-2.0
"""model.summary(): each part's class, output, parameters and FLOPs, for one input.

Shapes and products are those of timm's torch modules. What the core computes may be
less: the last block leaves out the tokens that the pool does not look at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .parts import prefix_tokens_of
from .tables import html_table, text_table
from .tree import tree

Shape = tuple[int, ...]

_NORMS = ("LayerNorm", "RmsNorm")
_COLUMNS = ("module", "class", "output", "parameters", "FLOPs")


@dataclass(frozen=True)
class Row:
    """A module, or a parameter of the model's own, of a Summary.

    path: its name, 'blocks.0.attn'. kind: its class. output: the shape it gives, of a
    parameter its own; None of a list of modules. params: numbers in its parameters.
    flops: 2 for each multiply-add of its matrix products; all that is below it counts.
    """

    path: str
    kind: str
    output: Shape | None
    params: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """A model's parts: `rows`, and the totals `params` and `flops` of a forward pass.

    facts: what the model is, line by line. input_size: (B, in_chans, height, width).
    output: the shape of what the model gives. rows: parts to the depth asked for;
    Dropout, Identity and activations, which have no numbers of their own, are left out.
    """

    facts: dict[str, str]
    input_size: Shape
    output: Shape
    rows: tuple[Row, ...]
    params: int
    flops: int

    def __str__(self) -> str:
        facts = "\n".join(f"{name}: {fact}" for name, fact in self.facts.items())
        return f"{facts}\n\n{text_table(_COLUMNS, self._cells(), right=2)}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        facts = html_table((), list(self.facts.items()))
        return facts + html_table(_COLUMNS, self._cells(), right=2)

    def _cells(self) -> list[tuple[str, ...]]:
        total = Row("total", f"input {self.input_size}", self.output, 0, 0)
        rows = [(row, row.params, row.flops) for row in self.rows]
        return [
            (
                row.path,
                row.kind,
                "" if row.output is None else str(row.output),
                f"{params:,}",
                in_units(flops),
            )
            for row, params, flops in [*rows, (total, self.params, self.flops)]
        ]


def in_units(number: int) -> str:
    """A number of operations to three digits: '35.1 G'."""
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            digits = 3 - len(str(number // unit))
            return f"{number / unit:.{max(digits, 0)}f} {name}"
    return str(number)


def summarize(
    options: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    input_size: Shape,
    grid: tuple[int, int],
    depth: int | None,
    facts: dict[str, str],
) -> Summary:
    """The summary of a model of these core options and parameters.

    grid: (rows, columns) of patches in an image of input_size. depth: of dotted names;
    None: all.
    """
    pass_ = _Pass(options, shapes, input_size[0], grid)
    modules = tree(options)
    params = _sums(modules, {n: math.prod(s) for n, s in shapes.items()})
    flops = _sums(modules, {path: pass_.flops(path) for path in modules})
    rows = [
        Row(name, "Parameter", shape, math.prod(shape), 0)
        for name, shape in shapes.items()
        if "." not in name
    ]
    for path, (kind, _) in modules.items():
        deep = depth is not None and path.count(".") >= depth
        if path and not deep and (params[path] or flops[path]):
            kind = _items(modules, path) or kind
            rows.append(Row(path, kind, pass_.output(path), params[path], flops[path]))
    return Summary(
        facts, input_size, pass_.output(""), tuple(rows), params[""], flops[""]
    )


def _items(modules: Mapping[str, tuple[str, str]], path: str) -> str:
    """'12 x Block' for a list of modules of one class, else ''."""
    start = f"{path}."
    names = [p for p in modules if p.startswith(start) and "." not in p[len(start) :]]
    kinds = {modules[name][0] for name in names}
    numbered = all(name[len(start) :].isdigit() for name in names)
    return f"{len(names)} x {kinds.pop()}" if numbered and len(kinds) == 1 else ""


def _sums(paths: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, int]:
    """For each path the sum of the numbers at it and below."""
    sums = dict.fromkeys(paths, 0)
    for name, number in numbers.items():
        for path in _upwards(name):
            if path in sums:
                sums[path] += number
    return sums


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


class _Pass:
    """The shapes and products of one forward pass, module by module."""

    def __init__(
        self,
        options: Mapping[str, Any],
        shapes: Mapping[str, Shape],
        batch: int,
        grid: tuple[int, int],
    ) -> None:
        self.modules = tree(options)
        self.options, self.shapes, self.batch, self.grid = options, shapes, batch, grid
        self.width: int = options["embed_dim"]
        self.patches = math.prod(grid)
        self.tokens = self.patches + prefix_tokens_of(options)
        pooled = self.patches if not options["pool_include_prefix"] else self.tokens
        self.pooled = self.tokens if options["global_pool"] == "prr" else pooled

    def lead(self, path: str) -> Shape:
        """The axes of a module's input and output before the last."""
        part, _, rest = path.partition(".")
        if part == "attn_pool":
            latent = self.shapes.get("attn_pool.latent", (1, 1, 0))[1]
            rows = self.pooled if rest == "kv" else latent
            return (self.batch, rows) if rest else (self.batch,)
        if part in ("", "fc_norm", "head") and self.options["global_pool"]:
            return (self.batch,)
        return (self.batch, self.tokens)

    def output(self, path: str) -> Any:
        """The shape that a module gives; None of a ModuleList, which is not called."""
        kind = self.modules[path][0]
        name = path.rpartition(".")[2]
        width = self.shapes.get(f"{path}.weight", (self.width,))[0]
        if kind == "ModuleList":
            return None
        if path == "":
            return (*self.lead(""), self.options["num_classes"] or self.width)
        if kind == "Conv2d":
            return (self.batch, width, *self.grid)
        if path in ("patch_embed", "patch_embed.norm"):
            dynamic = self.options["dynamic_img_size"]
            rows = self.grid if dynamic else (self.patches,)
            return (self.batch, *rows, width)
        if name in ("q_norm", "k_norm", "sub_norm") and kind in _NORMS:
            pairs = "Diff" in self.options["block_fn"] or (
                self.options["attn_layer"] == "diff"
            )
            halves = 2 if pairs and name != "sub_norm" else 1
            heads = halves * self.options["num_heads"]
            if self.options["block_fn"] == "ParallelScalingBlock":
                return (self.batch, self.tokens, heads, width)  # normed, then turned
            return (self.batch, heads, self.tokens, width)
        return (*self.lead(path), width)

    def flops(self, path: str) -> int:
        """The products of a module itself, without what is below it."""
        kind = self.modules[path][0]
        if kind in ("Conv2d", "Linear"):
            rows = self.batch * self.patches
            if kind == "Linear":
                rows = math.prod(self.lead(path))
            return 2 * rows * math.prod(self.shapes[f"{path}.weight"])
        # Attention: queries times keys, and weights times values.
        queries, keys = self.tokens, self.tokens
        if kind == "AttentionPoolLatent":
            queries, keys = self.shapes["attn_pool.latent"][1], self.pooled
        elif kind not in (
            "Attention",
            "DiffAttention",
            "ParallelScalingBlock",
            "DiffParallelScalingBlock",
            "AttentionPoolPrr",
        ):
            return 0
        return 2 * 2 * self.batch * queries * keys * self.width
