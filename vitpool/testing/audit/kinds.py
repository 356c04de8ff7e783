# SPDX-License-Identifier: Apache-2.0
"""What tells a torch module from a model over NumPy arrays, such as vitpool's own.

An adapter a kind. torch itself is taken from sys.modules: a torch module that is given
has brought it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Kind(Protocol):
    """What an audit does with a model, and how a snippet says it."""

    imports: str  # the line that a snippet begins with
    seed: str  # and the one that makes what it draws the same each time
    drawing: list[str]  # lines that give a model weights that matter
    trains: bool  # by torch's autograd

    def state(self, model: Any) -> dict[str, Array]:
        """The state dict, each array a copy."""

    def load(self, model: Any, state: Mapping[str, Array]) -> None:
        """Load a state dict, strictly."""

    def parameters(self, model: Any) -> dict[str, Any]:
        """The parameters by key, the objects themselves."""

    def modules(self, model: Any) -> dict[str, Any]:
        """The modules by path, with the model itself as ''; {} where it has none."""

    def run(self, model: Any, images: Array) -> Any:
        """The model's answer in eval mode and without gradients; modes are put back."""

    def evaluated(self, model: Any) -> AbstractContextManager[None]:
        """The model in eval mode and without gradients; modes are put back."""

    def tensor(self, model: Any, array: Array) -> Any:
        """An array as what the model takes."""

    def use(self, key: str) -> list[str]:
        """Lines of a snippet that fail where no output depends on a parameter."""

    def moved(self, one: Any, other: Any) -> bool:
        """Whether a parameter is another object than it was."""

    def reached(
        self, model: Any, function: Callable[[Any], Any], images: Array
    ) -> set[str]:
        """Keys of the parameters to which there is a way back from function(images)."""

    def unused(self, model: Any, images: Array) -> set[str]:
        """Keys of the trained parameters on which no output depends, in any mode."""

    def array(self, value: Any) -> Array:
        """A tensor of the model's as float32 (or its integers) in NumPy."""

    def pictures(self, shape: tuple[int, ...]) -> str:
        """The expression for drawn pictures of this shape."""


class ArrayKind:
    """A model over NumPy arrays: called with one, state_dict and load_state_dict."""

    imports = "import numpy as np"
    seed = "rng = np.random.default_rng(0)"
    trains = False
    drawing = [
        "state = {k: v + 0.3 * rng.standard_normal(v.shape, np.float32)",
        "         for k, v in model.state_dict().items()}",
        "model.load_state_dict(state)",
    ]

    def state(self, model: Any) -> dict[str, Array]:
        """The state dict, each array a copy."""
        return {key: np.array(value) for key, value in model.state_dict().items()}

    def load(self, model: Any, state: Mapping[str, Array]) -> None:
        """Load a state dict, strictly."""
        model.load_state_dict(dict(state))

    def parameters(self, model: Any) -> dict[str, Any]:
        """The parameters by key."""
        named = getattr(model, "named_parameters", None)
        return dict(named() if named else model.state_dict())

    def modules(self, model: Any) -> dict[str, Any]:
        """The modules by path; the model alone where it has none."""
        named = getattr(model, "named_modules", None)
        return dict(named()) if named else {"": model}

    def run(self, model: Any, images: Array) -> Any:
        """The model's answer."""
        return model(images)

    def evaluated(self, model: Any) -> AbstractContextManager[None]:
        """Nothing changes: such a model only evaluates."""
        return contextlib.nullcontext()

    def tensor(self, model: Any, array: Array) -> Any:
        """The array itself."""
        return array

    def use(self, key: str) -> list[str]:
        """Lines of a snippet that fail where no output depends on a parameter."""
        return [
            "before, state = model(x), model.state_dict()",
            f"state[{key!r}] = state[{key!r}] + 1",
            "model.load_state_dict(state)",
            f"assert (model(x) != before).any(), 'no output depends on {key}'",
        ]

    def moved(self, one: Any, other: Any) -> bool:
        """Never: arrays are given out anew each time."""
        return False

    def reached(
        self, model: Any, function: Callable[[Any], Any], images: Array
    ) -> set[str]:
        """None: no gradients are kept."""
        raise TypeError("a model over arrays keeps no gradients")

    def unused(self, model: Any, images: Array) -> set[str]:
        """Keys of the parameters whose numbers may change, and the output stays."""
        state, before = self.state(model), np.array(model(images))
        keys = set()
        for key, value in state.items():
            self.load(model, state | {key: value + 1 + np.abs(value)})
            if np.array_equal(model(images), before):
                keys.add(key)
        self.load(model, state)
        return keys

    def array(self, value: Any) -> Array:
        """The array itself."""
        return np.asarray(value)

    def pictures(self, shape: tuple[int, ...]) -> str:
        """The expression for drawn pictures of this shape."""
        return f"rng.standard_normal({shape}, dtype=np.float32)"


class TorchKind:
    """A torch.nn.Module."""

    imports = "import torch"
    seed = "torch.manual_seed(0)"
    trains = True
    drawing = [
        "for parameter in model.parameters():",
        "    parameter.data += 0.3 * torch.randn_like(parameter)",
    ]

    def state(self, model: Any) -> dict[str, Array]:
        """The state dict, each array a copy."""
        return {key: self.array(value) for key, value in model.state_dict().items()}

    def load(self, model: Any, state: Mapping[str, Array]) -> None:
        """Load a state dict, strictly."""
        torch = sys.modules["torch"]
        copies = {key: torch.from_numpy(np.array(a)) for key, a in state.items()}
        model.load_state_dict(copies)

    def parameters(self, model: Any) -> dict[str, Any]:
        """The parameters by key."""
        return dict(model.named_parameters())

    def modules(self, model: Any) -> dict[str, Any]:
        """The modules by path, the model as ''."""
        return dict(model.named_modules())

    def run(self, model: Any, images: Array) -> Any:
        """The model's answer in eval mode and without gradients."""
        with self.evaluated(model):
            return model(self.tensor(model, images))

    @contextlib.contextmanager
    def evaluated(self, model: Any) -> Iterator[None]:
        """The model in eval mode and without gradients; modes are put back."""
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with sys.modules["torch"].no_grad():
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    def tensor(self, model: Any, array: Array) -> Any:
        """A tensor of the model's dtype, where the model is."""
        x = sys.modules["torch"].from_numpy(array)
        for parameter in model.parameters():
            return x.to(parameter.device, parameter.dtype)
        return x

    def use(self, key: str) -> list[str]:
        """Lines of a snippet that fail where no output depends on a parameter."""
        return [
            f"parameter = model.get_parameter({key!r})",
            "for mode in (False, True):",
            "    out = model.train(mode)(x)",
            "    outs = out if type(out) is tuple else [out]",
            "    total = sum(o.square().sum() for o in outs if hasattr(o, 'shape'))",
            "    grad, = torch.autograd.grad(total, parameter, allow_unused=True)",
            "    if grad is not None:",
            "        break",
            "else:",
            f"    raise AssertionError('no output depends on {key}')",
        ]

    def unused(self, model: Any, images: Array) -> set[str]:
        """Keys of the parameters that no output leads back to, in eval nor train mode.

        The model's running numbers move on.
        """
        keys = {k for k, p in model.named_parameters() if p.requires_grad}
        mode = model.training
        for training in (False, True):
            model.train(training)
            keys -= self.reached(model, model, images)
        model.train(mode)
        return keys

    def reached(
        self, model: Any, function: Callable[[Any], Any], images: Array
    ) -> set[str]:
        """Keys of the parameters to which there is a way back from function(images)."""
        named = {k: p for k, p in model.named_parameters() if p.requires_grad}
        tensors = _tensors(function(self.tensor(model, images)))
        total = sum(tensor.float().square().sum() for tensor in tensors)
        found = sys.modules["torch"].autograd.grad(
            total, named.values(), allow_unused=True
        )
        return {k for k, g in zip(named, found, strict=True) if g is not None}

    def moved(self, one: Any, other: Any) -> bool:
        """Whether a parameter is another object than it was."""
        return one is not other

    def array(self, value: Any) -> Array:
        """A tensor as float32 (or its integers) in NumPy; a copy."""
        value = value.detach().cpu()
        if value.is_floating_point():
            value = value.float()
        return np.array(value.numpy())

    def pictures(self, shape: tuple[int, ...]) -> str:
        """The expression for drawn pictures of this shape."""
        return f"torch.randn{shape}"


def _tensors(value: Any) -> Iterator[Any]:
    """The tensors of an answer, at any depth."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "shape"):
        yield value


def is_torch(model: Any) -> bool:
    """Whether it is a torch module; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    nn = getattr(torch, "nn", None)
    return nn is not None and isinstance(model, nn.Module)


def kind_of(model: Any) -> Kind:
    """The adapter for a model."""
    return TorchKind() if is_torch(model) else ArrayKind()
