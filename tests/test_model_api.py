# SPDX-License-Identifier: Apache-2.0
"""The model as a Python object: parameters, copies, text, threads and imports."""

from __future__ import annotations

import copy
import gc
import pickle
import platform
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import BASE, X, copies, refused, same, small, unchanged

import vitpool

EVERY_POOL = ("", "avg", "avgmax", "max", "token", "map", "prr")

# parameters


def test_named_parameters_are_the_state_dict() -> None:
    model = small(global_pool="map", reg_tokens=1, init_values=0.1)
    named = dict(model.named_parameters())
    assert same({k: np.array(v) for k, v in named.items()}, copies(model))
    shapes = {k: tuple(v) for k, v in model.param_shapes().items()}
    assert shapes == {k: v.shape for k, v in named.items()}
    assert all(v.dtype == np.float32 for v in named.values())


def test_every_parameter_by_path_and_by_attribute() -> None:
    model = small(global_pool="map", reg_tokens=1, depth=2, init_values=0.1)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(model.get_parameter(key), value)
        found = model
        for part in key.split("."):
            found = found[int(part)] if part.isdigit() else getattr(found, part)
        np.testing.assert_array_equal(found, value)
        assert isinstance(found, np.ndarray)


def test_parameters_are_readonly() -> None:
    model = small(global_pool="map")
    arrays = [
        model.get_parameter("blocks.0.attn.qkv.weight"),
        model.head.weight,
        model.attn_pool.latent,
        model.blocks[0].attn.qkv.weight,
        model.cls_token,
    ]
    with unchanged(model):
        for array in arrays:
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0


@pytest.mark.parametrize(
    "path", ["", "nope", "head", "head.nope", "blocks.1.norm1.weight", "head.weight."]
)
def test_an_unknown_parameter(path: str) -> None:
    model = small()
    with pytest.raises((AttributeError, KeyError, ValueError)) as raised:
        model.get_parameter(path)
    assert repr(path) in str(raised.value)


def test_unknown_attributes_are_attribute_errors() -> None:
    model = small()
    for thing in (model, model.head, model.blocks[0].attn):
        assert not hasattr(thing, "nope")
        with pytest.raises(AttributeError, match="nope"):
            _ = thing.nope


def test_blocks_are_a_sequence() -> None:
    model = small(depth=3)
    assert len(model.blocks) == 3
    last = model.blocks[-1].norm1.weight
    np.testing.assert_array_equal(last, model.get_parameter("blocks.2.norm1.weight"))
    assert len(list(model.blocks)) == 3
    for index in (3, -4):
        with pytest.raises(IndexError):
            model.blocks[index]


def test_parameters_outlive_the_model() -> None:
    model = small()
    weight = model.blocks[0].attn.qkv.weight
    head = model.head
    expected = recipe.weight("blocks.0.attn.qkv.weight", (96, 32))
    del model
    gc.collect()
    np.testing.assert_array_equal(weight, expected)
    assert head.weight.shape == (10, 32)


@pytest.mark.parametrize("pool", EVERY_POOL)
def test_the_state_dict_goes_round_bit_for_bit(pool: str) -> None:
    model = small(global_pool=pool, reg_tokens=1, pre_norm=True)
    other = vitpool.VisionTransformer(
        **BASE, global_pool=pool, reg_tokens=1, pre_norm=True, seed=9
    )
    result = other.load_state_dict(model.state_dict())
    assert list(result.missing_keys) == []
    assert list(result.unexpected_keys) == []
    assert same(copies(other), copies(model))
    assert other(X).tobytes() == model(X).tobytes()


def test_a_state_dict_is_safetensors_ready(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    model = small(global_pool="map")
    path = str(tmp_path / "model.safetensors")
    save_file(copies(model), path)
    other = vitpool.VisionTransformer(**BASE, global_pool="map", seed=1)
    other.load_state_dict(load_file(path))
    assert same(copies(other), copies(model))


def test_a_lazy_mapping_is_read_one_key_at_a_time() -> None:
    model = small(global_pool="map")
    source = copies(model)

    class Lazy:
        asked: list[str] = []

        def keys(self) -> Any:
            return source.keys()

        def __getitem__(self, key: str) -> np.ndarray:
            self.asked.append(key)
            return source[key].copy()

    lazy = Lazy()
    other = vitpool.VisionTransformer(**BASE, global_pool="map", weights=lazy)
    assert sorted(lazy.asked) == sorted(source)
    assert same(copies(other), source)


# attributes


def test_sizes_and_names_are_timms() -> None:
    model = small(global_pool="map", reg_tokens=2, img_size=(32, 48))
    assert (model.embed_dim, model.num_features, model.head_hidden_size) == (32,) * 3
    assert (model.num_prefix_tokens, model.num_reg_tokens) == (3, 2)
    assert model.has_class_token is True
    assert (model.num_classes, model.global_pool) == (10, "map")
    assert tuple(model.patch_embed.img_size) == (32, 48)
    assert tuple(model.patch_embed.patch_size) == (16, 16)
    assert tuple(model.patch_embed.grid_size) == (2, 3)
    assert model.patch_embed.num_patches == 6
    assert model.dtype == "float32" or np.dtype(model.dtype) == np.float32
    assert model.get_classifier() is model.head
    assert model.no_weight_decay() == {
        "pos_embed",
        "cls_token",
        "reg_token",
        "dist_token",
    }
    info = [dict(entry) for entry in model.feature_info]
    assert info == [{"module": "blocks.0", "num_chs": 32, "reduction": 16}]
    matcher = model.group_matcher()
    assert matcher["stem"] == r"^cls_token|reg_token|pos_embed|patch_embed|norm_pre"
    blocks = [tuple(entry) for entry in matcher["blocks"]]
    assert blocks == [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]


def test_what_is_not_there_is_none() -> None:
    model = small(class_token=False, global_pool="avg", pos_embed="none")
    assert model.cls_token is None
    assert model.reg_token is None
    assert model.pos_embed is None
    assert model.attn_pool is None


def test_default_cfg_is_a_settable_dict() -> None:
    model = small()
    assert isinstance(model.default_cfg, dict)
    model.default_cfg = {"mean": (0.5, 0.5, 0.5)}
    assert model.default_cfg["mean"] == (0.5, 0.5, 0.5)
    assert model.pretrained_cfg == model.default_cfg


@pytest.mark.parametrize("pool", EVERY_POOL)
def test_config_rebuilds_the_model(pool: str) -> None:
    options = BASE | {
        "global_pool": pool,
        "reg_tokens": 1,
        "norm_layer": ("rmsnorm", 1e-5),
        "act_layer": "silu",
        "mlp_layer": "SwiGLU",
        "init_values": 0.1,
        "qk_norm": True,
        "img_size": (32, 48),
    }
    model = vitpool.VisionTransformer(**options, seed=0)
    other = vitpool.VisionTransformer(**model.config, weights=copies(model))
    assert other.config == model.config
    x = recipe.picture((2, 3, 32, 48))
    assert other(x).tobytes() == model(x).tobytes()
    changed = model.config
    changed["num_classes"] = 99
    assert model.num_classes == 10
    assert model.config["num_classes"] == 10


def test_memory_is_reported_and_the_workspace_can_go() -> None:
    model = small()
    parameters = sum(v.nbytes for v in model.state_dict().values())
    before = model(X)
    used = model.memory_bytes()
    assert used["weights"] >= parameters
    assert used["workspace"] > 0
    model.release_workspace()
    assert model.memory_bytes() == {"weights": used["weights"], "workspace": 0}
    np.testing.assert_array_equal(model(X), before)


# copies


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "copy"])
@pytest.mark.parametrize("pool", ["map", "prr", "avg", "token"])
def test_a_copy_is_the_same_model(pool: str, how: str) -> None:
    model = small(global_pool=pool)
    model.reset_classifier(5)
    model.default_cfg = {"mean": (0.5, 0.5, 0.5)}
    if how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        other = getattr(copy, how)(model)
    assert type(other) is type(model)
    assert same(copies(other), copies(model))
    assert other.config == model.config
    assert other.default_cfg == model.default_cfg
    assert other(X).tobytes() == model(X).tobytes()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol(protocol: int) -> None:
    model = small(global_pool="map")
    other = pickle.loads(pickle.dumps(model, protocol))
    assert same(copies(other), copies(model))


def test_a_deep_copy_is_independent() -> None:
    model = small(global_pool="map")
    other = copy.deepcopy(model)
    with unchanged(model):
        other.reset_classifier(3, "avg")
        other.load_state_dict({k: v * 0 for k, v in copies(other).items()})
    assert other.attn_pool is None


def test_a_pruned_model_can_be_copied() -> None:
    model = small(depth=3)
    assert list(model.prune_intermediate_layers([0, 1])) == [0, 1]
    assert len(model.blocks) == 2
    other = pickle.loads(pickle.dumps(model))
    assert same(copies(other), copies(model))
    assert other(X).tobytes() == model(X).tobytes()


def test_a_damaged_pickle_is_an_error() -> None:
    data = pickle.dumps(small())
    for end in (10, len(data) // 2, len(data) - 2):
        with pytest.raises((EOFError, pickle.UnpicklingError)):
            pickle.loads(data[:end])


# text


def test_the_text_for_a_notebook_tells_what_the_model_is() -> None:
    model = small(global_pool="map")
    text = model._repr_html_()
    count = sum(v.size for v in model.state_dict().values())
    assert "VisionTransformer" in text
    assert "map" in text
    assert "float32" in text
    assert "10" in text
    plain = text.replace(",", "").replace("_", "").replace("\u202f", "")
    assert str(count) in plain or f"{count / 1e3:.1f}" in plain
    model.reset_classifier(7, "avg")
    assert "avg" in model._repr_html_()
    assert "map" not in model._repr_html_()


def test_parts_have_text_too() -> None:
    model = small(global_pool="map")
    for part in (model.head, model.attn_pool, model.blocks, model.patch_embed):
        assert repr(part)


def test_docstrings_are_there() -> None:
    for name in (
        "forward",
        "forward_features",
        "forward_head",
        "forward_intermediates",
        "pool",
        "reset_classifier",
        "load_state_dict",
        "set_input_size",
        "state_dict",
    ):
        assert getattr(vitpool.VisionTransformer, name).__doc__, name


# the rest of the interface


def test_calls_and_forward_are_one() -> None:
    model = small(global_pool="map")
    np.testing.assert_array_equal(model(X), model.forward(X))
    tokens = model.forward_features(X)
    np.testing.assert_array_equal(model.forward_head(tokens), model(X))
    pre = model.forward_head(tokens, pre_logits=True)
    np.testing.assert_array_equal(model.pool(tokens), pre)
    weight, bias = np.array(model.head.weight), np.array(model.head.bias)
    np.testing.assert_allclose(pre @ weight.T + bias, model(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", EVERY_POOL)
def test_a_picture_does_not_see_its_batch(pool: str) -> None:
    model = small(global_pool=pool, depth=2, patch_size=8)
    x = recipe.picture((7, 3, 32, 32))
    whole = model(x)
    for i in range(7):
        np.testing.assert_array_equal(model(x[i : i + 1])[0], whole[i])


@pytest.mark.parametrize("pool", ["token", "avg", "map", "prr"])
def test_threads_do_not_change_a_bit(pool: str) -> None:
    model = small(global_pool=pool, depth=2, patch_size=8)
    x = recipe.picture((5, 3, 32, 32))
    before = vitpool.get_num_threads()
    outputs = []
    try:
        for threads in (1, 2, 3, 4):
            vitpool.set_num_threads(threads)
            assert vitpool.get_num_threads() == threads
            outputs.append(model(x).tobytes())
    finally:
        vitpool.set_num_threads(before)
    assert len(set(outputs)) == 1


@pytest.mark.parametrize("value", [0, -1, -(2**70)])
def test_a_number_of_threads_is_positive(value: int) -> None:
    before = vitpool.get_num_threads()
    with refused(ValueError, value):
        vitpool.set_num_threads(value)
    assert vitpool.get_num_threads() == before


@pytest.mark.parametrize("value", [None, "2", 2.0, True])
def test_a_number_of_threads_is_an_integer(value: object) -> None:
    before = vitpool.get_num_threads()
    with refused(TypeError, type(value).__name__):
        vitpool.set_num_threads(value)
    assert vitpool.get_num_threads() == before


def test_show_config_says_what_runs() -> None:
    config = vitpool.show_config()
    text = repr(config).lower()
    assert isinstance(config, dict)
    assert "blis" in text
    assert "threads" in text


def caches_by_the_kernel() -> list[dict[str, int]]:
    """The data caches of each core in bytes, as Linux tells them: `{"l1d": ...}`."""
    cores = []
    for core in Path("/sys/devices/system/cpu").glob("cpu[0-9]*"):
        sizes = {}
        for index in core.glob("cache/index*"):
            kind, level, size = (
                (index / name).read_text().strip() for name in ("type", "level", "size")
            )
            if kind != "Instruction":
                sizes["l1d" if level == "1" else f"l{level}"] = 1024 * int(size[:-1])
        cores.append(sizes)
    return cores


def test_show_config_tells_the_caches_of_a_core() -> None:
    caches = vitpool.show_config()["caches"]
    assert list(caches) == ["l1d", "l2", "l3"]
    sizes = [size for size in caches.values() if size > 0]
    assert sizes == sorted(sizes)
    cores = caches_by_the_kernel()
    if platform.machine() == "x86_64" and any(cores):
        assert sizes
        known = {name: size for name, size in caches.items() if size > 0}
        assert any(known.items() <= core.items() for core in cores)


def test_one_model_in_many_threads_at_once() -> None:
    model = small(global_pool="map", depth=2)
    pictures = [recipe.picture((i % 3 + 1, 3, 32, 32), seed=i) for i in range(8)]
    expected = [model(x).tobytes() for x in pictures]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if model(pictures[i]).tobytes() != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_reset_beside_running_forwards_is_one_or_the_other() -> None:
    """Each answer is the old head's or a new one's, and nothing crashes."""
    model = small(global_pool="map")
    stop, odd = threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            shape = model(X).shape
            if shape not in {(2, 10), (2, 5), (2, 7)}:
                odd.append(shape)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(200):
        model.reset_classifier((5, 7)[i % 2], "map")
    stop.set()
    for thread in threads:
        thread.join()
    assert odd == []


# attention weights


def test_attention_weights_come_with_the_output() -> None:
    model = small(global_pool="map", depth=3)
    out, attention = model(X, return_attn=[0, 2, "attn_pool"])
    np.testing.assert_allclose(out, model(X), rtol=1e-5, atol=1e-6)
    assert list(attention) == [0, 2, "attn_pool"]
    assert attention[0].shape == attention[2].shape == (2, 2, 5, 5)
    assert attention["attn_pool"].shape == (2, 2, 1, 4)
    for weights in attention.values():
        assert weights.dtype == np.float32
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_attention_weights_of_prr() -> None:
    model = small(global_pool="prr")
    _, attention = model(X, return_attn=["attn_pool"])
    assert attention["attn_pool"].shape == (2, 2, 5, 5)
    np.testing.assert_allclose(attention["attn_pool"].sum(axis=-1), 1, rtol=1e-5)


def test_attention_weights_follow_the_mask() -> None:
    model = small()
    mask = recipe.mask("bool", (5, 5))
    _, attention = model(X, attn_mask=mask, return_attn=[0])
    assert not attention[0][:, :, ~mask].any()
    _, attention = model(X, is_causal=True, return_attn=[0])
    assert not np.triu(attention[0], 1).any()


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([1], ValueError),
        ([-2], ValueError),
        (["attn_pool"], ValueError),
        (["nope"], ValueError),
        ([1.5], TypeError),
        ([True], TypeError),
    ],
)
def test_attention_weights_that_are_not_there(value: Any, error: Any) -> None:
    model = small()
    with refused(error, "return_attn", model=model):
        model(X, return_attn=value)


# import


def run_python(code: str) -> str:
    """The output of `code` in a fresh interpreter."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(vitpool.__file__).parents[1]), "PATH": "/usr/bin"},
    )
    return run.stdout


def test_importing_pulls_in_nothing_heavy() -> None:
    heavy = "torch timm PIL matplotlib safetensors.torch pyarrow ray sklearn tqdm scipy"
    there = f"print([m for m in {heavy.split()} if m in sys.modules])"
    model = "vitpool.create_model('vit_digits', pretrained=True)"
    assert run_python(f"import sys, vitpool; {there}; {model}; {there}") == "[]\n[]\n"


def test_importing_is_quick() -> None:
    """Less than 60 ms beyond numpy, on the best of seven runs."""
    code = (
        "import numpy, time; t = time.perf_counter(); import vitpool;"
        "vitpool.VisionTransformer; print(time.perf_counter() - t)"
    )
    best = min(float(run_python(code)) for _ in range(7))
    assert best < 0.060
