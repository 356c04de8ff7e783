# SPDX-License-Identifier: Apache-2.0
"""The `vitpool` command: classify, embed, attention, info, list, convert, benchmark.

Results go to stdout, everything else to stderr. Exit codes: 0 all done; 1 some pictures
could not be read (each is named, the rest is done); 2 wrong usage, or it cannot run.
Option names are those of timm's inference.py where they mean the same.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

DEFAULT_MODEL = "vit_digits"
OK, SOME_FAILED, CANNOT = 0, 1, 2


class StrictError(ValueError):
    """A picture cannot be read, and --strict was given."""


class UsageError(ValueError):
    """The command line asks for something that cannot be done; one line."""


# -------------------------------------------------------------------------- arguments


class _KeyValues(argparse.Action):
    """`--model-kwargs a=1 b=x`: Python literals, else text, as in timm."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: Any = None
    ) -> None:
        out: dict[str, Any] = {}
        for item in values:
            key, equals, text = item.partition("=")
            if not equals or not key:
                parser.error(f"{option_string}: {item!r} is not KEY=VALUE")
            try:
                out[key] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                out[key] = text
        setattr(namespace, self.dest, out)


def _count(least: int) -> Any:
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value}, allowed is {least} or more")
        return value

    return parse


def _model_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("model")
    add = group.add_argument
    add(
        "-m",
        "--model",
        metavar="MODEL",
        default=DEFAULT_MODEL,
        help="a name (`vitpool list`), hf-hub:org/name[@rev], a folder in timm's hub "
        f"layout, or a weights file with --arch (default {DEFAULT_MODEL})",
    )
    add("--arch", metavar="NAME", help="architecture of a bare weights file")
    add("--checkpoint", metavar="PATH", help="weights to load in place of the model's")
    add(
        "--pretrained",
        action="store_true",
        default=None,
        help="use the model's own weights",
    )
    add("--num-classes", type=_count(0), metavar="N", help="classes of the model")
    add(
        "--gp",
        "--global-pool",
        dest="global_pool",
        metavar="POOL",
        help="avg, avgmax, max, token, map, prr",
    )
    add("--in-chans", type=_count(1), metavar="N", help="input channels")
    add(
        "--model-kwargs",
        nargs="*",
        action=_KeyValues,
        default={},
        metavar="KEY=VALUE",
        help="more options of the model",
    )
    add(
        "--dtype",
        "--model-dtype",
        dest="dtype",
        default="float32",
        metavar="TYPE",
        help="type of the weights in memory (default float32)",
    )
    add("--threads", type=_count(1), metavar="N", help="compute threads")
    return parser


def _size_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument_group("input size").add_argument
    add("--img-size", type=_count(1), metavar="N", help="side of the input picture")
    add(
        "--input-size",
        nargs=3,
        type=_count(1),
        metavar="N",
        help="channels, height and width",
    )
    return parser


def _picture_options(batch_size: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("pictures")
    add = group.add_argument
    add("--crop-pct", type=float, metavar="X", help="part of the picture kept")
    add("--crop-mode", choices=("center", "squash", "border"))
    add("--mean", type=float, nargs="+", metavar="X", help="mean of the pixels, 0 to 1")
    add("--std", type=float, nargs="+", metavar="X", help="their standard deviation")
    add("--interpolation", metavar="NAME", help="bilinear, bicubic, lanczos, ...")
    add("--exif", action="store_true", help="turn pictures as their EXIF data says")
    add(
        "-b",
        "--batch-size",
        type=_count(1),
        default=batch_size,
        metavar="N",
        help=f"pictures computed at once (default {batch_size})",
    )
    add("-j", "--workers", type=_count(1), metavar="N", help="decoding threads")
    add("--strict", action="store_true", help="stop at a picture that cannot be read")
    add("-q", "--quiet", action="store_true", help="no progress bar")
    return parser


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="vitpool",
        description="timm's Vision Transformers on a CPU, without PyTorch.",
        epilog="vitpool COMMAND --help tells a command's options. Exit codes: 0 done, "
        "1 some pictures could not be read, 2 wrong usage or cannot run.",
    )
    parser.add_argument("--version", action="version", version=f"vitpool {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    model, size = _model_options(), _size_options()
    as_json: dict[str, Any] = {"action": "store_true", "help": "print JSON"}

    sub = commands.add_parser(
        "classify",
        parents=[model, size, _picture_options(8)],
        help="print the most probable classes of pictures",
    )
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, or folders")
    sub.add_argument(
        "--topk",
        type=_count(1),
        default=5,
        metavar="K",
        help="classes to print (default 5)",
    )
    sub.add_argument("--output-type", choices=("prob", "logit"), default="prob")
    sub.add_argument(
        "--label-type", choices=("description", "name", "none"), default="description"
    )
    sub.add_argument("--json", **as_json)
    sub.set_defaults(run=_classify)

    sub = commands.add_parser(
        "embed",
        parents=[model, size, _picture_options(32)],
        help="write embeddings of many pictures to Parquet files",
    )
    sub.add_argument(
        "data",
        metavar="DIR_OR_LIST",
        help="a folder, or a text file with one path a line",
    )
    sub.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="folder of the part files; a run that was stopped goes on",
    )
    sub.add_argument(
        "--pool", metavar="POOL[,POOL]", help="pools to write (default the model's own)"
    )
    sub.add_argument(
        "--part-size",
        type=_count(1),
        default=2048,
        metavar="N",
        help="pictures in a part file (default 2048)",
    )
    sub.add_argument("--engine", choices=("local", "ray"), default="local")
    sub.add_argument("--address", metavar="HOST:PORT", help="Ray cluster")
    sub.add_argument("--actors", type=_count(1), metavar="N", help="Ray actors")
    sub.add_argument(
        "--num-cpus",
        type=_count(1),
        metavar="N",
        help="processors, and threads, of a Ray actor (default 1)",
    )
    sub.set_defaults(run=_embed)

    sub = commands.add_parser(
        "attention",
        parents=[model, size, _picture_options(1)],
        help="draw what a model looks at",
    )
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, or folders")
    sub.add_argument("-o", "--output", required=True, metavar="OUT.png")
    sub.add_argument(
        "--layer",
        default="auto",
        metavar="pool|N|rollout",
        help="the attention pool, block N (-1 the last), or all blocks "
        "multiplied (default the pool, else the last block)",
    )
    sub.add_argument(
        "--head",
        default="mean",
        metavar="mean|N|all",
        help="one head, or each in a column (default their mean)",
    )
    sub.set_defaults(run=_attention)

    sub = commands.add_parser(
        "info", parents=[model, size], help="tell about a model, or about this build"
    )
    sub.add_argument("--json", **as_json)
    sub.add_argument("--build", action="store_true", help="about this build only")
    sub.set_defaults(run=_info)

    sub = commands.add_parser("list", help="list the models")
    sub.add_argument("filter", nargs="?", default="", help="a pattern: 'vit_base*'")
    sub.add_argument(
        "--pretrained", action="store_true", help="those with weights, by tag"
    )
    sub.add_argument("--json", **as_json)
    sub.set_defaults(run=_list)

    sub = commands.add_parser(
        "convert",
        parents=[model, size],
        help="write a model as a folder that vitpool and timm load",
    )
    sub.add_argument("-o", "--output", required=True, metavar="DIR")
    sub.set_defaults(run=_convert)

    sub = commands.add_parser(
        "benchmark", parents=[model, size], help="time the forward pass"
    )
    sub.add_argument("-b", "--batch-size", type=_count(1), default=1, metavar="N")
    sub.add_argument("--num-warm-iter", type=_count(0), default=3, metavar="N")
    sub.add_argument("--num-bench-iter", type=_count(1), default=20, metavar="N")
    sub.add_argument("--profile", action="store_true", help="time of each operation")
    sub.add_argument("--json", **as_json)
    sub.set_defaults(run=_benchmark)
    return parser


# ----------------------------------------------------------------------------- helpers


def _say(message: str) -> None:
    print(f"vitpool: {message}", file=sys.stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _is_weights(path: str) -> bool:
    from .hub import WEIGHT_SUFFIXES

    return path.endswith(WEIGHT_SUFFIXES) and not os.path.isdir(path)


def _stored_classes(path: str) -> int | None:
    """Number of classes in a safetensors file; None where it cannot be told."""
    if not path.endswith(".safetensors"):
        return None
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        names = set(file.keys())
        if "head.weight" in names:
            return int(file.get_slice("head.weight").get_shape()[0])
    return 0


def model_arguments(
    args: argparse.Namespace, pretrained: bool = True
) -> dict[str, Any]:
    """What the options ask of `create_model`, its name included.

    pretrained: the model's own weights are wanted unless --checkpoint gives others.
    """
    options: dict[str, Any] = dict(args.model_kwargs)
    name, checkpoint, classes = args.model, args.checkpoint, args.num_classes
    if _is_weights(name):
        if not args.arch:
            raise UsageError(
                f"{name} is a bare weights file: say its architecture with --arch (see "
                "`vitpool list`), or give the folder with its config.json"
            )
        if not os.path.isfile(name):
            raise FileNotFoundError(f"{name}: no such file")
        if checkpoint:
            raise UsageError("--checkpoint and a weights file as --model are two files")
        checkpoint, name = name, args.arch
        classes = _stored_classes(checkpoint) if classes is None else classes
    elif args.arch:
        raise UsageError(f"--arch is for a weights file as --model, not for {name}")
    elif os.path.isdir(name):
        name = f"local-dir:{os.path.abspath(name)}"
    if args.input_size:
        options.setdefault("in_chans", args.input_size[0])
        options.setdefault("img_size", tuple(args.input_size[1:]))
    elif args.img_size:
        options.setdefault("img_size", args.img_size)
    if args.in_chans:
        options.setdefault("in_chans", args.in_chans)
    return {
        "name": name,
        "pretrained": bool(args.pretrained or (pretrained and not checkpoint)),
        "num_classes": classes,
        "global_pool": args.global_pool,
        "checkpoint_path": os.path.abspath(checkpoint) if checkpoint else None,
        "dtype": args.dtype,
        **options,
    }


def load_model(args: argparse.Namespace, pretrained: bool = True) -> Any:
    """Create the model that the options describe."""
    from . import create_model, set_num_threads

    if args.threads:
        set_num_threads(args.threads)
    return create_model(**model_arguments(args, pretrained))


def transform_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What the options ask of the transform."""
    keys = ["input_size", "img_size", "in_chans", "interpolation", "mean", "std"]
    keys += ["crop_pct", "crop_mode", "exif"]
    return {key: getattr(args, key) for key in keys if getattr(args, key)}


def make_transform(args: argparse.Namespace, model: Any) -> Any:
    """The transform of the model under the options."""
    from .transforms import create_transform, resolve_data_config

    options = transform_arguments(args)
    exif = options.pop("exif", False)
    return create_transform(**resolve_data_config(model, **options), exif=exif)


def _expand(paths: Sequence[str]) -> Iterator[str]:
    """Files as they are, folders as the pictures in them."""
    from .transforms import find_images

    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        found = False
        for picture in find_images(path):
            found = True
            yield picture
        if not found:
            raise FileNotFoundError(f"{path}: no pictures in this folder")


def progress(items: Iterable[Any], args: Any, total: int | None, unit: str) -> Any:
    """A tqdm bar on stderr; none where stderr is no terminal, or with --quiet."""
    from tqdm import tqdm

    hide = True if args.quiet else None
    return tqdm(items, total=total, unit=unit, disable=hide, file=sys.stderr)


def _batches(args: argparse.Namespace, model: Any, paths: list[str]) -> Iterator[Any]:
    """Batches of pictures; tells of those that cannot be read, or stops at one."""
    from tqdm import tqdm

    from .transforms import stream

    transform = make_transform(args, model)
    with progress((), args, len(paths), "picture") as bar:
        for batch in stream(
            paths, transform, batch_size=args.batch_size, num_workers=args.workers
        ):
            for index, reason in batch.errors.items():
                if args.strict:
                    raise StrictError(f"{batch.sources[index]}: {reason}")
                line = f"vitpool: {batch.sources[index]}: {reason}; skipped"
                tqdm.write(line, file=sys.stderr)
            yield batch
            bar.update(len(batch.sources))


def _softmax(logits: Any) -> Any:
    import numpy as np

    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


# ---------------------------------------------------------------------------- commands


def _classify(args: argparse.Namespace) -> int:
    import numpy as np

    from .labels import labels_for

    model = load_model(args)
    if model.num_classes < 1 or model.global_pool == "":
        raise UsageError(
            f"{args.model} has no classifier (num_classes {model.num_classes}, pool "
            f"{model.global_pool!r}); `vitpool embed` writes its features"
        )
    labels = labels_for(model.pretrained_cfg or {}, model.num_classes)
    topk = min(args.topk, model.num_classes)
    failed = 0
    for batch in _batches(args, model, list(_expand(args.images))):
        failed += len(batch.errors)
        logits = model(batch.inputs) if batch.good else np.empty((0, model.num_classes))
        values = _softmax(logits) if args.output_type == "prob" else logits
        order = np.argsort(-values, axis=-1, kind="stable")[:, :topk]
        rows = iter(zip(order.tolist(), values, strict=True))
        for index, source in enumerate(batch.sources):
            if index in batch.errors:
                record: dict[str, Any] = {"file": source, "error": batch.errors[index]}
                if args.json:
                    print(json.dumps(record, ensure_ascii=False))
                continue
            best, row = next(rows)
            found = [_class_record(args, labels, i, float(row[i])) for i in best]
            if args.json:
                record = {"file": source, "classes": found}
                print(json.dumps(record, ensure_ascii=False))
            else:
                print(source)
                for item in found:
                    value = item[args.output_type]
                    number = (
                        f"{value:7.2%}"
                        if args.output_type == "prob"
                        else (f"{value:8.3f}")
                    )
                    print(f"  {number}  {item.get('label', item['index'])}")
        sys.stdout.flush()
    return SOME_FAILED if failed else OK


def _class_record(
    args: argparse.Namespace, labels: Any, index: int, value: float
) -> dict[str, Any]:
    record: dict[str, Any] = {"index": index}
    if args.label_type == "description":
        record["label"] = labels[index]
    elif args.label_type == "name":
        record["label"] = labels.name(index)
    record[args.output_type] = value
    return record


def _embed(args: argparse.Namespace) -> int:
    if args.engine == "ray":
        from . import ray

        return SOME_FAILED if ray.embed_command(args) else OK
    if args.address or args.actors or args.num_cpus:
        raise UsageError("--address, --actors and --num-cpus need --engine ray")
    from . import embed

    return SOME_FAILED if embed.embed_command(args) else OK


def _attention(args: argparse.Namespace) -> int:
    from . import plot
    from .labels import labels_for

    suffix = Path(args.output).suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UsageError(f"-o {args.output}: the name must end in .png, .jpg or .webp")
    model = load_model(args)
    transform = make_transform(args, model)
    labels = labels_for(model.pretrained_cfg or {}, max(model.num_classes, 0))
    rows, failed = [], 0
    for batch in _batches(args, model, list(_expand(args.images))):
        failed += len(batch.errors)
        for index, source in enumerate(batch.sources):
            if index not in batch.errors:
                rows.append(
                    plot.attention_row(
                        model,
                        transform,
                        source,
                        layer=args.layer,
                        head=args.head,
                        labels=labels,
                    )
                )
    if rows:
        plot.stack_rows(rows).save(args.output)
        print(args.output)
    return SOME_FAILED if failed else OK


def _info(args: argparse.Namespace) -> int:
    from . import __version__, show_config

    about: dict[str, Any] = {"version": __version__, **show_config()}
    if not args.build:
        from .transforms import resolve_data_config

        # without weights: what a name stands for must be told without a download
        own = _is_weights(args.model) or os.path.isdir(args.model)
        model = load_model(args, pretrained=own or args.model == DEFAULT_MODEL)
        cfg = model.pretrained_cfg or {}
        shapes = model.param_shapes()
        count = sum(_product(shape) for shape in shapes.values())
        about = {
            "model": args.model,
            "architecture": cfg.get("architecture"),
            "parameters": count,
            "memory_bytes": model.memory_bytes()["weights"],
            "dtype": str(model.dtype),
            "num_classes": model.num_classes,
            "global_pool": model.global_pool,
            "embed_dim": model.embed_dim,
            "depth": len(model.blocks),
            "num_prefix_tokens": model.num_prefix_tokens,
            "grid_size": list(model.patch_embed.grid_size),
            "license": cfg.get("license"),
            "weights": cfg.get("hf_hub_id") or cfg.get("file") or cfg.get("url"),
            "input": resolve_data_config(model),
            "build": about,
        }
    if args.json:
        _print_json(about)
    else:
        for key, value in about.items():
            if isinstance(value, dict):
                print(f"{key}:")
                for inner, text in value.items():
                    print(f"  {inner}: {text}")
            else:
                print(f"{key}: {value}")
    return OK


def _product(shape: Iterable[int]) -> int:
    out = 1
    for value in shape:
        out *= value
    return out


def _list(args: argparse.Namespace) -> int:
    from .registry import list_models

    names = list_models(args.filter, pretrained=args.pretrained)
    if args.json:
        _print_json(names)
    else:
        print("\n".join(names))
    if not names:
        _say(f"no model matches {args.filter!r}")
        return SOME_FAILED
    return OK


def _convert(args: argparse.Namespace) -> int:
    from .hub import save_pretrained

    model = load_model(args)
    save_pretrained(model, args.output)
    print(args.output)
    return OK


def _benchmark(args: argparse.Namespace) -> int:
    import time

    import numpy as np

    from . import get_num_threads
    from .transforms import resolve_data_config

    own = _is_weights(args.model) or os.path.isdir(args.model)
    model = load_model(args, pretrained=own or args.model == DEFAULT_MODEL)
    shape = (args.batch_size, *resolve_data_config(model)["input_size"])
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    for _ in range(args.num_warm_iter):
        model(x)
    times = []
    for _ in range(args.num_bench_iter):
        start = time.perf_counter()
        model(x)
        times.append((time.perf_counter() - start) * 1e3)
    step = float(np.median(times))
    result: dict[str, Any] = {
        "model": args.model,
        "dtype": str(model.dtype),
        "threads": get_num_threads(),
        "batch_size": args.batch_size,
        "input_size": list(shape[1:]),
        "step_time_ms": step,
        "min_ms": min(times),
        "p90_ms": float(np.percentile(times, 90)),
        "samples_per_sec": args.batch_size * 1e3 / step,
    }
    profile = model.profile(x) if args.profile else None
    if profile is not None:
        result["profile"] = profile
    if args.json:
        _print_json(result)
        return OK
    for key, value in result.items():
        if key != "profile":
            text = f"{value:.3f}" if isinstance(value, float) else str(value)
            print(f"{key}: {text}")
    if profile is not None:
        _print_profile(profile)
    return OK


def _print_profile(profile: dict[str, Any]) -> None:
    """The ops of one forward, the longest first."""
    total = profile["total"]
    ops = {name: op for name, op in profile.items() if isinstance(op, dict)}
    other = total - sum(op["seconds"] for op in ops.values())
    print(f"{'op':<24} {'ms':>9} {'share':>7} {'calls':>6} {'GFLOP/s':>8}")
    for name, op in sorted(ops.items(), key=lambda item: -item[1]["seconds"]):
        if not op["calls"]:
            continue
        rate = f"{op['flops'] / op['seconds'] / 1e9:8.1f}" if op["flops"] else ""
        share = op["seconds"] / total
        milli = op["seconds"] * 1e3
        print(f"{name:<24} {milli:9.3f} {share:7.1%} {op['calls']:6} {rate}".rstrip())
    print(f"{'other':<24} {other * 1e3:9.3f} {other / total:7.1%}")
    print(f"{'total':<24} {total * 1e3:9.3f}")


# -------------------------------------------------------------------------------- main


def _one_line(error: BaseException) -> str:
    """An error as one line that names what it is about."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"out of memory ({text})" if text else "out of memory"
    return text or type(error).__name__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. argv: the arguments, default sys.argv."""
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as error:  # argparse has told; its own codes are 0 and 2
        return int(error.code or 0)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:  # `vitpool list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except StrictError as error:
        _say(str(error))
        return SOME_FAILED
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        if os.environ.get("VITPOOL_TRACEBACK"):
            raise
        _say(_one_line(error))
        return CANNOT
