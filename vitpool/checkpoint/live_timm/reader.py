# SPDX-License-Identifier: Apache-2.0
"""Walks a live timm model by path; knows modules by class and by attributes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NoReturn

# Where classes come from whose forward we reproduce: one of the same name elsewhere
# (a subclass, a quantised or a parametrised layer) computes something else.
_HOMES = (
    "timm.layers.",
    "timm.models.beit.",
    "timm.models.deit.",
    "timm.models.eva.",
    "timm.models.naflexvit.",
    "timm.models.vision_transformer.",
    "timm.models.vision_transformer_hybrid.",
    "timm.models.vision_transformer_relpos.",
    "torch.nn.modules.",
)
# Two classes of beit.py have the names of others: here they have names of their own.
_OF_BEIT = {"Attention": "BeitAttention", "Block": "BeitBlock"}

# What to do about a copy of timm's classes.
TRY = "like_timm=True takes a copy or a subclass whose outputs are timm's"

_NORMS = {
    "LayerNorm": "layernorm",
    "LayerNormFp32": "layernorm",
    "RmsNorm": "rmsnorm",
    "RmsNormFp32": "rmsnorm",
}
_ACTS = {
    "GELU": "gelu",
    "GELUTanh": "gelu_tanh",
    "QuickGELU": "quick_gelu",
    "SiLU": "silu",
    "ReLU": "relu",
}


def class_name(module: Any) -> str:
    """The bare name of a class from timm or torch.nn, the full name of another."""
    cls = type(module)
    if not (cls.__module__ + ".").startswith(_HOMES):
        return f"{cls.__module__}.{cls.__qualname__}"
    own = cls.__module__ == "timm.models.beit"
    return _OF_BEIT.get(cls.__name__, cls.__name__) if own else cls.__name__


def alike_among(module: Any, names: Collection[str]) -> str:
    """The first of these names that the module's class, or a base of it, has."""
    timms = {name: name for name in names}
    timms |= {bare: name for bare, name in _OF_BEIT.items() if name in names}
    bare = (cls.__name__ for cls in type(module).__mro__)
    return next((timms[name] for name in bare if name in timms), "")


def refuse(path: str, why: str) -> NoReturn:
    """ValueError that names the part and says what is wrong there."""
    raise ValueError(f"from_timm: {path or 'the model'}: {why}")


class Reader:
    """Walks a model by path, remembers what it saw, refuses what it does not know.

    like_timm: a class is known by its name or that of a base, wherever it comes from.
    """

    def __init__(self, root: Any, like_timm: bool = False) -> None:
        self.root = root
        self.like_timm = like_timm
        self.modules: dict[str, Any] = dict(root.named_modules(remove_duplicate=False))
        self.seen: set[str] = set()
        self.width = 0
        self.norm_spec: tuple[str, float] | None = None
        self.norm_path = ""

    def take(self, path: str, *allowed: str) -> str:
        """The class of the module at `path`, one of `allowed`; '' is none there."""
        self.seen.add(path)
        module = self.modules.get(path)
        name = "" if module is None else class_name(module)
        alike = alike_among(module, allowed)
        if name not in allowed and self.like_timm:
            name = alike or name
        if name not in allowed:
            known = ", ".join(filter(None, allowed)) or "none"
            hint = f"; {TRY}" if alike else ""
            refuse(path, f"{name or 'no module'}; supported here: {known}{hint}")
        if module is not None:
            self.check_untouched(path, module)
        return name

    def check_untouched(self, path: str, module: Any) -> None:
        """Refuse hooks and methods put onto the instance: they would not run here."""
        if module._forward_hooks or module._forward_pre_hooks:
            refuse(path, "has forward hooks, which would not run here; remove them")
        for name, value in vars(module).items():
            if callable(value) and callable(getattr(type(module), name, None)):
                refuse(path, f"its {name}() was replaced on the instance")

    def skip(self, path: str, *allowed: str) -> None:
        """What does nothing at inference: dropout of any rate."""
        self.take(path, "Identity", *allowed)

    def linear(self, path: str) -> tuple[int, int, bool]:
        """(in, out, has a bias) of the Linear at `path`."""
        self.take(path, "Linear")
        module = self.modules[path]
        return module.in_features, module.out_features, module.bias is not None

    def any_norm(self, path: str) -> tuple[str, float] | None:
        """(kind, eps) of the norm at `path`; None for Identity."""
        name = self.take(path, "Identity", *_NORMS)
        if name == "Identity":
            return None
        module = self.modules[path]
        biased = getattr(module, "bias", None) is not None
        if module.weight is None or biased != (_NORMS[name] == "layernorm"):
            refuse(path, f"{name} without its usual weight and bias")
        return _NORMS[name], float(module.eps)

    def norm(self, path: str) -> bool:
        """Whether there is a norm at `path`; one norm_layer serves the whole model."""
        spec = self.any_norm(path)
        if spec is None:
            return False
        if self.norm_spec is None:
            self.norm_spec, self.norm_path = spec, path
        elif spec != self.norm_spec:
            refuse(path, f"{spec} differs from {self.norm_spec} at {self.norm_path}")
        return True

    def required_norm(self, path: str) -> None:
        """Refuse an Identity where the forward has a norm."""
        if not self.norm(path):
            refuse(path, "Identity; a norm is expected")

    def act(self, path: str) -> str:
        """The name of the activation at `path`."""
        name = self.take(path, *_ACTS)
        if getattr(self.modules[path], "approximate", "none") == "tanh":
            return "gelu_tanh"
        return _ACTS[name]

    def layer_scale(self, path: str) -> float | None:
        """LayerScale's initial value; None where there is no LayerScale."""
        if self.take(path, "Identity", "LayerScale") == "Identity":
            return None
        return float(getattr(self.modules[path], "init_values", 1e-5))

    def equal(self, path: str, what: str, got: Any, want: Any) -> None:
        """Refuse what differs from what is supported."""
        if got != want:
            refuse(path, f"{what} {got}; supported here: {want}")

    def finish(self) -> None:
        """Refuse any module that no slot asked for."""
        for path in self.modules:
            if path not in self.seen:
                refuse(path, f"{class_name(self.modules[path])} is not known here")
