# SPDX-License-Identifier: Apache-2.0
"""from_timm without timm: modules that have its classes' names and attributes.

That timm's own are read, all of them, is tests/timm/test_from_timm.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import BASE, X

import vitpool

WIDTH = 32


class Module:
    """What from_timm asks of a torch.nn.Module."""

    def __init__(self, **attributes: Any) -> None:
        self._forward_hooks: dict[int, Any] = {}
        self._forward_pre_hooks: dict[int, Any] = {}
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return sum(isinstance(v, Module) for v in vars(self).values())

    def named_modules(self, remove_duplicate: bool = True) -> Iterator[tuple[str, Any]]:
        yield "", self
        for name, child in vars(self).items():
            if isinstance(child, Module):
                for path, module in child.named_modules():
                    yield (f"{name}.{path}" if path else name), module

    def forward(self, x: Any) -> Any:
        return x


def make(name: str, home: str = "timm.layers.some", **attributes: Any) -> Any:
    return type(name, (Module,), {"__module__": home})(**attributes)


class Tensor:
    """What from_timm asks of a torch.Tensor."""

    is_meta = False
    dtype = "torch.float32"

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape = array, array.shape

    def is_floating_point(self) -> bool:
        return True

    def detach(self) -> Tensor:
        return self

    cpu = float = contiguous = detach

    def numpy(self) -> np.ndarray:
        return self.array


def identity() -> Any:
    return make("Identity", "torch.nn.modules.linear")


def dropout() -> Any:
    return make("Dropout", "torch.nn.modules.dropout")


def linear(inputs: int, outputs: int) -> Any:
    home, bias = "torch.nn.modules.linear", object()
    return make("Linear", home, in_features=inputs, out_features=outputs, bias=bias)


def norm() -> Any:
    return make("LayerNorm", weight=object(), bias=object(), eps=1e-6)


def block(act: Any) -> Any:
    attention = make(
        "Attention",
        num_heads=2,
        head_dim=WIDTH // 2,
        qkv=linear(WIDTH, 3 * WIDTH),
        q_norm=identity(),
        k_norm=identity(),
        attn_drop=dropout(),
        norm=identity(),
        proj=linear(WIDTH, WIDTH),
        proj_drop=dropout(),
    )
    mlp = make(
        "Mlp",
        fc1=linear(WIDTH, 4 * WIDTH),
        act=act,
        drop1=dropout(),
        norm=identity(),
        fc2=linear(4 * WIDTH, WIDTH),
        drop2=dropout(),
    )
    return make(
        "Block",
        "timm.models.vision_transformer",
        norm1=norm(),
        attn=attention,
        ls1=identity(),
        drop_path1=identity(),
        norm2=norm(),
        mlp=mlp,
        ls2=identity(),
        drop_path2=identity(),
    )


def timm_model(act: Any = None, depth: int = 2) -> Any:
    """A timm model of BASE's options and the recipe's weights."""
    if act is None:
        act = make("GELU", "torch.nn.modules.activation", approximate="none")
    patch = (BASE["patch_size"],) * 2
    proj = make(
        "Conv2d",
        "torch.nn.modules.conv",
        kernel_size=patch,
        stride=patch,
        padding=(0, 0),
        dilation=(1, 1),
        groups=1,
        in_channels=3,
        out_channels=WIDTH,
        bias=object(),
    )
    model = make(
        "VisionTransformer",
        "timm.models.vision_transformer",
        patch_embed=make(
            "PatchEmbed",
            img_size=(BASE["img_size"],) * 2,
            patch_size=patch,
            strict_img_size=True,
            dynamic_img_pad=False,
            proj=proj,
            norm=identity(),
        ),
        pos_drop=dropout(),
        patch_drop=identity(),
        norm_pre=identity(),
        blocks=make(
            "Sequential",
            "torch.nn.modules.container",
            **{str(i): block(act) for i in range(depth)},
        ),
        norm=norm(),
        fc_norm=identity(),
        head_drop=dropout(),
        head=linear(WIDTH, BASE["num_classes"]),
        dynamic_img_size=False,
        global_pool="token",
        cls_token=object(),
        reg_token=None,
        num_prefix_tokens=1,
        pos_embed=object(),
        no_embed_class=False,
        pool_include_prefix=False,
    )
    ours = vitpool.VisionTransformer(**BASE | {"depth": depth}, seed=0)
    weights = recipe.weights(ours.param_shapes())
    model.state_dict = lambda: {k: Tensor(v) for k, v in weights.items()}
    return model


ACTIVATIONS = {
    "GELU": ("gelu", "torch.nn.modules.activation", {"approximate": "none"}),
    "GELU of tanh": (
        "gelu_tanh",
        "torch.nn.modules.activation",
        {"approximate": "tanh"},
    ),
    "GELUTanh": ("gelu_tanh", "timm.layers.activations", {}),
    "QuickGELU": ("quick_gelu", "timm.layers.activations", {}),
    "SiLU": ("silu", "torch.nn.modules.activation", {}),
    "ReLU": ("relu", "torch.nn.modules.activation", {}),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_module_is_read_with_its_own_activation(name: str) -> None:
    ours, home, attributes = ACTIVATIONS[name]
    got = vitpool.from_timm(timm_model(make(name.split()[0], home, **attributes)))
    options = BASE | {"depth": 2, "act_layer": ours}
    want = vitpool.VisionTransformer(**options, seed=0)
    want.load_state_dict(recipe.weights(want.param_shapes()))
    assert got.config == want.config
    assert got(X).tobytes() == want(X).tobytes()


@pytest.mark.parametrize("which", ["_forward_hooks", "_forward_pre_hooks"])
@pytest.mark.parametrize("path", ["", "head", "blocks.1.attn.qkv"])
def test_hooks_are_refused_since_they_would_not_run(path: str, which: str) -> None:
    model = timm_model()
    getattr(dict(model.named_modules())[path], which)[0] = print
    with pytest.raises(ValueError, match=f"{path or 'the model'}: has forward hooks"):
        vitpool.from_timm(model)


def test_a_replaced_method_is_refused_since_it_would_not_run() -> None:
    model = timm_model()
    dict(model.named_modules())["blocks.0.mlp"].forward = lambda x: x
    with pytest.raises(ValueError, match=r"blocks.0.mlp: its forward\(\) was replaced"):
        vitpool.from_timm(model)


def test_a_class_of_the_same_name_from_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match=r"blocks.0.mlp.act: mine.GELU; supported"):
        vitpool.from_timm(timm_model(make("GELU", "mine", approximate="none")))
