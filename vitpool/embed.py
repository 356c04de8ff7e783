# SPDX-License-Identifier: Apache-2.0
"""Embeddings of many pictures, to a folder of Parquet files (extra `parquet`).

The folder holds part-000000.parquet, part-000001.parquet, ... in the order of the
pictures. Columns: `path`, one FixedSizeList<float32> named after each pool, `error`. A
picture that cannot be read keeps its row: null vectors, and the reason in `error`.

A part is written under a hidden name and renamed when whole, so what is there is
whole; a run that was stopped redoes the part it was at and goes on. Each part's schema
metadata says which pictures it holds and what made it, so nothing is mixed up
unnoticed. Memory does not grow with the number of pictures: the list is read as it is
worked on.

What an embedding is: what a model with that pool gives as `forward_head(x,
pre_logits=True)`. That is `pool(features, p)`, then `fc_norm` where the model has one;
where its norm stands before the pool, it has been applied already.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .transforms import (
    SUFFIXES,
    Batch,
    ImageError,
    Transform,
    create_transform,
    find_images,
    resolve_data_config,
    stream,
)

if TYPE_CHECKING:
    import argparse

    import pyarrow

POOLS = ("avg", "avgmax", "max", "token", "map", "prr")
_META = b"vitpool"


class Embedder:
    """A model and the pools to take: inputs (B, C, H, W) to {pool: (B, D) float32}.

    All pools come from one pass through the blocks. Raises ValueError where the model
    cannot pool so.
    """

    def __init__(self, model: Any, pools: Sequence[str] | None = None) -> None:
        names = list(pools) if pools is not None else [model.global_pool]
        for name in names:
            if name not in POOLS:
                raise ValueError(f"pool: {name!r}, allowed are {', '.join(POOLS)}")
        if not names or len(set(names)) != len(names):
            raise ValueError(f"pool: {names}, allowed are one or more, each once")
        self.model, self.pools = model, names
        tokens = model.patch_embed.num_patches + model.num_prefix_tokens
        features = np.zeros((1, tokens, model.embed_dim), np.float32)
        # asks the model itself whether it can, before a picture is opened
        self.sizes = {p: int(model.pool(features, p).shape[-1]) for p in names}

    def __call__(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Embed inputs (B, C, H, W); B may be 0."""
        if not len(x):
            return {p: np.empty((0, d), np.float32) for p, d in self.sizes.items()}
        model = self.model
        if self.pools == [model.global_pool] and model.num_classes == 0:
            return {self.pools[0]: model(x)}  # skips what no pool would read
        features = model.forward_features(x)
        return {p: model.fc_norm(model.pool(features, p)) for p in self.pools}

    def identity(self, transform: Transform) -> dict[str, Any]:
        """What makes two runs' vectors the same: weights, pools, pixels and type."""
        model = self.model
        names = [n for n in model.param_shapes() if not n.startswith("head.")]
        digest = hashlib.blake2b(digest_size=16)
        for name in (names[0], names[len(names) // 2], names[-1]):
            digest.update(np.ascontiguousarray(model.get_parameter(name)).tobytes())
        return {
            "weights": digest.hexdigest(),
            "parameters": len(names),
            "dtype": str(model.dtype),
            "pools": self.sizes,
            "transform": repr(transform),
        }


def need_pyarrow() -> None:
    """ImportError where pyarrow is missing or too old, with what to install."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            "embeddings need pyarrow: pip install 'vitpool[parquet]'"
        ) from error
    if int(pyarrow.__version__.partition(".")[0]) < 26:
        # 17 to 24 cannot write a null in a column of fixed-size lists to Parquet, 25
        # cannot read it again
        raise ImportError(
            "embeddings need pyarrow 26 or later (so Python 3.11), for null vectors "
            f"in Parquet; found {pyarrow.__version__}"
        )


def schema(sizes: dict[str, int]) -> pyarrow.Schema:
    """The columns: path, a vector for each pool, error."""
    import pyarrow as pa

    vectors = [(pool, pa.list_(pa.float32(), size)) for pool, size in sizes.items()]
    return pa.schema([("path", pa.string()), *vectors, ("error", pa.string())])


def table(
    paths: Sequence[str],
    vectors: dict[str, NDArray[np.float32]],
    good: Sequence[int],
    errors: dict[int, str],
) -> pyarrow.Table:
    """Rows in the order of paths; vectors[pool] has a row for each index in good."""
    import pyarrow as pa

    missing = np.ones(len(paths), bool)
    missing[list(good)] = False
    columns: list[Any] = [pa.array([_text(p) for p in paths], pa.string())]
    for rows in vectors.values():
        full = np.zeros((len(paths), rows.shape[1]), np.float32)
        full[list(good)] = rows
        columns.append(
            pa.FixedSizeListArray.from_arrays(
                pa.array(full.ravel()), rows.shape[1], mask=pa.array(missing)
            )
        )
    columns.append(pa.array([errors.get(i) for i in range(len(paths))], pa.string()))
    sizes = {pool: rows.shape[1] for pool, rows in vectors.items()}
    return pa.Table.from_arrays(columns, schema=schema(sizes))


def _text(path: str) -> str:
    """A path as text that Parquet can hold: names need not be UTF-8 on Linux."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# ------------------------------------------------------------------------------ listing


def list_images(data: str | os.PathLike[str]) -> Iterator[str]:
    """The pictures of a folder, or of a text file with one path a line.

    Relative paths in a list are relative to the working directory. Raises OSError for
    what cannot be read, ValueError where there is no picture.
    """
    text = os.fspath(data)
    if os.path.isdir(text):
        paths: Iterator[str] = find_images(text)
    elif os.path.splitext(text)[1].lower() in SUFFIXES:
        paths = iter([text])
    else:
        paths = _lines(text)
    first = next(paths, None)
    if first is None:
        raise ValueError(f"{text}: no pictures in it")
    yield first
    yield from paths


def _lines(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            name = line.rstrip("\r\n")
            if "\0" in name:
                raise ValueError(f"{path}: neither a folder nor a text file of paths")
            if name:
                yield name


# -------------------------------------------------------------------------------- parts


class Summary(NamedTuple):
    """What a run came to, the parts that were there already included."""

    rows: int
    failed: int
    resumed: int  # rows that an earlier run had finished


class _Part(NamedTuple):
    number: int
    path: Path
    first: int
    paths: list[str]
    meta: dict[str, Any]


def _read_meta(path: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        raw = (pq.read_schema(path).metadata or {}).get(_META)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from error
    if raw is None:
        raise ValueError(f"{path}: not written by vitpool embed; give another -o")
    meta: dict[str, Any] = json.loads(raw)
    return meta


def _finished(part: _Part) -> dict[str, Any] | None:
    """The metadata of a part that is there and right; None where it must be made."""
    if not part.path.exists():
        return None
    meta = _read_meta(part.path)
    if meta["run"] != part.meta["run"]:
        differ = [k for k, v in part.meta["run"].items() if meta["run"].get(k) != v]
        raise ValueError(
            f"{part.path}: made with other {', '.join(differ) or 'options'}; give "
            "another -o, or delete the old parts"
        )
    if meta["paths"] == part.meta["paths"]:
        return meta
    # the last part of an earlier, shorter list is made again with what was added
    if meta["rows"] < len(part.paths) and meta["paths"] == _digest(
        part.paths[: meta["rows"]]
    ):
        return None
    last = part.first + max(meta["rows"], len(part.paths)) - 1
    raise ValueError(
        f"{part.path}: holds other pictures than are now numbers {part.first} to "
        f"{last}; give another -o, or delete the old parts"
    )


def _digest(paths: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(path.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One run at a time in a folder; the lock dies with the process."""
    import fcntl

    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"{folder}: another run is writing there") from error
        yield


def _write(part: _Part, rows: pyarrow.Table) -> None:
    """Write a part so that under its own name it is either whole or not there."""
    import pyarrow.parquet as pq

    rows = rows.replace_schema_metadata({_META: json.dumps(part.meta).encode()})
    hidden = part.path.with_name(f".{part.path.name}.tmp")
    with open(hidden, "wb") as file:
        # vectors neither repeat nor compress
        pq.write_table(rows, file, use_dictionary=["error"])
        file.flush()
        os.fsync(file.fileno())
    os.replace(hidden, part.path)


def embed_images(
    model: Any,
    images: Iterable[str],
    output: str | os.PathLike[str],
    *,
    pools: Sequence[str] | None = None,
    transform: Transform | None = None,
    batch_size: int = 32,
    num_workers: int | None = None,
    part_size: int = 2048,
    strict: bool = False,
    progress: Callable[[int], Any] = lambda rows: None,
    report: Callable[[str, str], Any] = lambda path, reason: None,
) -> Summary:
    """Write the embeddings of pictures (paths, in a fixed order) to a folder of parts.

    pools: default the model's own. transform: default the model's. strict: raise
    ImageError at the first picture that cannot be read, instead of keeping its reason.
    progress(n) is called as rows are done, report(path, reason) for each failure.

    Given the same pictures again it goes on where it was stopped. Raises ValueError
    where the folder holds parts of other pictures, weights, pools or pixels.
    """
    need_pyarrow()
    if part_size < 1:
        raise ValueError(f"part_size: {part_size}, allowed is 1 or more")
    transform = transform or create_transform(**resolve_data_config(model))
    embedder = Embedder(model, pools)
    run = {**embedder.identity(transform), "part_size": part_size}
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    total, failed, resumed = 0, 0, 0
    waiting: deque[_Part] = deque()  # parts whose rows are on their way, in order

    def todo() -> Iterator[str]:
        nonlocal total, failed, resumed
        names = iter(images)
        for number in itertools.count():
            paths = list(itertools.islice(names, part_size))
            if not paths:
                return
            meta = {"run": run, "rows": len(paths), "paths": _digest(paths)}
            path = folder / f"part-{number:06d}.parquet"
            part = _Part(number, path, total, paths, meta)
            total += len(paths)
            there = _finished(part)
            if there is None:
                waiting.append(part)
                yield from paths
            else:
                resumed += len(paths)
                failed += there["failed"]
                progress(len(paths))

    with _locked(folder):
        for stale in folder.glob(".part-*.tmp"):
            stale.unlink()
        rows = _Rows(embedder)
        for batch in stream(
            todo(), transform, batch_size=batch_size, num_workers=num_workers
        ):
            for index, reason in batch.errors.items():
                report(batch.sources[index], reason)
                if strict:
                    raise ImageError(batch.sources[index], reason)
            failed += len(batch.errors)
            rows.add(batch, embedder(batch.inputs))
            while waiting and rows.count >= len(waiting[0].paths):
                part = waiting.popleft()
                finished, bad = rows.take(len(part.paths))
                part.meta["failed"] = bad
                _write(part, finished)
            progress(len(batch.sources))
    return Summary(total, failed, resumed)


class _Rows:
    """Rows that wait until their part is whole: at most a part and a batch of them."""

    def __init__(self, embedder: Embedder) -> None:
        self.sizes, self.count = embedder.sizes, 0
        self.rows: deque[tuple[str, dict[str, Any] | None, str | None]] = deque()

    def add(self, batch: Batch, vectors: dict[str, NDArray[np.float32]]) -> None:
        place = {index: row for row, index in enumerate(batch.good)}
        for index, source in enumerate(batch.sources):
            row = place.get(index)
            own = None if row is None else {p: v[row] for p, v in vectors.items()}
            self.rows.append((source, own, batch.errors.get(index)))
        self.count += len(batch.sources)

    def take(self, count: int) -> tuple[pyarrow.Table, int]:
        """The first rows as a table, and how many of them failed."""
        taken = [self.rows.popleft() for _ in range(count)]
        self.count -= count
        good = [i for i, row in enumerate(taken) if row[1] is not None]
        errors = {i: row[2] for i, row in enumerate(taken) if row[2] is not None}
        vectors = {
            pool: np.array([taken[i][1][pool] for i in good], np.float32).reshape(  # type: ignore[index]
                len(good), size
            )
            for pool, size in self.sizes.items()
        }
        return table([row[0] for row in taken], vectors, good, errors), len(errors)


# ------------------------------------------------------------------------------ command


def parse_pools(text: str | None) -> list[str] | None:
    """`token,map,avg` as a list; None for none given."""
    return None if text is None else [p.strip() for p in text.split(",")]


def load_for_embedding(args: argparse.Namespace) -> tuple[Any, Transform]:
    """The model without its classifier, and its transform."""
    from .cli import UsageError, load_model, make_transform

    model = load_model(args)
    if not args.pool and model.global_pool not in POOLS:
        raise UsageError(f"{args.model} has no pool of its own: give --pool")
    model.reset_classifier(0)
    return model, make_transform(args, model)


def embed_command(args: argparse.Namespace) -> int:
    """`vitpool embed`; returns the number of pictures that could not be read."""
    import sys

    from tqdm import tqdm

    from .cli import StrictError, progress

    need_pyarrow()
    total = sum(1 for _ in list_images(args.data))
    model, transform = load_for_embedding(args)

    def report(path: str, reason: str) -> None:
        if not args.strict:
            tqdm.write(f"vitpool: {path}: {reason}; row kept, null", file=sys.stderr)

    with progress((), args, total, "picture") as bar:
        try:
            summary = embed_images(
                model,
                list_images(args.data),
                args.output,
                pools=parse_pools(args.pool),
                transform=transform,
                batch_size=args.batch_size,
                num_workers=args.workers,
                part_size=args.part_size,
                strict=args.strict,
                progress=bar.update,
                report=report,
            )
        except ImageError as error:
            raise StrictError(str(error)) from error
    resumed = f", {summary.resumed} of them from before" if summary.resumed else ""
    print(
        f"vitpool: {summary.rows} pictures{resumed}, {summary.failed} not readable",
        file=sys.stderr,
    )
    print(args.output)
    return summary.failed
