# SPDX-License-Identifier: Apache-2.0
"""What readers of published weights must tell apart: norms, projections, filters."""

from __future__ import annotations

import importlib.machinery
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
from golden import recipe

from vitpool.checkpoint import Spec, StateDict, convert_state_dict, open_state_dict
from vitpool.checkpoint.lazy import LazyTensor
from vitpool.resample import resample_abs_pos_embed, resample_patch_embed

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64, "num_classes": 10}
SIGLIP = TINY | {"class_token": False, "global_pool": "map", "num_classes": 0}
RADIO = TINY | {
    "reg_tokens": 7,
    "no_embed_class": True,
    "final_norm": False,
    "num_classes": 0,
    "img_size": 128,
    "init_values": 1e-5,
}


def weights_of(options: dict[str, Any]) -> dict[str, np.ndarray]:
    return recipe.weights(Spec.from_options(options).shapes, seed=1)


def converted(
    content: dict[str, np.ndarray], options: dict[str, Any], variant: str = ""
) -> StateDict:
    tensors = {
        key: LazyTensor(value.shape, lambda value=value: value)
        for key, value in content.items()
    }
    spec = Spec.from_options(options, variant=variant)
    return convert_state_dict(StateDict(tensors), spec)


def assert_equal(got: StateDict, want: dict[str, np.ndarray]) -> None:
    assert set(got) == set(want)
    for key, value in want.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)


def transformers_vit(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ViTForImageClassification's names."""
    inside = published.split_qkv(state, "{}.attention.attention.{}.{}")
    return published.renamed(
        inside,
        (r"\.attention\.q\.", ".attention.query."),
        (r"\.attention\.k\.", ".attention.key."),
        (r"\.attention\.v\.", ".attention.value."),
        (r"^(cls_token)$", r"vit.embeddings.\1"),
        (r"^pos_embed$", "vit.embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
        (r"^blocks\.", "vit.encoder.layer."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
        (r"^norm\.", "vit.layernorm."),
        (r"^head\.", "classifier."),
    )


def transformers_siglip(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SiglipVisionModel's names, whose pool has one projection of query, key, value."""
    out = published.split_qkv(state, "{}.self_attn.{}_proj.{}")
    for kind in ("weight", "bias"):
        parts = [out.pop(f"attn_pool.{name}.{kind}") for name in ("q", "kv")]
        out[f"head.attention.in_proj_{kind}"] = np.concatenate(parts)
    out["embeddings.position_embedding.weight"] = out.pop("pos_embed")[0]
    out = published.renamed(
        out,
        (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
        (r"^blocks\.", "encoder.layers."),
        (r"\.norm([12])\.", r".layer_norm\1."),
        (r"\.attn\.proj\.", ".self_attn.out_proj."),
        (r"^norm\.", "post_layernorm."),
        (r"^attn_pool\.latent$", "head.probe"),
        (r"^attn_pool\.proj\.", "head.attention.out_proj."),
        (r"^attn_pool\.norm\.", "head.layernorm."),
        (r"^attn_pool\.mlp\.", "head.mlp."),
    )
    return {f"vision_model.{key}": value for key, value in out.items()}


def test_transformers_vit_is_read_back() -> None:
    state = weights_of(TINY)
    assert_equal(converted(transformers_vit(state), TINY), state)


def test_transformers_siglip_is_read_back() -> None:
    state = weights_of(SIGLIP)
    assert_equal(converted(transformers_siglip(state), SIGLIP), state)


def test_radios_first_token_is_the_class_token() -> None:
    state = weights_of(RADIO)
    state["patch_embed.proj.bias"][:] = 0  # RADIO has none
    assert_equal(converted(published.radio(state), RADIO), state)


@pytest.mark.parametrize(
    ("variant", "corners"),
    [("vit_base_patch16_radio_v3", True), ("vit_large_patch16_radio_v4", False)],
)
def test_radios_positions_are_resized_by_the_variants_rule(
    variant: str, corners: bool
) -> None:
    state = weights_of(RADIO)
    got = converted(published.radio(state), RADIO | {"img_size": (48, 80)}, variant)
    want = resample_abs_pos_embed(
        state["pos_embed"], (5, 5), (8, 8), 0, "bilinear", False, corners
    )
    cut = want.reshape(5, 5, 32)[:3].reshape(1, 15, 32)
    np.testing.assert_array_equal(got["pos_embed"], cut)


@pytest.mark.parametrize("layout", ["jax", "flexivit"])
def test_jax_archives_and_flexivit_are_resized_without_antialiasing(
    layout: str,
) -> None:
    state = weights_of(TINY)
    content = published.jax(state, heads=2) if layout == "jax" else state
    variant = "flexivit_small" if layout == "flexivit" else ""
    options = TINY | {"img_size": 36, "patch_size": 12}
    got = converted(content, options, variant)
    np.testing.assert_array_equal(
        got["pos_embed"],
        resample_abs_pos_embed(
            state["pos_embed"], (3, 3), (4, 4), 1, "bilinear", False
        ),
    )
    key = "patch_embed.proj.weight"
    want = resample_patch_embed(state[key], (12, 12), "bilinear", False)
    np.testing.assert_array_equal(got[key], want)


def test_a_pickle_is_loaded_as_weights_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else torch is asked: a pickle from a stranger runs no code."""
    asked: list[dict[str, Any]] = []

    class Nothing(Exception):
        pass

    def load(*arguments: Any, **options: Any) -> Any:
        asked.append(options)
        raise Nothing("no torch here")

    class Scope:
        def __init__(self, *arguments: Any) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *arguments: Any) -> None: ...

    torch = types.ModuleType("torch")
    torch.__spec__ = importlib.machinery.ModuleSpec("torch", None)
    torch.load = load  # type: ignore[attr-defined]
    torch.serialization = types.SimpleNamespace(safe_globals=Scope)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    with pytest.raises(ValueError, match=r"a\.pth"):
        open_state_dict(path)
    assert asked
    assert all(options.get("weights_only") is True for options in asked)
