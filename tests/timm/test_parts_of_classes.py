# SPDX-License-Identifier: Apache-2.0
"""The trees and parts of timm's other classes: names, texts, and what they compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import reference
import torch
from concept_models import models
from concepts import CONCEPTS
from golden import recipe
from test_parts_live import FACTS, inputs_of
from test_tree import by_default, check, timms_text
from timm.layers import set_fused_attn
from timm.models import beit
from timm.optim import param_groups_layer_decay
from torch.utils.flop_counter import FlopCounterMode

from vitpool.testing.comparison.facts import facts_of, facts_of_module
from vitpool.train.optimizers import groups_of

X = recipe.picture((2, 3, 32, 48))


@pytest.fixture
def _unfused() -> Iterator[None]:
    """Attention as products, and with weights that can be looked at."""
    set_fused_attn(False)
    yield
    set_fused_attn(True)


def near(got: Any, want: Any, what: str = "") -> None:
    assert np.isfinite(got).all(), what
    np.testing.assert_allclose(
        got, want.detach().numpy(), rtol=1e-4, atol=2e-5, err_msg=what
    )


def not_decayed(model: Any) -> set[str]:
    """timm's no_weight_decay, whose NaFlexVit says 'freqs': no parameter's name."""
    return {"rope.freqs" if n == "freqs" else n for n in model.no_weight_decay()}


@pytest.mark.parametrize("name", CONCEPTS)
def test_the_tree_is_timms(name: str) -> None:
    ours, model = models(name)
    check(ours._options(), model)
    for path, module in model.named_modules():
        part = ours.get_submodule(path)
        assert repr(part) == by_default(timms_text(module)), path
        assert type(part).__name__ == type(module).__name__
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in model.named_modules()]
    assert [n for n, _ in ours.named_parameters()] == [
        n for n, _ in model.named_parameters()
    ]


@pytest.mark.parametrize("name", CONCEPTS)
def test_every_part_computes_as_timms(name: str) -> None:
    """On what it is given within a pass."""
    ours, model = models(name)
    given = inputs_of(model, torch.from_numpy(X))
    assert "blocks.0.attn" in given
    for path, value in given.items():
        part, module = ours.get_submodule(path), model.get_submodule(path)
        with torch.no_grad():
            more = beside(model, path)
            want = module(value, **more)
        # ours add what is the model's own, which of any size has no grid of its own
        got = part(value.numpy(), **(more if name.startswith("naflex") else {}))
        if path == "embeds":
            assert got[1] == tuple(want[1])
            got, want = got[0], want[0]
        near(got, want, path)


def beside(model: Any, path: str) -> dict[str, Any]:
    """What timm's model gives a module beside the tokens."""
    words = path.split(".")
    more: dict[str, Any] = {}
    if words[0] == "blocks" and (len(words) == 2 or words[2:] == ["attn"]):
        index = int(words[1])
        if getattr(model, "rope", None) is not None:
            rope = model.rope.get_embed((2, 3))
            more["rope"] = rope[index] if rope.ndim > 2 else rope
        if getattr(model, "rel_pos_bias", None) is not None:
            more["shared_rel_pos_bias"] = model.rel_pos_bias()
        if getattr(model, "shared_rel_pos", None) is not None:
            more["shared_rel_pos"] = model.shared_rel_pos.get_bias()
    return more


# What a part of these classes tells; of those that ViT has, too, test_parts_live knows.
_ROTARY = ["dim", "temperature", "feat_shape", "grid_indexing"]
OWN_FACTS = {
    **FACTS,
    "EvaAttention": ["num_heads", "head_dim", "scale", "num_prefix_tokens"],
    "AttentionRope": [
        *("num_heads", "head_dim", "scale", "num_prefix_tokens", "attn_dim"),
        *("num_kv_heads", "num_kv_groups", "kv_dim", "rotate_half"),
    ],
    "RotaryEmbeddingCat": [
        *(*_ROTARY, "rotate_half", "grid_offset", "ref_feat_shape"),
    ],
    "RotaryEmbeddingDinoV3": [*_ROTARY, "rotate_half", "grid_offset"],
    "RotaryEmbeddingMixed": [*_ROTARY, "depth", "num_heads"],
    "RelPosAttention": ["num_heads", "head_dim", "scale"],
    "RelPosMlp": [
        *("window_size", "window_area", "prefix_tokens", "num_heads", "mode"),
    ],
    "RelPosBias": ["window_size", "window_area", "prefix_tokens"],
    "RelativePositionBias": ["window_size", "window_area"],
}
# Of Beit's Attention timm has neither head_dim nor attn_dim.
BEITS = {"Attention": ["num_heads", "scale", "window_size"]}


@pytest.mark.parametrize("name", CONCEPTS)
def test_attributes_are_timms(name: str) -> None:
    """Facts, parameters and parts of each module; timm's None is None or no name."""
    ours, model = models(name)
    facts = OWN_FACTS | (BEITS if isinstance(model, beit.Beit) else {})
    for path, module in model.named_modules():
        part = ours.get_submodule(path)
        for fact in facts.get(type(module).__name__, ()):
            want, got = getattr(module, fact), getattr(part, fact)
            want = tuple(want) if isinstance(want, list) else want
            expected = pytest.approx(want) if isinstance(want, float) else want
            assert got == expected, (path, fact)
        for key, parameter in module._parameters.items():
            got = getattr(part, key)
            assert (got is None) == (parameter is None), (path, key)
            if got is not None:
                np.testing.assert_array_equal(got, parameter.detach().numpy())
        for key, child in module.named_children():
            if not key.isdigit():
                assert type(getattr(part, key)).__name__ == type(child).__name__
                assert key in dir(part)
        for key, value in vars(module).items():
            if value is None and key in ("qkv", "q_proj", "k_proj", "v_proj", "rope"):
                assert getattr(part, key) is None, (path, key)


ROOT = [
    *("num_classes", "num_features", "embed_dim", "head_hidden_size", "global_pool"),
    *("num_prefix_tokens", "in_chans"),
]


@pytest.mark.parametrize("name", CONCEPTS)
def test_the_model_tells_what_timms_does(name: str) -> None:
    ours, model = models(name)
    for fact in ROOT:
        assert getattr(ours, fact) == getattr(model, fact), fact
    assert ours.feature_info == model.feature_info
    assert ours.no_weight_decay() == not_decayed(model)
    assert ours.group_matcher() == model.group_matcher()
    both = ours.get_classifier(), model.get_classifier()
    heads, theirs = (e if isinstance(e, tuple) else (e,) for e in both)
    assert [h.out_features for h in heads] == [h.out_features for h in theirs]
    for key in ("rope", "rel_pos_bias", "shared_rel_pos", "attn_pool", "rope_mixed"):
        if hasattr(model, key):
            got, want = getattr(ours, key), getattr(model, key)
            assert (got is None) == (want is None), key
            assert isinstance(got, bool) or type(got).__name__ == type(want).__name__


@pytest.mark.parametrize("name", CONCEPTS)
def test_facts_are_timms(name: str) -> None:
    """As models are compared by them; ours may tell more."""
    ours, model = models(name)
    theirs, told = facts_of_module(model), facts_of(ours)
    assert {key: told.get(key) for key in theirs} == theirs
    assert told["class_token"] == ours.has_class_token
    if getattr(ours, "rope", None) is not None:
        assert theirs["rope.temperature"] == ours.rope.temperature


@pytest.mark.parametrize("name", CONCEPTS)
@pytest.mark.parametrize("decay", [1.0, 0.65])
def test_groups_for_training_are_timms(name: str, decay: float) -> None:
    ours, model = models(name)
    groups = groups_of(ours, [n for n, _ in ours.named_parameters()], decay)
    names = {id(p): n for n, p in model.named_parameters()}
    found = {}
    for group in param_groups_layer_decay(
        model,
        weight_decay=0.05,
        no_weight_decay_list=not_decayed(model),
        layer_decay=decay,
    ):
        for p in group["params"]:
            found[names[id(p)]] = group["lr_scale"], group["weight_decay"] > 0
    assert found == {n: tuple(group) for n, group in groups.items()}


@pytest.mark.parametrize("name", CONCEPTS)
@pytest.mark.usefixtures("_unfused")
def test_summaries_are_timms(name: str) -> None:
    """Shapes by hooks, FLOPs by torch's counter, attention as two products."""
    ours, model = models(name)
    shapes: dict[str, Any] = {}

    def note(path: str, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output  # of embeds
        shapes[path] = tuple(output.shape)

    for path, module in model.named_modules():
        module.register_forward_hook(lambda _m, _i, out, path=path: note(path, out))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.requires_grad_(False)(torch.from_numpy(X))
    summary = ours.summary(X.shape, depth=None)
    assert summary.output == shapes[""]
    assert summary.flops == counter.get_total_flops()
    counts, modules = counter.get_flop_counts(), dict(model.named_modules())
    for row in summary.rows:
        if row.kind == "Parameter":
            assert row.output == tuple(model.get_parameter(row.path).shape)
            continue
        module = modules[row.path]
        assert row.params == sum(p.numel() for p in module.parameters()), row
        if row.path in shapes:  # else no hook is called, as of a list
            assert row.output == shapes[row.path], row
            counted = counts.get(f"{type(model).__name__}.{row.path}", {})
            assert row.flops == sum(counted.values()), row
    told = {row.path for row in summary.rows}
    for path, module in modules.items():
        assert not path or path in told or not any(True for _ in module.parameters())


@pytest.mark.parametrize("name", CONCEPTS)
@pytest.mark.usefixtures("_unfused")
def test_attention_weights_are_timms(name: str) -> None:
    """What goes into each attention's dropout, prefix tokens first."""
    ours, model = models(name)
    seen: dict[int, Any] = {}

    def note(i: int, weights: Any) -> None:
        seen[i] = weights.clone()

    for i, block in enumerate(model.blocks):
        drop = block.attn.attn_drop
        drop.register_forward_pre_hook(lambda _, args, i=i: note(i, args[0]))
    with torch.no_grad():
        model(torch.from_numpy(X))
    wanted = [*seen, *(["attn_pool"] if ours._pool_serial else [])]
    _, maps = ours(X, return_attn=wanted)
    tokens = ours.forward_features(X).shape[1]
    assert len(seen) == len(model.blocks)
    for i, want in seen.items():
        assert maps[i].shape == (2, 4, tokens, tokens)
        near(maps[i], want, str(i))
    if "attn_pool" in maps:  # which sees the prefix, too
        heads = ours.attn_pool.num_heads
        assert maps["attn_pool"].shape == (2, heads, 1, tokens)
        np.testing.assert_allclose(maps["attn_pool"].sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", [n for n in CONCEPTS if n.startswith("eva")])
def test_a_forward_of_eva_that_is_written_out_agrees(name: str) -> None:
    ours, model = models(name)

    def written_out(either: Any, x: Any) -> Any:
        x, rope = either._pos_embed(either.patch_embed(x))
        x = either.norm_pre(x)
        for i, block in enumerate(either.blocks):
            mixed = either.rope_mixed and rope is not None
            x = block(x, rope=rope[i] if mixed else rope)
        return either.forward_head(either.norm(x))

    want = written_out(model, torch.from_numpy(X))
    near(written_out(ours, X), want)
    got = written_out(ours, torch.from_numpy(X))
    assert type(got) is torch.Tensor
    near(got.numpy(), want)


def test_another_grid_has_its_own_rope() -> None:
    ours, model = models("eva-dinov3")
    x = recipe.picture((2, 3, 64, 32))

    def written_out(either: Any, x: Any) -> Any:
        x, rope = either._pos_embed(either.patch_embed(x))
        for block in either.blocks:
            x = block(x, rope=rope)
        return either.norm(x)

    got = written_out(ours, x)
    near(got, written_out(model, torch.from_numpy(x)))
    np.testing.assert_allclose(got, ours.forward_features(x), atol=2e-5)


@pytest.mark.parametrize("name", ["eva-swiglu", "eva-mixed", "eva-dinov3"])
def test_rope_modules_give_and_compute_what_timms_do(name: str) -> None:
    ours, model = models(name)
    with torch.no_grad():
        near(ours.rope.get_embed(), model.rope.get_embed((2, 3)))
        width = model.rope.dim
        x = recipe.picture((2, width, 2, 3))
        near(ours.rope(x), model.rope(torch.from_numpy(x)))
        if name != "eva-swiglu":  # timm's has the model's own grid alone
            near(ours.rope.get_embed((5, 2)), model.rope.get_embed((5, 2)))
        if name == "eva-mixed":
            near(ours.rope(x, 1), model.rope(torch.from_numpy(x), 1))
        rope = model.rope.get_embed((2, 3))
        rope = rope[1] if name == "eva-mixed" else rope
        tokens = recipe.picture((2, 6 + ours.num_prefix_tokens, 32))
        for path in ("blocks.1", "blocks.1.attn"):
            module, part = model.get_submodule(path), ours.get_submodule(path)
            given = torch.from_numpy(tokens)
            near(part(tokens, rope=None), module(given))
            near(part(tokens, rope=2 * rope), module(given, rope=2 * rope))
            np.testing.assert_array_equal(part(tokens), part(tokens, "own"))


@pytest.mark.parametrize("name", ["eva-swiglu", "eva-grouped", "eva-mixed"])
@pytest.mark.parametrize("kind", ["bool", "additive", "causal"])
def test_blocks_of_eva_take_a_mask_as_timms(name: str, kind: str) -> None:
    ours, model = models(name)
    rope = model.rope.get_embed((2, 3))
    tokens = recipe.picture((2, 6 + ours.num_prefix_tokens, 32))
    n = tokens.shape[1]
    how: dict[str, Any] = {"is_causal": True}
    if kind != "causal":
        how = {"attn_mask": recipe.mask(kind, (2, 1, n, n))}
    theirs = {k: reference.tensor(v) for k, v in how.items()}
    for path in ("blocks.1", "blocks.1.attn"):
        with torch.no_grad():
            want = model.get_submodule(path)(
                torch.from_numpy(tokens),
                rope=rope[1] if rope.ndim > 2 else rope,
                **theirs,
            )
        near(ours.get_submodule(path)(tokens, **how), want)


BIASED = {
    "beit-shared": ("rel_pos_bias", "shared_rel_pos_bias"),
    "beit-both": ("rel_pos_bias", "shared_rel_pos_bias"),
    "relpos-shared": ("shared_rel_pos", "shared_rel_pos"),
}


@pytest.mark.parametrize("name", BIASED)
def test_a_forward_with_a_shared_bias_that_is_written_out_agrees(name: str) -> None:
    ours, model = models(name)
    path, word = BIASED[name]

    def written_out(either: Any, x: Any, tokens: Any) -> Any:
        module = getattr(either, path)
        bias = module() if path == "rel_pos_bias" else module.get_bias()
        for block in either.blocks:
            tokens = block(tokens, **{word: bias})
        return bias, either.forward_head(either.norm(tokens))

    tokens = ours._run(X, 0, taps=[(0, 0, "in")])[1][0]
    bias, got = written_out(ours, X, tokens)
    theirs, want = written_out(model, torch.from_numpy(X), torch.from_numpy(tokens))
    near(bias, theirs)
    near(got, want)
    np.testing.assert_allclose(got, ours(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["relpos", "relpos-swin", "relpos-table", "relpos-shared"]
)
def test_a_relative_bias_is_timms(name: str) -> None:
    ours, model = models(name)
    path = "shared_rel_pos" if name.endswith("shared") else "blocks.1.attn.rel_pos"
    part, module = ours.get_submodule(path), model.get_submodule(path)
    near(part.get_bias(), module.get_bias())
    n = ours.forward_features(X).shape[1]
    scores = recipe.picture((2, 4, n, n))
    near(part(scores), module(torch.from_numpy(scores)))
    if hasattr(module, "mlp"):
        near(part.rel_coords_log, module.rel_coords_log)
        near(part.bias_act(scores), module.bias_act(torch.from_numpy(scores)))


@pytest.mark.parametrize("name", ["eva", "beit", "relpos", "distilled"])
def test_lists_of_blocks_are_torchs(name: str) -> None:
    ours, model = models(name)
    for part, module in (
        (ours.blocks, model.blocks),
        (ours.blocks[1:], model.blocks[1:]),
        (ours.blocks[::-1], model.blocks[::-1]),
    ):
        assert type(part).__name__ == type(module).__name__
        for way in ("named_modules", "named_children", "named_parameters"):
            names = [n for n, _ in getattr(part, way)()]
            assert names == [n for n, _ in getattr(module, way)()], way
        assert list(part.state_dict()) == list(module.state_dict())
