# SPDX-License-Identifier: Apache-2.0
"""What a model says of itself: facts, a summary, what changed, and HTML."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import _core
from ..config import as_int
from .diff import Difference, difference
from .dtypes import arithmetic, num_parameters, told
from .facts import Facts
from .parts import Float32
from .summary import Summary, summarize
from .tables import html_table
from .tree import tree
from .tree_html import html_tree

if TYPE_CHECKING:
    from typing_extensions import Self


class Shown(Facts):
    """The part of a model that shows and compares."""

    def summary(
        self, input_size: Sequence[int] | Float32 | None = None, depth: int | None = 1
    ) -> Summary:
        """Each part's class, output shape, parameters and FLOPs; prints as a table.

        input_size: (B, in_chans, height, width) of an input, or the input itself; None:
        one image of the model's size. depth: how many dotted names deep parts are told,
        1 for those of the model itself; None: all. FLOPs are 2 for each multiply-add of
        the matrix products in timm's model; norms, softmax and additions do not count.

        TypeError: no integers. ValueError: a size that the model does not take.
        """
        now = self._snapshot()
        options = now._options()
        if depth is not None:
            depth = as_int(depth, "depth", 1)
        if input_size is None:
            input_size = (1, options["in_chans"], *options["img_size"])
        size = getattr(input_size, "shape", input_size)
        if not isinstance(size, Sequence):
            raise TypeError(
                "input_size must be (B, in_chans, height, width), "
                f"not {type(input_size).__name__}"
            )
        size = tuple(as_int(n, "input_size") for n in size)
        if len(size) != 4 or size[1] != options["in_chans"]:
            raise ValueError(
                f"input_size must be (B, {options['in_chans']}, height, width), "
                f"not {size}"
            )
        grid = now._grid(size[2], size[3])
        return summarize(
            options, now.param_shapes(), size, grid, depth, self._facts(now)
        )

    def snapshot(self) -> Self:
        """The model as it is now, for diff: a copy, which shares the weights."""
        return copy.copy(self)

    def diff(self, before: _core.VisionTransformer) -> Difference:
        """What this model is beside `before`, a snapshot() of it or another model.

        Parameters are compared bit by bit. Prints in words, part by part; has the names
        in `added`, `removed`, `changed`, `kept` and `untrained`. TypeError: no model.
        """
        if not isinstance(before, _core.VisionTransformer):
            raise TypeError(
                "diff takes a model, as snapshot() gives one, "
                f"not {type(before).__name__}"
            )
        return difference(before._snapshot(), self._snapshot())

    def _facts(self, now: _core.VisionTransformer) -> dict[str, str]:
        options, shapes = now._options(), now.param_shapes()
        name = self._pretrained_cfg.get("architecture") or self._family
        tag = self._pretrained_cfg.get("tag")
        dtypes = dict.fromkeys(now._dtypes().values())
        products = [f"{d}: {arithmetic(d)}" for d in dtypes if d != "float32"]
        return {
            "architecture": f"{name}.{tag}" if tag else str(name),
            **_of_class(options),
            "image": _by(options["img_size"]),
            "patch": _by(options["patch_size"]),
            "width x depth, heads": f"{options['embed_dim']} x {options['depth']}, "
            f"{options['num_heads']}",
            "pool": repr(options["global_pool"]),
            "classes": str(options["num_classes"]),
            "parameters": f"{num_parameters(shapes):,}",
            "untrained": _untrained(now.untrained(), len(shapes)),
            "dtype": told(now),
            **({"products": "; ".join(products)} if products else {}),
            "memory": f"{now.memory_bytes()['weights'] / 1e6:.1f} MB",
        }

    def _repr_html_(self) -> str:
        now = self._snapshot()
        facts = html_table((), list(self._facts(now).items()))
        return facts + html_tree(tree(now._options()), now.param_shapes())


def _of_class(options: Mapping[str, Any]) -> dict[str, str]:
    """What is told of timm's other classes alone."""
    if options["family"] == "VisionTransformer":
        return {}
    positions = []
    if options["pos_embed"]:
        positions.append(str(options["pos_kind"]))
    if options["rope"] != "none":
        positions.append(f"rotary ({options['rope']})")
    for where in ("block", "shared"):
        if options[f"rel_pos_{where}"]:
            own = "of each block" if where == "block" else "shared"
            positions.append(f"relative ({options['rel_pos']}, {own})")
    return {
        "class": options["family"],
        "positions": ", ".join(positions) or "none",
    }


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]} x {pair[1]}"


def _untrained(names: Sequence[str], of: int) -> str:
    """'none', 'all', or the parts that are random."""
    if len(names) in (0, of):
        return "all" if names else "none"
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
