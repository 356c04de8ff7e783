# SPDX-License-Identifier: Apache-2.0
"""Embeddings on many machines, with Ray Data (extra `ray`).

`Embedder` is a class for `Dataset.map_batches` with an actor pool: one model an actor,
as many compute threads as the actor has processors. `vitpool embed --engine ray` is
that over a list of paths, with Ray Data's own checkpoint for going on after a stop. The
columns are those of `vitpool.embed`.

    import ray
    from vitpool.ray import Embedder

    rows = ray.data.read_parquet("paths.parquet")     # a column `path`
    rows.map_batches(
        Embedder, fn_constructor_kwargs={"model": "vit_base_patch16_224"},
        batch_format="pyarrow", batch_size=32, num_cpus=2,
        compute=ray.data.ActorPoolStrategy(size=4),
    ).write_parquet("vectors")
"""

from .embed.ray import Embedder, embed_images

__all__ = ["Embedder", "embed_images"]
