# SPDX-License-Identifier: Apache-2.0
"""model.summary() beside timm: shapes by hooks, FLOPs by torch's own counter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import reference
import timm
import torch
from models import BASE
from torch.utils.flop_counter import FlopCounterMode

import vitpool

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "map": {"global_pool": "map", "class_token": False, "reg_tokens": 1},
    "map with prefix": {"global_pool": "map", "pool_include_prefix": True},
    "prr": {"global_pool": "prr", "class_token": True},
    "avg": {"global_pool": "avg", "reg_tokens": 2, "no_embed_class": True},
    "no pool": {"global_pool": "", "pre_norm": True},
    "no head": {"num_classes": 0},
    "dynamic": {"dynamic_img_size": True, "embed_norm_layer": "layernorm"},
    "norms": {
        "qk_norm": True,
        "scale_attn_norm": True,
        "scale_mlp_norm": True,
        "init_values": 0.1,
    },
    "post": {"block_fn": "ResPostBlock", "mlp_layer": "GluMlp"},
    "things": {"block_fn": "ParallelThingsBlock", "init_values": 0.1},
    "scaling": {"block_fn": "ParallelScalingBlock", "qk_norm": True},
    "diff scaling": {"block_fn": "DiffParallelScalingBlock", "qk_norm": True},
    "diff": {"attn_layer": "diff", "qk_norm": True, "mlp_layer": "SwiGLU"},
    "packed": {"mlp_layer": "SwiGLUPacked", "scale_mlp_norm": True},
}


@pytest.fixture(autouse=True)
def _unfused() -> Iterator[None]:
    """Attention as products that the counter sees one by one."""
    timm.layers.set_fused_attn(False)
    yield
    timm.layers.set_fused_attn(True)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("size", [(32, 32), (48, 64)])
def test_every_row_is_timms(name: str, size: tuple[int, int]) -> None:
    options = BASE | {"depth": 2} | OPTIONS[name]
    if name != "dynamic":
        options["img_size"] = size
    model = reference.build(options).requires_grad_(False)
    ours = vitpool.VisionTransformer(**options, seed=0)
    shapes: dict[str, Any] = {}

    def hook(path: str) -> Any:
        def note(_module: Any, _inputs: Any, output: Any) -> None:
            shapes[path] = tuple(output.shape)

        return note

    for path, module in model.named_modules():
        module.register_forward_hook(hook(path))
    x = torch.zeros(2, 3, *size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    summary = ours.summary(x.shape, depth=None)
    assert summary.flops == counter.get_total_flops()
    assert summary.output == shapes[""]
    counts = counter.get_flop_counts()
    modules = dict(model.named_modules())
    for row in summary.rows:
        if row.kind == "Parameter":
            assert row.output == tuple(model.get_parameter(row.path).shape)
            continue
        module = modules[row.path]
        assert row.params == sum(p.numel() for p in module.parameters()), row
        assert row.output == shapes.get(row.path), row
        counted = counts.get(f"{type(model).__name__}.{row.path}", {})
        if row.output is not None:  # a ModuleList is not called, nor counted
            assert row.flops == sum(counted.values()), row
    told = {row.path for row in summary.rows}
    for path, module in modules.items():
        if path and any(True for _ in module.parameters()):
            assert path in told
