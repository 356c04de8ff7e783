# SPDX-License-Identifier: Apache-2.0
"""The `vitpool` command: classify, embed, attention, info, list, convert and others.

Results go to stdout, everything else to stderr. Exit codes: 0 all done; 1 some pictures
could not be read (each is named, the rest is done), `list` found no model, the two of
`compare` differ, or `audit` has found something; 2 wrong usage, or it cannot run; 130
interrupted. Text is for eyes: names and labels are free of what a terminal would obey.
JSON has them as they are.

Option names are those of timm's inference.py where they mean the same.
"""

from __future__ import annotations

from .command import build_parser, main
from .errors import CANNOT, OK, SOME_FAILED, StrictError, UsageError
from .options import (
    DEFAULT_MODEL,
    load_model,
    make_transform,
    model_arguments,
    transform_arguments,
)
from .progress import progress

__all__ = [
    "CANNOT",
    "DEFAULT_MODEL",
    "OK",
    "SOME_FAILED",
    "StrictError",
    "UsageError",
    "build_parser",
    "load_model",
    "main",
    "make_transform",
    "model_arguments",
    "progress",
    "transform_arguments",
]
