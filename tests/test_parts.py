# SPDX-License-Identifier: Apache-2.0
"""Parts of a model have timm's names and types, and compute what they do in a pass."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import X, refused, same, small

import vitpool
from vitpool import model as names
from vitpool.model import Block, Identity, LayerNorm, Linear, Module, Sequential

TOKENS = recipe.picture((2, 5, 32))


@pytest.fixture(scope="module")
def model() -> Any:
    return small(depth=4, global_pool="map", init_values=0.5, qk_norm=True)


def before_block(model: Any, block: int) -> np.ndarray:
    tokens: np.ndarray = model._run(X, 0, taps=[(block, 0, "in")])[1][0]
    return tokens


# -- they compute --


def test_the_parts_one_after_the_other_are_the_whole(model: Any) -> None:
    """timm's forward, line by line."""
    x = model._pos_embed(model.patch_embed(X))
    x = model.norm_pre(model.patch_drop(x))
    np.testing.assert_array_equal(x, before_block(model, 0))
    x = model.norm(model.blocks(x))
    np.testing.assert_array_equal(x, model.forward_features(X))
    x = model.attn_pool(x[:, 1:])
    np.testing.assert_array_equal(x, model.pool(model.forward_features(X)))
    x = model.head(model.head_drop(model.fc_norm(x)))
    np.testing.assert_array_equal(x, model(X))


def test_the_parts_of_a_block_are_the_block(model: Any) -> None:
    block, x = model.blocks[1], TOKENS
    want = block(x)
    x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))
    x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    np.testing.assert_allclose(want, x, rtol=1e-5, atol=1e-6)


def test_the_layers_of_an_mlp_are_the_mlp(model: Any) -> None:
    for mlp in (model.blocks[0].mlp, model.attn_pool.mlp):
        x = mlp.drop1(mlp.act(mlp.fc1(TOKENS)))
        x = mlp.drop2(mlp.fc2(mlp.norm(x)))
        np.testing.assert_allclose(mlp(TOKENS), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["GluMlp", "SwiGLUPacked", "SwiGLU"])
def test_the_layers_of_a_gated_mlp_are_the_mlp(kind: str) -> None:
    model = small(mlp_layer=kind, global_pool="map")
    mlp = model.blocks[0].mlp
    if kind == "SwiGLU":
        x = mlp.act(mlp.fc1_g(TOKENS)) * mlp.fc1_x(TOKENS)
    else:
        first, second = np.split(mlp.fc1(TOKENS), 2, -1)
        assert mlp.gate_last == (kind == "GluMlp")
        x = first * mlp.act(second) if mlp.gate_last else mlp.act(first) * second
    np.testing.assert_allclose(mlp(TOKENS), mlp.fc2(x), rtol=1e-5, atol=1e-6)
    plain = model.attn_pool.mlp  # whatever the blocks have
    want = plain.fc2(plain.act(plain.fc1(TOKENS)))
    np.testing.assert_allclose(plain(TOKENS), want, rtol=1e-5, atol=1e-6)


def test_a_wide_head_gives_the_bits_of_the_whole() -> None:
    model = small(embed_dim=512, num_classes=50)
    tokens = model.forward_features(X)
    np.testing.assert_array_equal(model.head(tokens[:, 0]), model(X))


def test_a_linear_layer_is_a_product(model: Any) -> None:
    for path in ("blocks.0.attn.qkv", "attn_pool.kv", "head"):
        part = model.get_submodule(path)
        want = TOKENS.astype("f8") @ part.weight.T.astype("f8") + part.bias
        np.testing.assert_allclose(part(TOKENS), want, rtol=1e-5, atol=1e-5)
        assert part(TOKENS).shape[-1] == part.out_features
        assert part(TOKENS[0, 0]).tobytes() == part(TOKENS)[0, 0].tobytes()


@pytest.mark.parametrize("pos_embed", ["learn", "none"])
@pytest.mark.parametrize("no_embed_class", [False, True])
@pytest.mark.parametrize("reg_tokens", [0, 2])
@pytest.mark.parametrize("dynamic", [False, True])
def test_positions_are_added_as_in_a_pass(
    pos_embed: str, no_embed_class: bool, reg_tokens: int, dynamic: bool
) -> None:
    model = small(
        pos_embed=pos_embed,
        no_embed_class=no_embed_class,
        reg_tokens=reg_tokens,
        dynamic_img_size=dynamic,
    )
    x = recipe.picture((2, 3, 48, 32)) if dynamic else X
    want = model.forward_intermediates(x, norm=False, return_prefix_tokens=True)
    tokens = model._pos_embed(model.patch_embed(x))
    assert tokens.shape[1] == (6 if dynamic else 4) + 1 + reg_tokens
    np.testing.assert_allclose(
        model.norm(model.blocks(tokens)), want[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(2, 5, 32), (2, 4, 31), (4, 32), (2, 2, 2, 32)])
def test_patches_of_another_grid_are_refused(model: Any, shape: Any) -> None:
    with refused(ValueError, "(B, 4, 32), not", str(shape), model=model):
        model._pos_embed(np.zeros(shape, "f4"))
    dynamic = small(dynamic_img_size=True)
    if len(shape) < 4:
        with refused(ValueError, "(B, rows, columns, 32), not", model=dynamic):
            dynamic._pos_embed(np.zeros(shape, "f4"))


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_a_norm_is_its_formula(norm: str) -> None:
    part = small(global_pool="avg", norm_layer=norm).fc_norm
    rows = TOKENS[:, 0].astype("f8")
    if norm == "layernorm":
        rows = rows - rows.mean(1, keepdims=True)
    want = rows / np.sqrt((rows**2).mean(1, keepdims=True) + 1e-6) * part.weight
    want = want + (part.bias if norm == "layernorm" else 0)
    np.testing.assert_allclose(part(TOKENS[:, 0]), want, rtol=1e-5, atol=1e-6)
    assert part(TOKENS[:0]).shape == (0, 5, 32)


def test_a_convolution_gives_maps(model: Any) -> None:
    maps = model.patch_embed.proj(X)
    assert maps.shape == (2, 32, 2, 2)
    rows = maps.reshape(2, 32, 4).transpose(0, 2, 1)
    np.testing.assert_array_equal(rows, model.patch_embed(X))
    assert model.patch_embed.proj(X[:, :, :16, :31]).shape == (2, 32, 1, 1)


def test_with_images_of_any_size_patches_keep_their_grid() -> None:
    model = small(dynamic_img_size=True, dynamic_img_pad=True)
    x = recipe.picture((2, 3, 40, 20))
    patches = model.patch_embed(x)
    assert patches.shape == (2, 3, 2, 32)
    padded = np.pad(x, ((0, 0), (0, 0), (0, 8), (0, 12)))
    want = model.patch_embed.proj(padded).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(patches, want)


def test_blocks_are_one_after_the_other_in_any_slice(model: Any) -> None:
    blocks = model.blocks
    for index in (slice(1, 3), slice(None), slice(-1, None), slice(None, None, 2)):
        chosen = blocks[index]
        assert type(chosen) is Sequential
        x = TOKENS
        for i in range(4)[index]:
            x = blocks[i](x)
        np.testing.assert_array_equal(chosen(TOKENS), x)
    np.testing.assert_array_equal(blocks[3:1](TOKENS), TOKENS)
    np.testing.assert_array_equal(blocks[1:][1:][:1](TOKENS), blocks[2](TOKENS))
    np.testing.assert_array_equal(blocks[:2](TOKENS), blocks[1](blocks[0](TOKENS)))


def test_a_slice_has_the_same_parts(model: Any) -> None:
    chosen = model.blocks[1:3]
    assert len(chosen) == 2
    assert chosen[0] is model.blocks[1]
    assert chosen[-1] is model.blocks[2]
    assert [part is model.blocks[i] for i, part in enumerate(chosen, 1)] == [True] * 2
    assert [name for name, _ in chosen.named_children()] == ["1", "2"]
    assert chosen.get_submodule("2.attn") is model.blocks[2].attn
    with refused(IndexError, "blocks has 2 items, not one of index 2"):
        chosen[2]
    with refused(TypeError, "an index or a slice, not str"):
        chosen["1"]


def test_a_branch_of_parallel_things_is_a_sequence() -> None:
    block = small(block_fn="ParallelThingsBlock").blocks[0]
    x = TOKENS + block.attns[0](TOKENS) + block.attns[1](TOKENS)
    x = x + block.ffns[0](x) + block.ffns[-1](x)
    np.testing.assert_allclose(block(TOKENS), x, rtol=1e-5, atol=1e-6)
    assert block.attns[0].attn is block.attns[0][1]
    with refused(NotImplementedError, "blocks.0.attns[0](x)"):
        block.attns(TOKENS)


def test_a_mask_changes_attention_and_block_alike(model: Any) -> None:
    block = model.blocks[0]
    causal = np.tril(np.ones((5, 5), bool))
    for part in (block, block.attn):
        free, masked = part(TOKENS), part(TOKENS, attn_mask=causal)
        np.testing.assert_array_equal(masked, part(TOKENS, is_causal=True))
        np.testing.assert_array_equal(masked[:, 4], free[:, 4])
        assert abs(masked - free).max() > 1e-3


WRONG: dict[str, tuple[type[Exception], str, Any]] = {
    "width": (ValueError, "(..., 32), not (2, 31)", lambda m: m.norm(np.ones((2, 31)))),
    "head": (ValueError, "(..., 32)", lambda m: m.head(TOKENS[..., :3])),
    "rows": (ValueError, "(B, N, 32)", lambda m: m.blocks[0].attn(TOKENS[0])),
    "a block": (ValueError, "(B, N, 32)", lambda m: m.blocks[0](TOKENS[0])),
    "pool": (ValueError, "(B, N, 32)", lambda m: m.attn_pool(TOKENS[0])),
    "images": (ValueError, "32 x 32", lambda m: m.patch_embed(X[:, :, :16])),
    "channels": (ValueError, "3 channels", lambda m: m.patch_embed.proj(X[:, :1])),
    "flat": (
        ValueError,
        "(B, 3, H, W), not (2, 5, 32)",
        lambda m: m.patch_embed.proj(TOKENS),
    ),
    "integers": (TypeError, "x must be", lambda m: m.head(np.ones((1, 32), int))),
    "nothing": (TypeError, "x must be", lambda m: m.pos_drop(None)),
    "mask": (
        ValueError,
        "attn_mask",
        lambda m: m.blocks[0](TOKENS, np.ones((3, 3), bool)),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_part_cannot_take_is_named(model: Any, name: str) -> None:
    error, words, call = WRONG[name]
    with refused(error, words):
        call(model)


# -- what they are --


def test_a_part_is_of_its_class_and_says_what_it_is(model: Any) -> None:
    block = model.blocks[0]
    assert isinstance(block, Block)
    assert isinstance(block.norm1, LayerNorm)
    assert block.norm1.eps == 1e-6
    assert block.norm1.normalized_shape == (32,)
    assert (block.attn.num_heads, block.attn.head_dim, block.attn.scale) == (
        2,
        16,
        0.25,
    )
    assert (model.head.in_features, model.head.out_features) == (32, 10)
    assert isinstance(model.norm_pre, Identity)
    assert model.patch_embed.strict_img_size is True
    assert model.patch_embed.feat_ratio() == 16
    assert model.patch_embed.feat_ratio(as_scalar=False) == (16, 16)
    assert model.patch_embed.dynamic_feat_size((32, 32)) == (2, 2)
    assert small(norm_layer=("rmsnorm", 0.1)).norm.eps == 0.1
    assert small(embed_norm_layer=("layernorm", 1e-3)).patch_embed.norm.eps == 1e-3
    assert small(qkv_bias=False).blocks[0].attn.qkv.bias is None


def test_names_are_offered_for_completion(model: Any) -> None:
    for path, wanted in {
        "blocks.0": {"norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2"},
        "blocks.0.attn": {"qkv", "q_norm", "proj", "num_heads", "head_dim", "scale"},
        "head": {"weight", "bias", "in_features", "out_features", "forward"},
        "norm": {"weight", "bias", "eps", "normalized_shape"},
        "attn_pool": {"latent", "kv", "mlp", "state_dict", "named_modules"},
    }.items():
        offered = dir(model.get_submodule(path))
        assert wanted <= set(offered)
        assert not [name for name in offered if name.startswith("_")]
    branch = small(block_fn="ParallelThingsBlock").blocks[0].attns[0]
    assert {"norm", "attn", "ls", "drop_path"} <= set(dir(branch))


@pytest.mark.parametrize(
    ("path", "name", "meant"),
    [
        ("blocks.0", "atn", "attn"),
        ("head", "wieght", "weight"),
        ("norm", "epsilon", "eps"),
    ],
)
def test_a_name_that_is_none_is_refused_with_what_was_meant(
    model: Any, path: str, name: str, meant: str
) -> None:
    part = model.get_submodule(path)
    for call in (lambda: getattr(part, name), lambda: setattr(part, name, 1)):
        with refused(AttributeError, path, repr(name), f"did you mean {meant!r}?"):
            call()
    assert not hasattr(part, name)
    with refused(AttributeError, "did you mean 'blocks.0.attn'?"):
        model.get_submodule("block.0.attn")


def test_every_class_documents_itself_and_its_attributes() -> None:
    for name in names.__all__:
        kind = getattr(names, name)
        if inspect.isclass(kind) and issubclass(kind, Module):
            assert vars(kind)["__doc__"], name
            for key, value in vars(kind).items():
                if not key.startswith("_"):
                    assert value.__doc__, (name, key)


def test_the_text_folds_what_repeats(model: Any) -> None:
    text = repr(model)
    assert text.startswith("VisionTransformer(\n  (patch_embed): PatchEmbed(\n")
    assert text.count("(blocks): Sequential(\n    (0-3): 4 x Block(") == 1
    assert "(head): Linear(in_features=32, out_features=10, bias=True)" in text
    assert repr(model.head) == "Linear(in_features=32, out_features=10, bias=True)"
    assert repr(model.norm_pre) == "Identity()"
    assert repr(model.blocks[1:3]).startswith("Sequential(\n  (1-2): 2 x Block(")
    assert repr(model.blocks[3:]).startswith("Sequential(\n  (3): Block(")
    assert repr(small(depth=0).blocks) == "Sequential()"


def test_the_tree_is_walked_from_the_model_and_from_a_part(model: Any) -> None:
    paths = [path for path, _ in model.named_modules()]
    assert paths[:3] == ["", "patch_embed", "patch_embed.proj"]
    assert next(model.modules()) is model
    assert dict(model.named_children())["head"] is model.head
    assert [type(part).__name__ for part in model.blocks.children()] == ["Block"] * 4
    part = model.blocks[0]
    assert [path for path, _ in part.named_modules(prefix="b")][:2] == ["b", "b.norm1"]
    linear = [path for path, m in model.named_modules() if isinstance(m, Linear)]
    assert linear == [
        name.removesuffix(".weight")
        for name, shape in model.param_shapes().items()
        if len(shape) == 2
    ]
    state = {f"blocks.0.{k}": v for k, v in part.state_dict().items()}
    whole = model.state_dict()
    assert same(state, {k: v for k, v in whole.items() if k.startswith("blocks.0.")})
    assert all(v.flags.writeable for v in state.values())
    assert not any(v.flags.writeable for v in part.parameters())
    assert [n for n, _ in part.named_parameters(recurse=False)] == []
    assert [n for n, _ in model.named_parameters("m", recurse=False)] == [
        "m.cls_token",
        "m.pos_embed",
    ]


# -- what the model has lost --


def test_a_lost_part_computes_with_its_last_weights() -> None:
    model = small(depth=3, global_pool="map")
    last = copy.copy(model)
    parts = {
        "block": (model.blocks[2], last.blocks[2], TOKENS),
        "slice": (model.blocks[1:], last.blocks[1:], TOKENS),
        "attention": (model.blocks[2].attn, last.blocks[2].attn, TOKENS),
        "norm": (model.norm, last.norm, TOKENS),
        "pool": (model.attn_pool, last.attn_pool, TOKENS),
        "head": (model.head, last.head, TOKENS[:, 0]),
    }
    held = model.blocks[2].mlp.act
    want = {name: part(x) for name, (part, _, x) in parts.items()}
    model.prune_intermediate_layers([0], prune_norm=True)
    state = model.state_dict()
    model.load_state_dict({k: v + 1 for k, v in state.items()})
    for name, (part, before, x) in parts.items():
        np.testing.assert_array_equal(part(x), want[name])
        assert repr(part) == repr(before)
    block = parts["block"][0]
    assert block.mlp.act is held
    assert block.attn is parts["attention"][0]
    assert isinstance(model.head, Identity)
    assert model.head is not parts["head"][0]
    with refused(AttributeError, "the model no longer has this part"):
        block.norm1.weight = np.zeros(32, "f4")
    np.testing.assert_array_equal(block(TOKENS), want["block"])


def test_a_part_that_stays_computes_with_the_new_weights() -> None:
    model = small(depth=2)
    block = model.blocks[0]
    before = block(TOKENS)
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})
    assert abs(block(TOKENS) - before).max() > 0.1
    np.testing.assert_array_equal(block(TOKENS), copy.copy(model).blocks[0](TOKENS))


def test_a_copy_has_parts_of_its_own() -> None:
    model = small()
    other = copy.copy(model)
    assert other.head is not model.head
    other.head.bias = np.ones(10, "f4")
    assert not np.array_equal(model.head.bias, other.head.bias)
    assert vitpool.model.Linear is Linear
