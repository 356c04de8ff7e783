# SPDX-License-Identifier: Apache-2.0
"""timm's own classes: a small model of each, and what of timm cannot be audited."""

from .installed import classes, unaudited
from .table import Entry, entries

__all__ = ["Entry", "classes", "entries", "unaudited"]
