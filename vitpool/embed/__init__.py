# SPDX-License-Identifier: Apache-2.0
"""Embeddings of many pictures, to a folder of Parquet files (extra `parquet`).

The folder holds part-000000.parquet, part-000001.parquet, ... in the order of the
pictures. Columns: `path`, one FixedSizeList<float32> named after each pool, `error`. A
picture that cannot be read keeps its row: null vectors, and the reason in `error`.

A part is written under a hidden name and renamed when whole, so what is there is
whole; a run that was stopped redoes the part it was at and goes on, and the rows that
failed are tried again. Each part's schema metadata says which pictures it holds and
what made it (all weights, options, pools, the transform), so nothing is mixed up
unnoticed. Memory does not grow with the number of pictures: the list is read as it is
worked on.

What an embedding is: what a model with that pool gives as `forward_head(x,
pre_logits=True)`. That is `pool(features, p)`, then `fc_norm` where the model has one;
where its norm stands before the pool, it has been applied already.
"""

from __future__ import annotations

from .embedder import POOLS, Embedder
from .local import Summary, embed_images, list_images
from .rows import need_pyarrow, schema, table

__all__ = [
    "POOLS",
    "Embedder",
    "Summary",
    "embed_images",
    "list_images",
    "need_pyarrow",
    "schema",
    "table",
]
