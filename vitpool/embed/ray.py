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

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._core import set_num_threads
from ..registry import create_model
from ..transforms import (
    ImageError,
    Transform,
    create_transform,
    default_workers,
    resolve_data_config,
    stream,
)
from . import embedder
from .local import Summary
from .rows import need_pyarrow, table, text

if TYPE_CHECKING:
    import pyarrow


RAY_CPUS = 2  # what Ray Data's reading, writing and checkpoint take beside the actors


class Embedder:
    """Turns batches of pictures into vectors; made once in each Ray actor.

    model: a name for `create_model` (with its weights), or the options of it as a dict
    with `name` among them. pools: default the model's own. transform: its options that
    differ from the model's, as for `resolve_data_config`, and `exif`. threads: default
    the processors that Ray gave the actor. strict: a picture that cannot be read raises
    ImageError, instead of becoming a null with its reason.

    A batch is a pyarrow Table (batch_format="pyarrow") with the column `path`, or
    `path` and `bytes` as from `ray.data.read_binary_files(..., include_paths=True)`;
    what comes back has the columns path, one for each pool, error.
    """

    def __init__(
        self,
        model: str | Mapping[str, Any],
        pools: Sequence[str] | None = None,
        *,
        transform: Mapping[str, Any] | None = None,
        threads: int | None = None,
        strict: bool = False,
    ) -> None:
        self.threads = threads or _assigned_cpus()
        set_num_threads(self.threads)
        options = _model_options(model)
        options.setdefault("pretrained", True)
        net = create_model(**options)
        own = net.global_pool
        net.reset_classifier(0)
        self.embedder = embedder.Embedder(net, pools if pools is not None else [own])
        self.transform = _transform(net, transform or {})
        self.strict = strict

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Embed one batch; see the class."""
        paths = batch.column("path").to_pylist()
        content = "bytes" in batch.column_names
        sources = batch.column("bytes").to_pylist() if content else paths
        good: list[int] = []
        errors: dict[int, str] = {}
        vectors = {p: [] for p in self.embedder.pools}  # type: ignore[var-annotated]
        # in groups of 32, so that decoding goes on while one is computed
        for group in stream(
            sources, self.transform, batch_size=32, num_workers=self.threads
        ):
            start = len(good) + len(errors)
            good += [start + i for i in group.good]
            errors.update((start + i, why) for i, why in group.errors.items())
            for pool, rows in self.embedder(group.inputs).items():
                vectors[pool].append(rows)
        if errors and self.strict:
            first = min(errors)
            raise ImageError(paths[first], errors[first])
        whole = {
            pool: np.concatenate([np.empty((0, size), np.float32), *vectors[pool]])
            for pool, size in self.embedder.sizes.items()
        }
        return table(paths, whole, good, errors)


def _model_options(model: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"name": model} if isinstance(model, str) else dict(model)


def _transform(model: Any, options: Mapping[str, Any]) -> Transform:
    own = dict(options)
    exif = bool(own.pop("exif", False))
    return create_transform(**resolve_data_config(model, **own), exif=exif)


def _assigned_cpus() -> int:
    """Processors that Ray gave to this actor; all of them outside of Ray."""
    import ray

    if ray.is_initialized():
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU")
        if cpus:
            return max(1, int(cpus))
    return default_workers()


def _write_list(paths: list[str], target: Path) -> None:
    """The pictures as one Parquet column, in pieces that Ray reads in parallel."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    hidden = target.with_name(f".{target.name}.tmp")
    column = pa.table({"path": pa.array(paths, pa.string())})
    pq.write_table(column, hidden, row_group_size=4096)
    os.replace(hidden, target)


def embed_images(
    model: str | Mapping[str, Any],
    images: Sequence[str],
    output: str | os.PathLike[str],
    *,
    pools: Sequence[str] | None = None,
    transform: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    part_size: int = 2048,
    actors: int | None = None,
    num_cpus: int = 1,
    strict: bool = False,
) -> Summary:
    """Embed pictures on the Ray cluster this process is connected to.

    model, pools, transform, strict: as `Embedder`. images: paths that every node can
    open, each once. output: a folder that every node can write; `<output>.ray` beside
    it keeps the list and Ray Data's checkpoint, so that the same call goes on where it
    was stopped, and does nothing when all is done. actors: at most so many; default one
    for each num_cpus processors of the cluster, less the two that Ray needs besides.

    Raises ValueError for a picture listed twice, where the folder belongs to another
    run, and for a cluster too small.
    """
    need_pyarrow()
    import pyarrow.dataset as dataset
    import ray
    from ray.data.checkpoint import CheckpointConfig

    folder = Path(output).absolute()
    state = folder.with_name(folder.name + ".ray")
    if any(folder.glob("part-*.parquet")):
        raise ValueError(f"{folder}: holds parts of the local engine; give another -o")
    if len(set(images)) != len(images):
        twice = next(p for i, p in enumerate(images) if p in images[:i])
        raise ValueError(f"{twice}: listed twice, and a path is the row's name in Ray")
    options = _model_options(model)
    run = json.loads(json.dumps([options, pools, dict(transform or {})], default=str))
    told = state / "run.json"
    if told.exists():
        if json.loads(told.read_text(encoding="utf-8")) != run:
            raise ValueError(
                f"{folder}: begun with other options, see {told}; give another -o"
            )
    elif any(folder.glob("*.parquet")):
        raise ValueError(f"{folder}: holds Parquet files of others; give another -o")
    state.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    told.write_text(json.dumps(run), encoding="utf-8")
    paths = [text(p) for p in images]
    _write_list(paths, state / "paths.parquet")

    before = count_rows(folder)
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < num_cpus + RAY_CPUS:
        # without this the run would wait for ever
        raise ValueError(
            f"the Ray cluster has {cpus} processors, but an actor of {num_cpus} needs "
            f"{RAY_CPUS} more beside it, for reading and for the checkpoint"
        )
    actors = min(actors or cpus, (cpus - RAY_CPUS) // num_cpus)
    context = ray.data.DataContext.get_current()
    saved = context.checkpoint_config
    context.checkpoint_config = CheckpointConfig(
        id_column="path",
        checkpoint_path=str(state / "checkpoint"),
        # kept, for a second call must find that all is done
        delete_checkpoint_on_success=False,
    )
    try:
        rows = ray.data.read_parquet(str(state / "paths.parquet"))
        # a block is what one actor gets at a time: few batches, so that all have work
        rows = rows.repartition(target_num_rows_per_block=4 * batch_size)
        rows = rows.map_batches(
            Embedder,
            fn_constructor_kwargs={
                "model": options,
                "pools": pools,
                "transform": dict(transform or {}),
                "strict": strict,
            },
            batch_format="pyarrow",
            batch_size=batch_size,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
            num_cpus=num_cpus,
        )
        rows.write_parquet(str(folder), min_rows_per_file=part_size)
    finally:
        context.checkpoint_config = saved
    done = dataset.dataset(folder, format="parquet")
    failed = done.count_rows(filter=dataset.field("error").is_valid())
    return Summary(done.count_rows(), failed, before)


def count_rows(folder: Path) -> int:
    """Rows of the files that are whole.

    One that was being written when a run was killed is not; Ray deletes it as the next
    run starts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    for path in folder.glob("*.parquet"):
        with contextlib.suppress(pa.ArrowInvalid):
            rows += pq.read_metadata(path).num_rows
    return rows
