# SPDX-License-Identifier: Apache-2.0
"""Embeddings on many machines, with Ray Data (extra `ray`).

`vitpool.ray` is the documented door to this, and says how it is used. A run over a list
of paths goes on after a stop by Ray Data's own checkpoint.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._core import set_num_threads
from ..files import locked, replacing
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
from .embedder import about, difference
from .local import Summary, paths_of
from .parts import remove_stale
from .rows import Stamp, need_pyarrow, stamp_of, table, text

if TYPE_CHECKING:
    import pyarrow


RAY_CPUS = 2  # what Ray Data's reading, writing and checkpoint take beside the actors


class Embedder:
    """Turns batches of pictures into vectors; made once in each Ray actor.

    model: a name for `create_model` (with its weights), or the options of it as a dict
    with `name` among them. pools: default the model's own. transform: its options that
    differ from the model's, as for `resolve_data_config`, and `exif`. threads: default
    the processors that Ray gave the actor. strict: a picture that cannot be read raises
    ImageError, instead of becoming a null with its reason. identity: what `identity()`
    must give; ValueError where this machine's weights are others.

    A batch is a pyarrow Table (batch_format="pyarrow") with the column `path`, or
    `path` and `bytes` as from `ray.data.read_binary_files(..., include_paths=True)`;
    what comes back has the columns of `vitpool.embed.schema`; of bytes nobody tells
    size and mtime.
    """

    def __init__(
        self,
        model: str | Mapping[str, Any],
        pools: Sequence[str] | None = None,
        *,
        transform: Mapping[str, Any] | None = None,
        threads: int | None = None,
        strict: bool = False,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.threads = threads or _assigned_cpus()
        set_num_threads(self.threads)
        self.embedder, self.transform = _open(model, pools, transform)
        self.strict = strict
        other = difference(identity, self.identity()) if identity is not None else ""
        if other:
            raise ValueError(f"the run is {other} than on the machine of this actor")

    def identity(self) -> dict[str, Any]:
        """What makes the vectors of two of these the same, up to rounding."""
        return self.embedder.identity(self.transform)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Embed one batch; see the class."""
        paths = batch.column("path").to_pylist()
        content = "bytes" in batch.column_names
        sources = batch.column("bytes").to_pylist() if content else paths
        stamps = [None if content else stamp_of(path) for path in paths]
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
        return table(paths, whole, good, errors, stamps)


def _open(
    model: str | Mapping[str, Any],
    pools: Sequence[str] | None,
    transform: Mapping[str, Any] | None,
) -> tuple[embedder.Embedder, Transform]:
    """The model with its pools, and its transform, of what `Embedder` takes."""
    net = create_model(**{"pretrained": True, **_model_options(model)})
    options = dict(transform or {})
    exif = bool(options.pop("exif", False))
    return (
        embedder.Embedder(net, pools),
        create_transform(**resolve_data_config(net, **options), exif=exif),
    )


def _model_options(model: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"model_name": model} if isinstance(model, str) else dict(model)


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

    column = pa.table({"path": pa.array(paths, pa.string())})
    with replacing(target) as file:
        pq.write_table(column, file, row_group_size=4096)


def embed_images(
    model: str | Mapping[str, Any],
    images: Any,
    output: str | os.PathLike[str],
    *,
    pools: Sequence[str] | None = None,
    transform: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    part_size: int = 2048,
    actors: int | None = None,
    num_cpus: int = 1,
    prune: bool = False,
    strict: bool = False,
) -> Summary:
    """Embed pictures on the Ray cluster this process is connected to.

    model, pools, transform, strict: as `Embedder`. images, prune: as for
    `vitpool.embed.embed_images`, but paths that every node can open, each once. output:
    a folder that every node can write; `<output>.ray` beside it keeps the list and Ray
    Data's checkpoint, so that the same call goes on where it was stopped. As there,
    rows that failed and those of pictures that are others by now are made again, and
    rows of pictures that are not listed stay, unless prune. actors: at most so many;
    default one for each num_cpus processors of the cluster, less the two that Ray needs
    besides.

    The model is made in this process too, to see that it can be, and what it is: each
    actor must find the same. Raises ValueError for a picture listed twice, where the
    folder belongs to another run, and for a cluster too small.
    """
    need_pyarrow()
    import pyarrow.dataset as dataset
    import ray

    folder = Path(output).absolute()
    state = folder.with_name(folder.name + ".ray")
    if any(folder.glob("part-*.parquet")):
        raise ValueError(f"{folder}: holds parts of the local engine; give another -o")
    paths = [text(path) for path in paths_of(images)]
    listed: set[str] = set()
    for path in paths:
        if path in listed:
            raise ValueError(
                f"{path}: listed twice, and a path is the row's name in Ray"
            )
        listed.add(path)
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < num_cpus + RAY_CPUS:
        # without this the run would wait for ever
        raise ValueError(
            f"the Ray cluster has {cpus} processors, but an actor of {num_cpus} needs "
            f"{RAY_CPUS} more beside it, for reading and for the checkpoint"
        )
    actors = min(actors or cpus, (cpus - RAY_CPUS) // num_cpus)
    net, pixels = _open(model, pools, transform)
    run = net.identity(pixels)
    meta = {"run": run, **about(net.model)}
    del net
    state.mkdir(parents=True, exist_ok=True)
    with locked(state):
        _begin(folder, state / "run.json", meta)
        remove_stale(folder)
        remove_stale(state / "checkpoint")
        _write_list(paths, state / "paths.parquet")
        there = _forget(folder, state / "checkpoint", listed, prune)
        _compute(
            folder,
            state,
            {
                "model": _model_options(model),
                "pools": pools,
                "transform": dict(transform or {}),
                "strict": strict,
                "identity": run,
            },
            batch_size=batch_size,
            part_size=part_size,
            actors=actors,
            num_cpus=num_cpus,
        )
    done = dataset.dataset(folder, format="parquet")
    failed = done.count_rows(filter=dataset.field("error").is_valid())
    if not prune:
        failed -= there["unlisted, failed"]
    return Summary(
        rows=len(paths),
        failed=failed,
        resumed=there["resumed"],
        replaced=there["replaced"],
        missing=there["missing"],
        unlisted=there["unlisted"],
    )


def _begin(folder: Path, told: Path, meta: dict[str, Any]) -> None:
    """Note what the run is; ValueError where the folder is another's."""
    if told.exists():
        try:
            made = json.loads(told.read_text(encoding="utf-8"))
        except ValueError:  # 0.1.0 could be killed while it wrote
            made = None
        other = difference(made["run"] if isinstance(made, dict) else {}, meta["run"])
        if other:
            raise ValueError(
                f"{folder}: {other}; give another -o, or delete it and {told.parent}"
            )
    elif any(folder.glob("*.parquet")):
        raise ValueError(f"{folder}: holds Parquet files of others; give another -o")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(told) as file:
        text = json.dumps(meta, indent=2)
        file.write(text.encode() + b"\n")


def _forget(
    folder: Path, checkpoint: Path, listed: set[str], prune: bool
) -> Counter[str]:
    """Take rows out of what is done, so that Ray makes them again; counts the rows.

    Those are rows that failed and those of other pictures by now; with prune also those
    that are not listed. The checkpoint forgets first: killed at any point, it leaves
    rows that the next run takes out, and none is lost or there twice.
    """
    import pyarrow as pa

    counts: Counter[str] = Counter()
    out: dict[Path, list[str]] = {}
    for file in folder.glob("*.parquet"):
        rows = _read(file, ["path", "error", "size", "mtime"])
        for path, failed, stamp in () if rows is None else _told(rows):
            if path in listed:
                now = stamp_of(path)
                replaced = not failed and now not in (None, stamp)
                again = failed or replaced
                counts["replaced"] += replaced
                counts["resumed"] += not again
                counts["missing"] += not again and now is None
            else:
                again = prune
                counts["unlisted"] += 1
                counts["unlisted, failed"] += failed
            if again:
                out.setdefault(file, []).append(path)
    names = pa.array([path for paths in out.values() for path in paths], pa.string())
    if len(names):
        for file in [*checkpoint.glob("*.parquet"), *out]:
            _remove_rows(file, names)
    return counts


def _told(rows: pyarrow.Table) -> Iterator[tuple[str, bool, Stamp]]:
    """Each row's path, whether it failed, its stamp."""
    paths, failed = rows["path"].to_pylist(), rows["error"].is_valid().to_pylist()
    sizes, times = (rows[name].to_pylist() for name in ("size", "mtime"))
    return zip(paths, failed, zip(sizes, times, strict=True), strict=True)


def _remove_rows(file: Path, paths: pyarrow.Array) -> None:
    """Write a file again without the rows of these pictures."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = _read(file)
    if rows is None:
        return
    kept = rows.filter(pc.invert(pc.is_in(rows["path"], value_set=paths)))
    if not len(kept):
        file.unlink()
    elif len(kept) < len(rows):
        with replacing(file) as out:
            pq.write_table(kept, out)


def _compute(
    folder: Path,
    state: Path,
    options: dict[str, Any],
    *,
    batch_size: int,
    part_size: int,
    actors: int,
    num_cpus: int,
) -> None:
    """Let Ray Data make the rows that its checkpoint lacks; options: of `Embedder`."""
    import ray
    from ray.data.checkpoint import CheckpointConfig

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
            fn_constructor_kwargs=options,
            batch_format="pyarrow",
            batch_size=batch_size,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
            num_cpus=num_cpus,
        )
        rows.write_parquet(str(folder), min_rows_per_file=part_size)
    finally:
        context.checkpoint_config = saved


def _read(file: Path, columns: list[str] | None = None) -> pyarrow.Table | None:
    """A file's rows; None of one that was being written when a run was killed.

    Ray deletes that one as the next run starts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file).read(columns)
    except pa.ArrowInvalid:
        return None


def count_rows(folder: Path) -> int:
    """Rows of the files that are whole."""
    files = (_read(file, []) for file in folder.glob("*.parquet"))
    return sum(len(rows) for rows in files if rows is not None)
