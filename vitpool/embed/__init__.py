# SPDX-License-Identifier: Apache-2.0
"""Embeddings of many pictures, to a folder of Parquet files (extra `parquet`).

The folder holds part-000000.parquet, part-000001.parquet, ... in the order of the
pictures. Columns: `path`, one FixedSizeList<float32> named after each pool, `error`,
`size` and `mtime`. A picture that cannot be read keeps its row: null vectors, and the
reason in `error`.

A part is written under a hidden name and renamed when whole, so what is there is
whole; a run that was stopped redoes the part it was at and goes on. A row is found
again by its path. It is made again where it failed, and where the file has another size
or mtime than it had; pictures that were added, wherever in the list, follow after the
rows that are there; rows of pictures that are listed no more stay unless they are to be
pruned. Each part's schema metadata says what made it (all weights, options, pools, the
transform), so nothing is mixed up unnoticed. The list is read as it is worked on; of
rows that are there some 40 bytes each are kept.

What an embedding is: what a model with that pool gives as `forward_head(x,
pre_logits=True)`. That is `pool(features, p)`, then `fc_norm` where the model has one;
where its norm stands before the pool, it has been applied already.
"""

from __future__ import annotations

from .embedder import POOLS, Embedder
from .local import Summary, embed_images, list_images
from .page import page
from .rows import need_pyarrow, schema, table
from .search import Found, Match, rebuild, search
from .stored import Stored, load, open_folder

__all__ = [
    "POOLS",
    "Embedder",
    "Found",
    "Match",
    "Stored",
    "Summary",
    "embed_images",
    "list_images",
    "load",
    "need_pyarrow",
    "open_folder",
    "page",
    "rebuild",
    "schema",
    "search",
    "table",
]
