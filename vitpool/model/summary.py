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

from .dtypes import is_buffer
from .parts import prefix_tokens_of
from .tables import html_table, text_table
from .tree import tree

Shape = tuple[int, ...]

_NORMS = ("LayerNorm", "RmsNorm")
# What multiplies queries with keys, and weights with values, of all tokens.
_ATTENTION = (
    *("Attention", "DiffAttention", "ParallelScalingBlock", "DiffParallelScalingBlock"),
    *("EvaAttention", "AttentionRope", "RelPosAttention", "AttentionPoolPrr"),
)
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
    params = _sums(
        modules, {n: math.prod(s) for n, s in shapes.items() if not is_buffer(n)}
    )
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


_RELATIVE = ("RelPosMlp", "RelPosBias", "RelativePositionBias")


def _in_rel_pos(path: str) -> bool:
    return "rel_pos.mlp" in path


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
        all_of_them = (
            options["pool_include_prefix"]
            or options["global_pool"] == "prr"
            or options["family"] == "Eva"
        )
        self.pooled = self.tokens if all_of_them else self.patches

    def lead(self, path: str) -> Shape:
        """The axes of a module's input and output before the last."""
        part, _, rest = path.partition(".")
        if part == "attn_pool":
            latent = self.shapes.get("attn_pool.latent", (1, 1, 0))[1]
            rows = self.pooled if rest == "kv" else latent
            return (self.batch, rows) if rest else (self.batch,)
        if path == "embeds.proj":
            return (self.batch, self.patches)
        if _in_rel_pos(path):  # once, for every way that two patches can lie
            rows, columns = self.grid
            return (2 * rows - 1, 2 * columns - 1)
        if part in ("", "fc_norm", "head", "head_dist") and self.options["global_pool"]:
            return (self.batch,)
        return (self.batch, self.tokens)

    def output(self, path: str) -> Any:
        """The shape that a module gives; None of a ModuleList, which is not called."""
        kind = self.modules[path][0]
        name = path.rpartition(".")[2]
        width = self.shapes.get(f"{path}.weight", (self.width,))[0]
        if kind == "ModuleList" or kind.startswith("Rotary"):
            return None
        if kind in _RELATIVE:
            bias = (self.options["num_heads"], self.tokens, self.tokens)
            return bias if kind == "RelativePositionBias" else (self.batch, *bias)
        if _in_rel_pos(path) and kind == "Mlp":
            width = self.options["num_heads"]
        if path == "":
            return (*self.lead(""), self.options["num_classes"] or self.width)
        if path.startswith("patch_embed.backbone"):
            return self._of_stem(path)
        if kind == "Conv2d":
            return (self.batch, width, *self.grid)
        if path == "embeds":
            return (self.batch, self.tokens, width)
        if path == "embeds.norm":
            return (self.batch, self.patches, width)
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
            keys = self.shapes.get(f"{path.rpartition('.')[0]}.k_proj.weight")
            if name == "k_norm" and keys is not None:
                heads = keys[0] // width  # fewer, with grouped queries
            if self.options["block_fn"] == "ParallelScalingBlock":
                return (self.batch, self.tokens, heads, width)  # normed, then turned
            return (self.batch, heads, self.tokens, width)
        return (*self.lead(path), width)

    def _of_stem(self, path: str) -> Shape:
        """The maps that a part of ConvStem gives."""
        stage = path.split(".")[2:3]
        finer = {"0": 4, "1": 2}.get("".join(stage), 1)
        width = self.width if finer == 1 else self.width // 4
        rows, columns = self.grid
        return (self.batch, width, finer * rows, finer * columns)

    def flops(self, path: str) -> int:
        """The products of a module itself, without what is below it."""
        kind = self.modules[path][0]
        if kind in ("Conv2d", "Linear"):
            rows = self.batch * self.patches
            if kind == "Linear":
                rows = math.prod(self.lead(path))
            elif path.startswith("patch_embed.backbone"):
                _, _, *sides = self._of_stem(path)
                rows = self.batch * math.prod(sides)
            return 2 * rows * math.prod(self.shapes[f"{path}.weight"])
        # Attention: queries times keys, and weights times values.
        queries, keys = self.tokens, self.tokens
        if kind == "AttentionPoolLatent":
            queries, keys = self.shapes["attn_pool.latent"][1], self.pooled
        elif kind not in _ATTENTION:
            return 0
        return 2 * 2 * self.batch * queries * keys * self.width
