# SPDX-License-Identifier: Apache-2.0
"""`vitpool attention`: draw what a model looks at."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import OK, SOME_FAILED, UsageError
from .options import (
    add_inputs,
    count,
    load_model,
    make_transform,
    model_options,
    number,
    picture_options,
    size_options,
)
from .progress import batches, expand, print_text

if TYPE_CHECKING:
    from ..plot import Row

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_CELLS = 160  # on a sheet: as pixels they are 24 MB, and it has twice that when drawn


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "attention",
        parents=[model_options(), size_options(), picture_options(1)],
        help="draw what a model looks at",
        description="Draw what a model looks at: attention as multiples of uniform, "
        "which is what each patch would have if all had the same.",
        examples=[
            "vitpool attention photo.jpg -o seen.png --head all",
            "vitpool attention a.jpg b.jpg --layer=-1,pool,rollout -o seen.png",
            "vitpool attention photos more.jpg -o sheets/ --top 10",
        ],
    )
    add_inputs(sub, "images", "IMAGE")
    sub.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="a picture, OUT.png, .jpg or .webp, or a folder, OUT/; what one sheet "
        "does not hold goes to OUT-001.png, OUT-002.png and so on",
    )
    sub.add_argument(
        "--layer",
        default="auto",
        metavar="pool|N|rollout",
        help="the attention pool, block N (-1 the last), or all blocks multiplied; "
        "several as --layer=-1,pool (default the pool, else the last block)",
    )
    sub.add_argument(
        "--head",
        default="mean",
        metavar="mean|N|all",
        help="one head, or each in a column (default their mean)",
    )
    sub.add_argument(
        "--top",
        type=number,
        metavar="X",
        help="attention drawn lightest, as a multiple of uniform (default what each "
        "picture needs, at least 4)",
    )
    sub.add_argument(
        "--per-sheet",
        type=count(1),
        default=20,
        metavar="N",
        help="pictures on a sheet (default 20; fewer where they have more than "
        f"{_CELLS} maps together)",
    )
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from .. import plot

    paths = list(expand(args.images, args.null))
    sheets = _Sheets(args.output, args.per_sheet)
    model = load_model(args)
    transform = make_transform(args, model)
    failed = 0
    for batch in batches(args, model, paths):
        failed += len(batch.errors)
        good = [s for i, s in enumerate(batch.sources) if i not in batch.errors]
        for row in plot.attention_rows(
            model,
            good,
            layer=args.layer.split(","),
            head=args.head,
            transform=transform,
            top=args.top,
        ):
            sheets.add(row)
    for name in sheets.finish():  # below the bar, which has ended
        print_text(name)
    return SOME_FAILED if failed else OK


class _Sheets:
    """Rows to sheets, each written as soon as it is full."""

    def __init__(self, output: str, per_sheet: int) -> None:
        path = Path(output)
        self.in_folder = output.endswith(("/", os.sep)) or path.is_dir()
        if self.in_folder:
            path.mkdir(parents=True, exist_ok=True)
            path /= "attention.png"
        elif path.suffix.lower() not in _SUFFIXES:
            raise UsageError(
                f"-o {output}: the name must end in .png, .jpg or .webp, or in / for a "
                "folder"
            )
        elif not path.parent.is_dir():
            raise UsageError(f"-o {output}: there is no folder {path.parent}")
        self.path = path
        self.per_sheet = per_sheet
        self.rows: list[Row] = []
        self.written: list[str] = []

    def add(self, row: Row) -> None:
        """Another row; what is full is written before it."""
        cells = sum(len(other.cells) for other in self.rows) + len(row.cells)
        if self.rows and (len(self.rows) == self.per_sheet or cells > _CELLS):
            self._write(f"-{len(self.written) + 1:03}")
        self.rows.append(row)

    def finish(self) -> list[str]:
        """Write the last sheet; the names of all. Of one sheet the name is as given."""
        if self.rows:
            several = self.written or self.in_folder
            self._write(f"-{len(self.written) + 1:03}" if several else "")
        return self.written

    def _write(self, number: str) -> None:
        from .. import plot

        path = self.path.with_name(f"{self.path.stem}{number}{self.path.suffix}")
        plot.sheet(self.rows).save(path, quality=92)
        self.written.append(str(path))
        self.rows = []
