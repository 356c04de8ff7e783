# SPDX-License-Identifier: Apache-2.0
"""What `train` means: which parameters, and where a training pass begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import _core
from ..config import as_int
from ..model import Float32, PlainViT
from ..model.parts import grid_of
from ..text import did_you_mean, some

Entry = Literal["images", "block", "features", "pre_logits"]

_STEM = (
    *("cls_token", "reg_token", "dist_token", "pos_embed"),
    *("patch_embed.", "embeds.", "norm_pre."),
)
# What every block reads, from the first on.
_IN_ALL_BLOCKS = ("rope.", "rel_pos_bias.", "shared_rel_pos.")
_HEADS = ("head.", "head_dist.")
# Which rates of dropout act behind each entry: frozen parts run as at inference.
_RATES: dict[Entry, tuple[str, ...]] = {
    "images": (
        *("drop_rate", "pos_drop_rate", "patch_drop_rate"),
        *("proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
    ),
    "block": ("drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
    "features": ("drop_rate",),
    "pre_logits": ("drop_rate",),
}
RATES = _RATES["images"]


class Part(NamedTuple):
    """Parameters that train, in the model's order, and the last place before them all.

    entry: 'images'; 'block': tokens (B, N, C) before block `block`, where the number of
    blocks is before the final norm; 'features': tokens behind that norm, (B, N, C);
    'pre_logits': what the head reads, (B, C). block is 0 but for 'block'.
    """

    names: tuple[str, ...]
    entry: Entry
    block: int

    def is_images(self, shape: Sequence[int], options: Mapping[str, Any]) -> bool:
        """Whether inputs of this shape are images; ValueError: nor what entry takes.

        options: the core's, of the model.
        """
        channels, width = options["in_chans"], options["embed_dim"]
        if len(shape) == 4 and shape[1] == channels:
            return True
        wanted = f"images (B, {channels}, height, width)"
        if self.entry != "images":
            vectors = self.entry == "pre_logits"
            if len(shape) == (2 if vectors else 3) and shape[-1] == width:
                return False
            rows = f"(B, {width})" if vectors else f"(B, N, {width})"
            wanted += f" or {self.place} {rows}"
        raise ValueError(f"x must be {wanted}, not of shape {tuple(shape)}")

    @property
    def place(self) -> str:
        """What entry takes, in words."""
        return {
            "images": "images",
            "block": f"tokens before block {self.block}",
            "features": "forward_features' tokens",
            "pre_logits": "pooled features",
        }[self.entry]

    @property
    def has_blocks(self) -> bool:
        """Whether a block runs in a training pass."""
        if self.entry == "block":
            starts = ("blocks.", *_IN_ALL_BLOCKS)
            return any(name.startswith(starts) for name in self.names)
        return self.entry == "images"

    @property
    def rates(self) -> tuple[str, ...]:
        """The rates of dropout that act on what trains."""
        if self.entry == "block" and not self.has_blocks:
            return _RATES["features"]
        return _RATES[self.entry]


def part_of(now: _core.VisionTransformer, train: Any) -> Part:
    """What trains of a model.

    train: 'head'; 'pool', the attention pool, fc_norm and head; K, the last K blocks
    and what follows them; 'all'; or parameters' names. TypeError, ValueError: nothing
    of these, or a model without classifier or without pool.
    """
    options = now._options()
    if options["num_classes"] < 1:
        raise ValueError(
            "the model has no classifier (num_classes 0): "
            "reset_classifier(num_classes) makes one"
        )
    if options["global_pool"] == "":
        raise ValueError(
            "the model has no pool (global_pool ''), so no logits of a whole image: "
            "reset_classifier(num_classes, global_pool) gives it one"
        )
    known = tuple(now.param_shapes())
    names = _names(known, train, options["depth"])
    if options["embed_layer"] == "ConvStem":
        stem = [name for name in names if name.startswith("patch_embed.")]
        if stem:
            raise ValueError(
                f"train must not have {stem[0]!r}: ConvStem does not train, what "
                f"follows it does, as with train={options['depth']}"
            )
    return Part(names, *_entry(names, options))


def _names(known: tuple[str, ...], train: Any, depth: int) -> tuple[str, ...]:
    allowed = "'head', 'pool', 'all', a number of blocks or a list of names"
    behind = ("attn_pool.", "fc_norm.", *_HEADS)
    if isinstance(train, str):
        starts = {"head": _HEADS, "pool": behind, "all": ("",)}.get(train)
        if starts is None:
            hint = did_you_mean(train, ("head", "pool", "all"))
            listed = f"; one name is [{train!r}]" if train in known else ""
            raise ValueError(f"train must be {allowed}, not {train!r}{hint}{listed}")
        return tuple(name for name in known if name.startswith(starts))
    if isinstance(train, Iterable):
        return _listed(known, list(train))
    if isinstance(train, bool) or not hasattr(train, "__index__"):
        raise TypeError(f"train must be {allowed}, not {type(train).__name__}")
    count = as_int(train, "train")
    if count > depth:
        raise ValueError(
            f"train must be at most the model's {depth} blocks, not {count}"
        )
    starts = (*(f"blocks.{i}." for i in range(depth - count, depth)), "norm.", *behind)
    return tuple(name for name in known if name.startswith(starts))


def _listed(known: tuple[str, ...], given: list[Any]) -> tuple[str, ...]:
    for name in given:
        if not isinstance(name, str):
            raise TypeError(f"train's names must be strings, not {type(name).__name__}")
    unknown = [name for name in given if name not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known, most=3)
        raise ValueError(f"the model has no parameter {some(map(repr, unknown))}{hint}")
    if not given:
        raise ValueError("train is an empty list: no parameter would train")
    return tuple(name for name in known if name in set(given))


def _entry(names: tuple[str, ...], options: Mapping[str, Any]) -> tuple[Entry, int]:
    """The last place of a pass that all these parameters are behind."""
    if any(name.startswith(_STEM) for name in names):
        return "images", 0
    blocks = [int(n.split(".")[1]) for n in names if n.startswith("blocks.")]
    if any(name.startswith(_IN_ALL_BLOCKS) for name in names):
        blocks.append(0)
    if blocks:
        return "block", min(blocks)
    if any(name.startswith("norm.") for name in names):
        return "block", options["depth"]
    if any(name.startswith(("attn_pool.", "fc_norm.")) for name in names):
        return "features", 0
    # two heads read two tokens: there is no one vector that both are of
    return ("features" if options["dist_token"] else "pre_logits"), 0


def _check_places(model: PlainViT, part: Part, images: Float32) -> None:
    now = model._snapshot()
    options = now._options()
    if not part.has_blocks or options["rope"] == "none" or images.ndim != 4:
        return
    height, width = images.shape[2:]
    own, grid = grid_of(options), now._grid(height, width)
    if grid != own:
        raise ValueError(
            f"images of {height} x {width} are {grid[0]} x {grid[1]} patches, and the "
            f"rotated blocks that train are read at the model's own {own[0]} x "
            f"{own[1]}: set_input_size(img_size=({height}, {width})) makes it theirs, "
            "and train='all' takes any size"
        )


def features_of(model: PlainViT, part: Part, images: Any) -> Float32:
    """What the frozen part makes of images: what part's entry takes, float32.

    Without dropout, and the same bits whatever the batch. ValueError: the blocks that
    train are rotated, and tokens of images of another size do not tell their places.
    """
    images = _core.as_float32(images, "x")
    if part.entry == "images":
        return images
    _check_places(model, part, images)
    if part.entry == "pre_logits":
        features = model.forward_features(images)
        return np.asarray(model.forward_head(features, pre_logits=True))
    if part.entry == "features":
        return np.asarray(model.forward_features(images))
    now = model._snapshot()
    if not now._options()["depth"]:
        tokens: Any = model._pos_embed(model.patch_embed(images))
        if isinstance(tokens, tuple):  # Eva's, with the rotary embedding
            tokens = tokens[0]
        norm_pre = getattr(model, "norm_pre", None)  # Beit's class has none
        return np.asarray(tokens if norm_pre is None else norm_pre(tokens))
    # Where no block is before, the first one runs to be read at its input.
    place = (part.block - 1, 0) if part.block else (0, 0, "in")
    _, arrays, _, _ = model._forward(
        now, images, 0, depth=max(part.block, 1), taps=[place]
    )
    return arrays[0]


def logits_of(model: PlainViT, part: Part, x: Any) -> Float32:
    """Logits (B, K) at inference, of what part's entry takes."""
    if part.entry == "images":
        return np.asarray(model(x))
    if part.entry == "block":
        x = model.norm(model.forward_blocks(x, part.block))
    if part.entry == "pre_logits":
        return np.asarray(model.head(x))
    return np.asarray(model.forward_head(x))
