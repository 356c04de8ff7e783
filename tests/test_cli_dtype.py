# SPDX-License-Identifier: Apache-2.0
"""--dtype: what each command does with it, and folders of embeddings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import DIGITS, SAMPLES, needs_pyarrow, run
from test_cli_help import bash, offered
from test_cli_models import NAMES, commands

import vitpool

if sys.version_info >= (3, 11):
    from vitpool import embed

__all__ = ["bash"]  # a fixture

DTYPES = ("float32", "bfloat16", "float16", "int8")
LOW = DTYPES[1:]
MODEL = ("-m", "vit_digits")


def digits(dtype: str) -> Any:
    return vitpool.create_model("vit_digits", pretrained=True, dtype=dtype)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """The digits' model as a folder of each dtype."""
    base: Path = tmp_path_factory.mktemp("folders")
    for dtype in DTYPES:
        digits(dtype).save_pretrained(base / dtype)
    return {dtype: base / dtype for dtype in DTYPES}


# ---------------------------------------------------------------------- every command


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_command_takes_every_dtype(capsys, tmp_path, name, dtype) -> None:
    argv = [*commands(tmp_path)[name], *MODEL, "--dtype", dtype]
    assert run(capsys, name, *argv)[0] == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", ["float33", "int4", "int8_a16", "f32", ""])
def test_another_is_one_line_and_nothing_is_done(
    capsys, monkeypatch, tmp_path, name, wrong
) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("vitpool.registry.create._weights_file", fetch)
    argv = [*commands(tmp_path)[name], *MODEL, "--dtype", wrong]
    for model in ([], ["-m", "vit_base_patch16_siglip_224", "--pretrained"]):
        code, out, err = run(capsys, name, *argv, *model)
        assert (code, out) == (2, "")
        allowed = "'float32', 'bfloat16', 'float16', 'int8'"
        assert err == f"vitpool: --dtype must be one of {allowed}, not {wrong!r}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_classify_prints_what_such_a_model_gives(capsys, dtype) -> None:
    argv = ["--dtype", dtype, "--topk", 10, "--output-type", "logit", "--json"]
    code, out, _ = run(capsys, "classify", *SAMPLES, *MODEL, *argv)
    assert code == 0
    model = digits(dtype)
    transform = vitpool.create_transform(**vitpool.resolve_data_config(model))
    want = model(np.stack([transform(path) for path in SAMPLES]))
    for line, row in zip(out.splitlines(), want, strict=True):
        for found in json.loads(line)["classes"]:
            assert found["logit"] == float(row[found["index"]])
    assert (want.argmax(1) == np.arange(10)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["info", "benchmark"])
def test_info_and_benchmark_say_it(capsys, folders, name, dtype) -> None:
    more = ["--num-bench-iter", 1] if name == "benchmark" else []
    folder = folders[dtype]
    for argv in (
        [*MODEL, "--dtype", dtype],
        ["-m", folder],
        ["-m", f"local-dir:{folder}"],
    ):
        code, out, _ = run(capsys, name, *argv, "--json", *more)
        assert (code, json.loads(out)["dtype"]) == (0, dtype)
        if name == "info":
            bytes_ = digits(dtype).memory_bytes()["weights"]
            assert json.loads(out)["memory_bytes"] == bytes_


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
def test_convert_writes_the_dtype_that_is_asked_for_or_the_folders(
    capsys, tmp_path, folders, source, dtype
) -> None:
    for more, want in ([["--dtype", dtype], dtype], [[], source]):
        out = tmp_path / f"out{len(more)}"
        argv = ["-m", folders[source], "-o", out, *more]
        assert run(capsys, "convert", *argv)[0] == 0
        made = vitpool.create_model(f"local-dir:{out}", pretrained=True)
        told = json.loads((out / "config.json").read_text())
        assert made.dtype == want
        assert ("vitpool" in told) == (want != "float32")
        if want in (source, "float32"):
            model = digits(source)
            for name in model.param_shapes():
                np.testing.assert_array_equal(
                    made.get_parameter(name), model.get_parameter(name)
                )


def test_it_may_be_said_in_one_way(capsys) -> None:
    argv = ["--dtype", "int8", "--model-kwargs", "dtype=bfloat16"]
    code, _, err = run(capsys, "info", *MODEL, *argv)
    assert code == 2
    assert "dtype is given twice, by --dtype and --model-kwargs" in err
    code, out, _ = run(capsys, "info", *MODEL, "--json", *argv[2:])
    assert (code, json.loads(out)["dtype"]) == (0, "bfloat16")


def test_a_shell_completes_it(bash) -> None:
    for name in ("classify", "embed", "search", "convert", "benchmark", "info"):
        for option in ("--dtype", "--model-dtype"):
            assert offered(bash, f"vitpool {name} {option} ") == list(DTYPES)
    assert offered(bash, "vitpool embed photos --dtype b") == ["bfloat16"]


# ------------------------------------------------------------------------- embeddings


@needs_pyarrow
@pytest.mark.parametrize("dtype", DTYPES)
def test_embed_writes_the_vectors_of_such_a_model(capsys, tmp_path, dtype) -> None:
    argv = [*SAMPLES, *MODEL, "-o", tmp_path / "out", "--pool", "map", "-q"]
    assert run(capsys, "embed", *argv, "--dtype", dtype)[0] == 0
    want = digits(dtype).embed([str(path) for path in SAMPLES], "map").vectors
    np.testing.assert_array_equal(embed.load(tmp_path / "out").vectors, want)


@needs_pyarrow
@pytest.mark.parametrize("first", DTYPES)
def test_a_folder_goes_on_in_its_own_dtype_alone(capsys, tmp_path, first) -> None:
    """Two dtypes' vectors are never mixed; the folder stays as it was."""
    out = tmp_path / "out"
    more = [*MODEL, "-o", out, "-q"]
    assert run(capsys, "embed", *SAMPLES[:3], *more, "--dtype", first)[0] == 0
    (part,) = out.glob("part-*.parquet")
    before = part.read_bytes()
    for other in DTYPES:
        if other == first:
            continue
        code, _, err = run(capsys, "embed", *SAMPLES, *more, "--dtype", other)
        assert code == 2
        assert "made with other" in err
        assert "dtype" in err
        assert err.count("\n") == 1
        assert part.read_bytes() == before
    code, _, err = run(capsys, "embed", *SAMPLES, *more, "--dtype", first)
    assert (code, err) == (
        0,
        "vitpool: 10 pictures, 3 of them from before, 0 not readable\n",
    )


@needs_pyarrow
def test_a_float32_model_of_an_int8_models_numbers_is_another(tmp_path) -> None:
    """The same weights to the last bit, and yet other vectors."""
    low = digits("int8")
    wide = low.to("float32")
    paths = [str(path) for path in SAMPLES]
    assert (low.embed(paths).vectors != wide.embed(paths).vectors).any()
    for one, other in ((low, wide), (wide, low)):
        out = tmp_path / f"{one.dtype}"
        embed.embed_images(one, paths[:2], out)
        with pytest.raises(ValueError, match="made with other weights, dtype"):
            embed.embed_images(other, paths, out)
        embed.embed_images(one, paths, out)


@needs_pyarrow
def test_which_matrices_are_of_16_bit_activations_is_in_the_identity(tmp_path) -> None:
    """Of models that have one dtype and the same numbers."""
    one = digits("int8")
    other = digits("int8")
    names = [n for n, d in one._dtypes().items() if d == "int8"]
    other._replace(None, {}, (), {names[0]: "int8_a16"})
    assert one.dtype == other.dtype
    embed.embed_images(one, [str(SAMPLES[0])], tmp_path / "out")
    with pytest.raises(ValueError, match="made with other weights"):
        embed.embed_images(other, [str(SAMPLES[0])], tmp_path / "out")


@needs_pyarrow
def test_folders_of_float32_say_no_dtype_as_before_there_were_others(tmp_path) -> None:
    """So those that earlier versions began go on."""
    embed.embed_images(digits("float32"), [str(SAMPLES[0])], tmp_path / "out")
    assert "dtype" not in embed.load(tmp_path / "out").meta["run"]
    embed.embed_images(digits("int8"), [str(SAMPLES[0])], tmp_path / "low")
    assert embed.load(tmp_path / "low").meta["run"]["dtype"] == "int8"


@needs_pyarrow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("named", ["by name", "by folder"])
def test_a_search_makes_the_model_of_the_vectors_again(
    capsys, tmp_path, folders, dtype, named
) -> None:
    out = tmp_path / "out"
    model = MODEL if named == "by name" else ("-m", folders[dtype])
    more = ["--dtype", dtype] if named == "by name" else []
    assert run(capsys, "embed", *SAMPLES, *model, *more, "-o", out)[0] == 0
    for argv in ([], [*model, *more]):
        code, text, _ = run(capsys, "search", out, SAMPLES[3], "-k", 1, *argv)
        assert code == 0
        score, path = text.split()
        assert path == str(SAMPLES[3])
        assert float(score) == pytest.approx(1.0, abs=1e-4)
    others = [other for other in DTYPES if other != dtype]
    for other in others[:1]:
        argv = [*MODEL, "--dtype", other]
        code, _, err = run(capsys, "search", out, SAMPLES[3], *argv)
        assert code == 2
        assert "made with other" in err
    if dtype != "float32":
        code, _, err = run(capsys, "search", out, SAMPLES[3], "--dtype", dtype)
        assert (code, "need -m" in err) == (2, True)


@needs_pyarrow
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_actor_of_the_ray_job_makes_the_same_model(dtype) -> None:
    """By what the command hands it; Ray itself is not needed for that."""
    from vitpool.cli import build_parser, model_arguments
    from vitpool.embed.ray import Embedder

    argv = ["embed", str(SAMPLES[0]), "-o", "out", *MODEL, "--dtype", dtype]
    options = model_arguments(build_parser().parse_args(argv))
    model = digits(dtype)
    transform = vitpool.create_transform(**vitpool.resolve_data_config(model))
    told = embed.Embedder(model).identity(transform)
    threads = vitpool.get_num_threads()
    try:
        assert Embedder(options, threads=1, identity=told).identity() == told
        for other in DTYPES:
            if other != dtype:
                with pytest.raises(ValueError, match="other weights"):
                    Embedder(options | {"dtype": other}, threads=1, identity=told)
    finally:
        vitpool.set_num_threads(threads)


# --------------------------------------------------------------------------- training


@pytest.mark.parametrize("dtype", LOW)
def test_a_folder_of_another_dtype_is_trained_in_float32(
    capsys, tmp_path, folders, dtype
) -> None:
    for number in (0, 1):
        (tmp_path / "data" / str(number)).mkdir(parents=True)
        for copy in range(2):
            target = tmp_path / "data" / str(number) / f"{copy}.png"
            target.write_bytes(SAMPLES[number].read_bytes())
    argv = ["-m", folders[dtype], "-o", tmp_path / "out", "--epochs", 1, "--holdout", 0]
    code, _, err = run(capsys, "finetune", tmp_path / "data", *argv)
    assert code == 0, err
    made = vitpool.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert made.dtype == "float32"
    low = digits(dtype)
    name = "blocks.0.attn.qkv.weight"
    np.testing.assert_array_equal(made.get_parameter(name), low.get_parameter(name))


def test_the_package_holds_a_float32_model() -> None:
    """Else the tests above would compare a dtype with itself."""
    assert "vitpool" not in json.loads((DIGITS / "config.json").read_text())
