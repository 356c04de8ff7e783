# SPDX-License-Identifier: Apache-2.0
"""A live torch module as a side: its own forward runs, and stops at each stage.

Taken is what has `patch_embed`, `blocks`, `norm` and a `head` as timm's have them, or
some of these. The module is as it was afterwards: its modes, its hooks, its weights.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from ...checkpoint import StateDict
from ...checkpoint.drawn import drawn
from ...checkpoint.lazy import LazyTensor
from .facts import facts_of_module
from .hooks import first_tensor, hooked, is_there
from .pixels import pixels_of
from .relay import relayed
from .side import Array, Side, Stages

# Modules around a module, whose hooks do not run or run elsewhere, and where it is.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}


def _torch() -> Any:
    """torch, which whoever has a module has imported."""
    return sys.modules["torch"]


def is_module(value: Any) -> bool:
    """Is this a torch module?"""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


class TorchModule(Side):
    """A torch module, as it is whenever it runs. TypeError: one that has no stages."""

    def __init__(self, module: Any, name: str | None = None) -> None:
        kind = type(module)
        if kind.__name__ in _WRAPPERS:
            inner = _WRAPPERS[kind.__name__]
            raise TypeError(f"{kind.__name__} cannot be looked into: give its .{inner}")
        if isinstance(module, _torch().jit.ScriptModule):
            raise TypeError(f"{kind.__name__} cannot be looked into: it is TorchScript")
        if not hasattr(getattr(module, "blocks", None), "__iter__"):
            raise TypeError(
                f"{kind.__name__} has no blocks: a model is compared that has "
                "patch_embed, blocks, norm and head, as timm's Vision Transformers"
            )
        cfg = getattr(module, "pretrained_cfg", None)
        cfg = cfg if isinstance(cfg, Mapping) else {}
        package = kind.__module__.partition(".")[0]
        self.module = module
        self.name = name or f"{package}:{cfg.get('architecture') or kind.__name__}"
        self.input_size = _input_size(module, cfg)
        # As they are now: another side may be of the same module.
        self._modes = [(part, part.training) for part in module.modules()]

    def facts(self) -> dict[str, Any]:
        """Its facts, by path."""
        return facts_of_module(self.module)

    def parameters(self) -> Mapping[str, Array]:
        """Its parameters, and what else of numbers its state_dict has."""
        return StateDict(
            {
                key: LazyTensor(tensor.shape, partial(_array, tensor))
                for key, tensor in self.module.state_dict().items()
                if tensor.is_floating_point()
            }
        )

    def pixels(self, files: Sequence[Any]) -> tuple[Array, dict[str, Any]]:
        """Pictures of files, by timm's transform or what pretrained_cfg says."""
        return pixels_of(self.module, self.input_size, files)

    def stages(self, images: Array) -> Stages:
        """Its forward, in a thread of its own."""
        return relayed(partial(self._run, images))

    def _run(self, images: Array, say: Callable[[tuple[str, Array]], Any]) -> None:
        torch, module = _torch(), self.module
        torch.get_num_threads()  # a new thread has the user's number once it asks
        floating = (p for p in module.parameters() if p.is_floating_point())
        like = next(floating, torch.empty(0))
        double = like.dtype == torch.float64

        def stage(name: str, tensor: Any) -> Any:
            rows = tensor
            if name == "patch_embed" and tensor.ndim == 4:
                last = _channels_last(module, tensor)
                rows = tensor.flatten(1, 2) if last else tensor.flatten(2).mT
            own = _array(rows)
            given = say((name, own))
            if given is None or np.array_equal(given, own, equal_nan=True):
                return tensor
            new = torch.tensor(given, dtype=tensor.dtype, device=tensor.device)
            if rows is not tensor and not last:
                new = new.mT
            return new.reshape(tensor.shape)

        x = torch.tensor(images, dtype=like.dtype, device=like.device)
        exactly = _unrounded() if double else nullcontext()
        with self._evaluated(), torch.no_grad(), exactly, hooked(module, stage) as seen:
            output = first_tensor(module(x))
            if output is None or _same(output, seen.gone):
                return
            # A head that was not called by its name, or something after it.
            own = seen.is_past("head") or not is_there(getattr(module, "head", output))
            seen("output" if own else "head", output)

    @contextmanager
    def _evaluated(self) -> Iterator[None]:
        """Evaluation mode, by the flags alone: a fork's train() may do more."""
        try:
            for part, _ in self._modes:
                part.training = False
            yield
        finally:
            for part, mode in self._modes:
                part.training = mode

    def exact(self) -> Side:
        """A copy in float64, in which `.float()` leaves float64 as it is."""
        return TorchModule(self._copy().double(), self.name)

    def drawn(self, seed: int) -> Side:
        """A copy whose parameters are drawn."""
        torch, module = _torch(), self._copy()
        with torch.no_grad():
            for key, parameter in module.named_parameters():
                if parameter.is_floating_point():
                    numbers = drawn(key, tuple(parameter.shape), seed)
                    parameter.copy_(torch.from_numpy(numbers))
        return TorchModule(module, self.name)

    def _copy(self) -> Any:
        try:
            return copy.deepcopy(self.module)
        except Exception as error:  # whatever stands against it
            raise TypeError(f"{self.name} cannot be copied: {error}") from error


def _array(tensor: Any) -> Array:
    """A tensor's numbers, an array of its own: float64 of float64, else float32."""
    if tensor.dtype != _torch().float64:
        tensor = tensor.float()
    return np.array(tensor.detach().cpu().numpy())


def _same(a: Any, b: Any) -> bool:
    """Are these the same numbers?"""
    if a is b:
        return True
    if b is None or a.shape != b.shape:
        return False
    return bool(_torch().allclose(a, b, rtol=0, atol=0, equal_nan=True))


def _channels_last(module: Any, patches: Any) -> bool:
    """Are patches (B, rows, columns, C) and not (B, C, rows, columns)?"""
    told = getattr(module.patch_embed, "output_fmt", None)
    if told is not None:
        return str(getattr(told, "value", told)) == "NHWC"
    width = getattr(module, "embed_dim", None)
    return bool(patches.shape[-1] == width and patches.shape[1] != width)


def _input_size(module: Any, cfg: Mapping[str, Any]) -> tuple[int, int, int]:
    """Channels, height, width: of the patch embedding, else as timm's defaults go."""
    embed = getattr(module, "patch_embed", None)
    channels, *size = cfg.get("input_size") or (3, 224, 224)
    kernels = (p for p in getattr(embed, "parameters", tuple)() if p.ndim == 4)
    channels = next((kernel.shape[1] for kernel in kernels), channels)
    told = getattr(embed, "img_size", None) or getattr(module, "img_size", None)
    if told is not None:
        size = [told, told] if isinstance(told, int) else list(told)
    return int(channels), int(size[0]), int(size[1])


def _unrounded() -> Any:
    """Lets float64 stay float64 where a forward rounds to float32, in this thread.

    timm resamples positions in float32 and rounds the lambda of differential attention
    to it, whatever the model's dtype. The exact answer does not.
    """
    torch = _torch()
    from torch.overrides import TorchFunctionMode

    class Unrounded(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if func in (torch.Tensor.float, torch.Tensor.to, torch.Tensor.type):
                wanted = (*args[1:], *kwargs.values())
                rounds = func is torch.Tensor.float or torch.float32 in wanted
                if rounds and args[0].dtype == torch.float64:
                    return args[0]
            return func(*args, **kwargs)

    return Unrounded()
