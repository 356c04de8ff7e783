# SPDX-License-Identifier: Apache-2.0
"""What holds for each of timm's plain classes beside VisionTransformer, without torch:
constructors, copies, pickles, folders, dtypes, sizes, changes whole or not at all."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import pydoc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from concepts import CONCEPTS, options_of, small_of
from golden import recipe
from models import copies, refused, same

import vitpool
from vitpool.config import all_arguments_of, arguments_of, defaults_of, resolve
from vitpool.config.family import CLASS_OPTIONS, told_options
from vitpool.model import CLASSES, PlainViT

X = recipe.picture((2, 3, 32, 48))
OWN = ("device", "dtype", "seed", "weights")
OTHERS = [name for name in CLASSES if name not in ("VisionTransformer", "NaFlexVit")]
# timm's class has no such option: False is what pruning leaves.
ADDED = {"Beit": ["final_norm"], "VisionTransformerRelPos": ["final_norm"]}


def every() -> pytest.MarkDecorator:
    """One model of each thing that the classes have."""
    return pytest.mark.parametrize("name", list(CONCEPTS))


# -- constructors --


@pytest.mark.parametrize("name", OTHERS)
def test_the_signature_has_every_option_with_its_default_in_order(name: str) -> None:
    parameters = inspect.signature(CLASSES[name]).parameters
    defaults = defaults_of(name)
    assert list(parameters) == [*defaults, *OWN]
    assert {n: parameters[n].default for n in defaults} == dict(defaults)
    only = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    assert only == [*ADDED.get(name, []), *OWN]


@pytest.mark.parametrize("name", OTHERS)
def test_every_option_has_a_type_and_is_explained(name: str) -> None:
    init = CLASSES[name].__init__
    hints = get_type_hints(inspect.unwrap(init))
    assert set(hints) == {*defaults_of(name), *OWN, "return"}
    assert Any not in hints.values()
    told = re.findall(
        r"^((?:[a-z_]+, *\n?\s*)*[a-z_]+): ", inspect.getdoc(init) or "", re.M
    )
    assert [n for row in told for n in re.findall("[a-z_]+", row)] == [
        *defaults_of(name),
        *OWN,
    ]
    assert "img_size: " in pydoc.plain(pydoc.render_doc(CLASSES[name]))


@pytest.mark.parametrize("name", OTHERS)
def test_an_unknown_option_hears_of_this_classes_own(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} has no option 'nonsense'") as error:
        CLASSES[name](nonsense=1)
    assert all(option in str(error.value) for option in defaults_of(name))
    with pytest.raises(TypeError, match="did you mean 'embed_dim'"):
        CLASSES[name](embed_dimm=1)


@pytest.mark.parametrize(
    ("name", "option", "why"),
    [
        ("Beit", "dynamic_img_size", "set_input_size makes another"),
        ("Beit", "class_token", "always has one"),
        ("VisionTransformerRelPos", "dynamic_img_size", "biases are of one grid"),
        ("VisionTransformerRelPos", "embed_layer", "embeds patches in another way"),
    ],
)
def test_options_that_a_class_cannot_have_are_refused_with_a_reason(
    name: str, option: str, why: str
) -> None:
    with refused(TypeError, f"{name} has no option {option!r}", why):
        CLASSES[name](**{option: True})


def test_the_base_is_no_model() -> None:
    with refused(TypeError, "PlainViT", "VisionTransformer"):
        PlainViT(img_size=32)


def test_classes_are_related_as_timms() -> None:
    assert {name: kind.__name__ for name, kind in CLASSES.items()} == {
        name: name for name in CLASSES
    }
    assert {n for n, k in CLASSES.items() if issubclass(k, CLASSES["Eva"])} == {"Eva"}
    assert {
        n for n, k in CLASSES.items() if issubclass(k, vitpool.VisionTransformer)
    } == {
        "VisionTransformer",
        "VisionTransformerDistilled",
    }
    assert all(getattr(vitpool, name) is kind for name, kind in CLASSES.items())


@every()
def test_options_are_written_as_they_are_read(name: str) -> None:
    kind, options = options_of(name)
    core = resolve(options, kind)
    assert core["family"] == kind
    assert core.keys() >= CLASS_OPTIONS.keys()
    assert resolve(all_arguments_of(core), kind) == core
    assert resolve(arguments_of(core), kind) == core
    model = small_of(name)
    assert type(model) is CLASSES[kind]
    assert resolve(model.config, kind) == core
    assert set(model.config) <= set(defaults_of(kind))


def test_files_of_before_compare_with_those_of_now() -> None:
    options = resolve({})
    assert not told_options(options).keys() & CLASS_OPTIONS.keys()
    assert told_options(resolve({}, "Eva"))["family"] == "Eva"


# -- forward --


@every()
def test_answers_fit_each_other(name: str) -> None:
    model = small_of(name)
    tokens = model.forward_features(X)
    prefix, grid = model.num_prefix_tokens, model._grid(*X.shape[2:])
    assert tokens.shape == (2, prefix + grid[0] * grid[1], model.embed_dim)
    assert np.allclose(model(X), model.forward_head(tokens), rtol=1e-5, atol=1e-5)
    final, taken = model.forward_intermediates(X, return_prefix_tokens=True, norm=True)
    assert final.tobytes() == tokens.tobytes()
    for pair in taken:
        maps, before = pair if prefix else (pair, np.empty((2, 0, model.embed_dim)))
        assert maps.shape == (2, model.embed_dim, *grid)
        assert before.shape == (2, prefix, model.embed_dim)
    first, last = (whole(model, block) for block in (0, 1))
    again = model.forward_blocks(first, 1, 2, grid=grid)
    assert again.tobytes() == last.tobytes()


def whole(model: Any, block: int) -> np.ndarray:
    """All tokens (B, N, C) that a block gives."""
    tokens = model.forward_intermediates(
        X,
        [block],
        return_prefix_tokens=True,
        output_fmt="NLC",
        intermediates_only=True,
    )[0]
    if not model.num_prefix_tokens:
        return tokens
    return np.concatenate([tokens[1], tokens[0]], 1)


@every()
def test_a_picture_does_not_see_its_batch(name: str) -> None:
    model = small_of(name)
    assert model(X)[1].tobytes() == model(X[1:])[0].tobytes()


@every()
def test_every_class_takes_masks(name: str) -> None:
    model = small_of(name)
    count = model.forward_features(X).shape[1]
    all_seen = np.ones((count, count), bool)
    plain, causal = model(X), model(X, is_causal=True)
    assert np.allclose(model(X, attn_mask=all_seen), plain, atol=1e-5)
    triangle = np.tril(all_seen)
    assert np.allclose(model(X, attn_mask=triangle), causal, atol=1e-5)
    if name != "distilled" and model.global_pool != "token":  # which is the first
        assert np.abs(causal - plain).max() > 1e-3


@every()
@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 32, 48), (3, 32, 48), (2, 3)])
def test_an_image_of_another_shape_is_refused(name: str, shape: tuple) -> None:
    model = small_of(name)
    if model.dynamic_img_size and shape == (2, 3, 32, 32):
        assert model(np.zeros(shape, np.float32)).shape == (2, 5)
        return
    with refused(ValueError, model=model, x=X):
        model(np.zeros(shape, np.float32))


# -- copies and files --


@every()
@pytest.mark.parametrize("how", ["pickle", "copy", "deepcopy", "config"])
def test_a_copy_is_the_same_model(name: str, how: str) -> None:
    model = small_of(name)
    model.pretrained_cfg = {"tag": "x"}
    twin = {
        "pickle": lambda: pickle.loads(pickle.dumps(model)),
        "copy": lambda: copy.copy(model),
        "deepcopy": lambda: copy.deepcopy(model),
        "config": lambda: type(model)(**model.config, weights=model.state_dict()),
    }[how]()
    assert type(twin) is type(model)
    assert same(copies(twin), copies(model))
    assert twin._options() == model._options()
    assert twin(X).tobytes() == model(X).tobytes()
    assert twin.untrained() == model.untrained() == []


def test_a_pickle_of_a_users_subclass_is_one_again() -> None:
    model = Mine(**options_of("eva")[1])
    twin = pickle.loads(pickle.dumps(model))
    assert type(twin) is Mine
    assert isinstance(twin, vitpool.Eva)


class Mine(vitpool.Eva):
    """Of a user."""


@every()
def test_a_folder_holds_the_model(name: str, tmp_path: Path) -> None:
    model = small_of(name)
    # An eps of 1e-5 with neither LayerScale nor ref_feat_shape; a norm of patches.
    if name in ("eva-pool", "naflex-tokens"):
        with refused(ValueError, "config.json cannot say", model=model, x=X):
            model.save_pretrained(tmp_path)
        return
    model.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    kind = type(model).__name__
    assert set(said["model_args"]) <= set(defaults_of(kind))
    twin = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert type(twin) is type(model)
    assert twin._options() == model._options()
    assert same(copies(twin), copies(model))


# -- dtypes --


@every()
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_every_class_can_have_every_dtype(name: str, dtype: str) -> None:
    model = small_of(name)
    low = model.to(dtype)
    assert low.dtype == dtype
    assert type(low) is type(model)
    wanted, got = model(X), low(X)
    bound = 0.1 if dtype == "int8" else 0.03
    assert np.abs(got - wanted).max() < bound * np.abs(wanted).max()
    assert got.tobytes() != wanted.tobytes()
    twin = pickle.loads(pickle.dumps(low))
    assert twin(X).tobytes() == got.tobytes()
    assert twin._dtypes() == low._dtypes()
    small = {n for n, d in low._dtypes().items() if "rel_pos" in n and d != "float32"}
    assert not small


# -- changes --


@every()
def test_another_size_and_back(name: str) -> None:
    model = small_of(name)
    before = copies(model)
    model.set_input_size((64, 48))
    assert model.img_size == (64, 48)
    assert model(recipe.picture((1, 3, 64, 48))).shape[0] == 1
    for key, array in copies(model).items():
        if array.shape == before[key].shape and "bias_table" not in key:
            assert array.tobytes() == before[key].tobytes()
    fresh = type(model)(**model.config, weights=model.state_dict())
    x = recipe.picture((1, 3, 64, 48))
    assert fresh(x).tobytes() == model(x).tobytes()
    with refused(ValueError, "img_size", model=model, x=x):
        model.set_input_size((8, 48))


@every()
def test_a_new_head_changes_nothing_else(name: str) -> None:
    model = small_of(name)
    before = copies(model)
    pool = model.global_pool
    model.reset_classifier(3)
    heads = tuple(f"{head}." for head in model._heads)
    after = copies(model)
    rest = {k: v for k, v in before.items() if not k.startswith(heads)}
    assert same({k: after[k] for k in rest}, rest)
    assert list(after) == list(before)
    assert all(
        after[k].tobytes() != before[k].tobytes() for k in after if k.startswith(heads)
    )
    assert model.untrained() == [k for k in after if k.startswith(heads)]
    assert (model.num_classes, model.global_pool) == (3, pool)
    model.reset_classifier(0)
    assert list(model.state_dict()) == list(rest)


_BAD_RESETS: dict[str, Callable[[Any], None]] = {
    "unknown": lambda m: m.reset_classifier(3, "mean"),
    "prr": lambda m: m.reset_classifier(3, "prr"),
    "negative": lambda m: m.reset_classifier(-1),
}


@every()
@pytest.mark.parametrize("reset", _BAD_RESETS.values(), ids=_BAD_RESETS)
def test_a_reset_that_fails_changes_nothing(
    name: str, reset: Callable[[Any], None]
) -> None:
    model = small_of(name)
    with refused(ValueError, model=model, x=X):
        reset(model)


@every()
def test_a_head_of_given_numbers(name: str) -> None:
    model = small_of(name)
    if not model.global_pool:
        model.reset_classifier(5, "avg")
    weight = recipe.uniform((3, 32), "head").astype(np.float32)
    bias = recipe.uniform((3,), "bias").astype(np.float32)
    features = model.forward_head(model.forward_features(X), pre_logits=True)
    model.set_head(weight, bias, labels=["a", "b", "c"])
    assert np.allclose(model(X), features @ weight.T + bias, rtol=1e-4, atol=1e-4)
    assert model.pretrained_cfg["label_names"] == ["a", "b", "c"]
    assert model.untrained() == []
    with refused(ValueError, "weight", model=model, x=X):
        model.set_head(weight[:, 1:])


@every()
def test_pruning_leaves_the_first_blocks(name: str) -> None:
    model = small_of(name)
    before = model.forward_intermediates(X, intermediates_only=True)
    before_all = copies(model)
    assert model.prune_intermediate_layers([0], prune_norm=True) == [0]
    after = model.forward_intermediates(X, intermediates_only=True)
    assert len(after) == 1
    assert after[0].tobytes() == before[0].tobytes()
    kept = copies(model)
    for key in kept.keys() - {"rope.freqs"}:
        assert kept[key].tobytes() == before_all[key].tobytes()
    assert not any(
        k.startswith(("norm.", "fc_norm.", "head", "attn_pool")) for k in kept
    )
    assert model.global_pool == ("token" if name == "distilled" else "")
    twin = pickle.loads(pickle.dumps(model))
    assert twin(X).tobytes() == model(X).tobytes()
    assert twin._options() == model._options()


@every()
def test_features_of_some_blocks(name: str) -> None:
    model = vitpool.model.FeatureGetterNet(small_of(name), [0, 1])
    assert [m.shape for m in model(X)] == [(2, 32, 2, 3)] * 2
    assert model.feature_info.channels() == [32, 32]


@pytest.mark.parametrize("name", ["eva", "beit", "relpos", "distilled"])
def test_a_model_tells_its_own_class(name: str) -> None:
    model = small_of(name)
    kind = type(model).__name__
    assert repr(model).startswith(f"{kind}(")
    assert model.summary().facts["architecture"] == kind
    assert kind in str(model.summary())
    with refused(AttributeError, kind):
        model.forward = None


@pytest.mark.parametrize(
    ("name", "fact", "way"),
    [
        ("eva", "norm_pre.eps", None),
        ("eva", "fc_norm.eps", "Eva(norm_layer=(name, eps))"),
        ("eva", "patch_embed.strict_img_size", "Eva(dynamic_img_size=True)"),
        ("beit", "patch_embed.strict_img_size", "Beit takes images of one size"),
        ("relpos", "blocks.0.attn.num_heads", "VisionTransformerRelPos(num_heads=...)"),
    ],
)
def test_what_is_no_parameter_says_how_this_class_has_another(
    name: str, fact: str, way: str | None
) -> None:
    model = small_of(name)
    path, _, last = fact.rpartition(".")
    part = model.get_submodule(path)
    if way is None:  # an Identity has no eps
        assert not hasattr(part, last)
        return
    with refused(AttributeError, fact, way, model=model, x=X):
        setattr(part, last, 5)
