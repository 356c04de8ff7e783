# SPDX-License-Identifier: Apache-2.0
"""Every module of timm's torch model, by path: what a part is, and how it prints.

Sources: the constructors in timm.models.vision_transformer and timm.layers, whose
assignments give the order, and torch's extra_repr of each layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from textwrap import indent
from typing import Any

from .tree_blocks import blocks, rel_pos
from .tree_layers import (
    IDENTITY,
    Node,
    Options,
    drops,
    end,
    naflex_embeds,
    norm,
    patch_embed,
)


def tree(options: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """(class name, extra_repr) of every module by its path, in the order of torch's
    named_modules; the model itself is at ''.

    options: the core's, as `model._options()` gives them. Drop rates are not among
    them: each Dropout is of rate 0, and each drop path an Identity.
    """
    return dict(_flat_tree(tuple(options.items())))


def children_of(options: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """The names of the modules directly below the one at `path`."""
    return _children(tuple(options.items())).get(path, ())


@lru_cache(maxsize=16)
def _children(options: tuple[tuple[str, Any], ...]) -> dict[str, tuple[str, ...]]:
    return {
        path: tuple(node.children) for path, node in _walk(_model(dict(options)), "")
    }


@lru_cache(maxsize=16)
def _flat_tree(options: tuple[tuple[str, Any], ...]) -> dict[str, tuple[str, str]]:
    return {
        path: (node.kind, node.extra) for path, node in _walk(_model(dict(options)), "")
    }


def _walk(node: Node, path: str) -> Iterator[tuple[str, Node]]:
    yield path, node
    for name, child in node.children.items():
        yield from _walk(child, f"{path}.{name}" if path else name)


def folded(modules: Mapping[str, tuple[str, str]]) -> str:
    """torch's text of the module at '', with those below it; equal items that follow
    each other are one line, as in a ModuleList: ``(0-11): 12 x Block(...)``."""
    below: dict[str, list[str]] = {}
    for path in modules:
        if path:
            below.setdefault(path.rpartition(".")[0], []).append(path)

    def text(path: str) -> str:
        rows: list[tuple[str, str, str]] = []  # first name, last name, text
        for child in below.get(path, ()):
            name, shown = child.rpartition(".")[2], text(child)
            if rows and name.isdigit() and rows[-1][2] == shown:
                rows[-1] = (rows[-1][0], name, shown)
            else:
                rows.append((name, name, shown))
        kind, extra = modules[path]
        if not rows:
            return f"{kind}({extra})"
        lines = [extra] if extra else []
        for first, last, shown in rows:
            count = int(last) - int(first) + 1 if first != last else 1
            label = f"({first}): " if count == 1 else f"({first}-{last}): {count} x "
            lines.append(label + shown)
        return f"{kind}(\n" + indent("\n".join(lines), "  ") + "\n)"

    return text("")


def within(
    modules: Mapping[str, tuple[str, str]], path: str
) -> dict[str, tuple[str, str]]:
    """The module at `path` and those below it, by their paths from there."""
    if not path:
        return dict(modules)
    start = f"{path}."
    below = {p[len(start) :]: m for p, m in modules.items() if p.startswith(start)}
    return {"": modules[path], **below}


# -- the model --


def _model(options: Mapping[str, Any]) -> Node:
    o = Options(options)
    family = o.given["family"]
    return Node(family, "", _ROOTS.get(family, _vit)(o))


def _vit(o: Options) -> dict[str, Node]:
    return {
        "patch_embed": patch_embed(o),
        **drops("pos_drop"),
        "patch_drop": IDENTITY,
        "norm_pre": norm(o.norm, o.width, o.given["pre_norm"]),
        "blocks": Node("Sequential", "", blocks(o)),
        **end(o),
    }


_ROPES = {
    "cat": "RotaryEmbeddingCat",
    "mixed": "RotaryEmbeddingMixed",
    "dinov3": "RotaryEmbeddingDinoV3",
}


def _rope(o: Options) -> dict[str, Node]:
    rope = _ROPES.get(o.given["rope"])
    return {"rope": Node(rope)} if rope is not None else {}


def _eva(o: Options) -> dict[str, Node]:
    return {
        "patch_embed": patch_embed(o),
        **drops("pos_drop"),
        **_rope(o),
        "norm_pre": norm(o.norm, o.width, o.given["pre_norm"]),
        "blocks": Node("ModuleList", "", blocks(o)),
        **end(o),
    }


def _beit(o: Options) -> dict[str, Node]:
    shared = {"rel_pos_bias": rel_pos(o)} if o.given["rel_pos_shared"] else {}
    return {
        "patch_embed": patch_embed(o),
        **drops("pos_drop"),
        **shared,
        "blocks": Node("ModuleList", "", blocks(o)),
        **end(o),
    }


def _rel_pos(o: Options) -> dict[str, Node]:
    shared = {"shared_rel_pos": rel_pos(o)} if o.given["rel_pos_shared"] else {}
    return {
        "patch_embed": patch_embed(o),
        **shared,
        "blocks": Node("ModuleList", "", blocks(o)),
        **end(o),
    }


def _naflex(o: Options) -> dict[str, Node]:
    return {
        "embeds": naflex_embeds(o),
        "norm_pre": norm(o.norm, o.width, o.given["pre_norm"]),
        **_rope(o),
        "blocks": Node("Sequential", "", blocks(o)),
        **end(o),
    }


# Of the classes whose root is not VisionTransformer's.
_ROOTS = {
    "Eva": _eva,
    "Beit": _beit,
    "VisionTransformerRelPos": _rel_pos,
    "NaFlexVit": _naflex,
}
