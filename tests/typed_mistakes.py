# SPDX-License-Identifier: Apache-2.0
"""What `mypy --strict` catches: with one of these lines allowed, an ignore is unused.

At run time too each of MISTAKES is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import vitpool

model = vitpool.VisionTransformer(
    img_size=32, patch_size=16, embed_dim=8, depth=1, num_heads=2, num_classes=3, seed=0
)
x = np.zeros((1, 3, 32, 32), np.float32)
tokens = model.forward_features(x)


def assign() -> None:
    model.num_classes = 5  # type: ignore[misc]


MISTAKES = {
    "option": lambda: vitpool.VisionTransformer(depht=3),  # type: ignore[call-arg]
    "type": lambda: vitpool.VisionTransformer(depth="3"),  # type: ignore[arg-type]
    "pool": lambda: vitpool.VisionTransformer(
        global_pool="mpa",  # type: ignore[arg-type]
    ),
    "act": lambda: vitpool.VisionTransformer(
        act_layer="gleu",  # type: ignore[arg-type]
    ),
    "norm": lambda: vitpool.VisionTransformer(
        norm_layer=("layernrm", 1e-6),  # type: ignore[arg-type]
    ),
    "block": lambda: vitpool.VisionTransformer(
        block_fn="Blok",  # type: ignore[arg-type]
    ),
    "of another class": lambda: vitpool.Eva(reg_tokens=4),  # type: ignore[call-arg]
    "rope": lambda: vitpool.Eva(rope_type="mrope"),  # type: ignore[arg-type]
    "pool of Beit": lambda: vitpool.Beit(
        global_pool="max",  # type: ignore[arg-type]
    ),
    "relative": lambda: vitpool.VisionTransformerRelPos(
        rel_pos_type="swin",  # type: ignore[arg-type]
    ),
    "positions": lambda: vitpool.NaFlexVit(
        pos_embed="learnt",  # type: ignore[arg-type]
    ),
    "cfg": lambda: vitpool.NaFlexVit(reg_token=4),  # type: ignore[call-arg]
    "pool of pictures": lambda: vitpool.NaFlexVit(
        global_pool="prr",  # type: ignore[arg-type]
    ),
    "dtype": lambda: vitpool.VisionTransformer(
        dtype="bf16",  # type: ignore[arg-type]
    ),
    "reset": lambda: model.reset_classifier(5, "mpa"),  # type: ignore[arg-type]
    "pool again": lambda: model.pool(tokens, "mpa"),  # type: ignore[call-overload]
    "create": lambda: vitpool.create_model(  # type: ignore[call-overload]
        "vit_digits",
        global_pool="mpa",
    ),
    "created": lambda: vitpool.create_model(  # type: ignore[call-overload]
        "vit_digits", depht=3
    ),
    "of a type": lambda: vitpool.create_model(  # type: ignore[call-overload]
        "vit_digits", depth="3"
    ),
    "method": lambda: model.forwrad(x),  # type: ignore[attr-defined]
    "part": lambda: model.blocks[0].attn.qvk,  # type: ignore[attr-defined]
    "weight": lambda: model.head.wieght,  # type: ignore[attr-defined]
    "assigned": assign,
    "attention": lambda: model(x, return_attn=0),  # type: ignore[call-overload]
}

# A plain model takes it at run time; for mypy a subclass declares what it has.
model.num_clases = 5  # type: ignore[attr-defined]

# Nothing of these is Any, which could be assigned to everything.
logits: str = model(x)  # type: ignore[assignment]
attention: str = model(x, return_attn=[0])  # type: ignore[assignment]
kernel: str = model.head.weight  # type: ignore[assignment]
features: str = model.forward_features(x)  # type: ignore[assignment]
blocks: str = model.untrained()  # type: ignore[assignment]

if TYPE_CHECKING:

    class Tensor:
        """What torch's has, where torch is not at hand."""

        requires_grad: bool

    tensor: Tensor = model(Tensor())
    pooled: Tensor = model.pool(model.forward_features(Tensor()), "avg")
    both: tuple[Tensor, dict[int | str, Tensor]] = model(Tensor(), return_attn=[0])
    array: np.ndarray = model(Tensor())  # type: ignore[assignment]
