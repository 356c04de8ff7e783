# SPDX-License-Identifier: Apache-2.0
"""torch.nn.Module's switches: those that ask for what is so, and why the others fail.

A model here computes float32 on the CPU, without gradients. What torch would change to
that is taken and changes nothing; what it would change to something else is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from typing_extensions import Self

# What `to` may be told, by the name of a device or dtype.
_HERE = ("cpu", "cpu:0", "float32")


def _refused(why: str) -> Callable[..., NoReturn]:
    def method(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(why)

    method.__doc__ = f"NotImplementedError: {why}."
    return method


class Switches:
    """The methods of torch's modules that set how they run."""

    __slots__ = ()

    @property
    def training(self) -> bool:
        """False: what is computed is inference."""
        return False

    def eval(self) -> Self:
        """Itself: a model is always in evaluation mode."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Itself for False. NotImplementedError for True, TypeError for no bool."""
        if not isinstance(mode, bool):
            raise TypeError(f"mode must be a bool, not {type(mode).__name__}")
        if mode:
            raise NotImplementedError(
                "vitpool computes inference only: train timm's model in torch and load "
                "its state_dict here; eval() and train(False) are taken"
            )
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Itself for False. NotImplementedError for True, TypeError for no bool."""
        if not isinstance(requires_grad, bool):
            raise TypeError(
                f"requires_grad must be a bool, not {type(requires_grad).__name__}"
            )
        if requires_grad:
            raise NotImplementedError("vitpool computes no gradients")
        return self

    def to(
        self,
        *args: Any,
        device: Any = None,
        dtype: Any = None,
        non_blocking: bool = False,
        memory_format: Any = None,
    ) -> Self:
        """Itself, for the CPU and float32, by torch's or NumPy's name or of a tensor.

        non_blocking and memory_format mean nothing here. ValueError: another device or
        dtype.
        """
        for given in (*args, device, dtype):
            has_both = hasattr(given, "device") and hasattr(given, "dtype")
            if has_both and not isinstance(given, type):  # a tensor
                self.to(device=given.device, dtype=given.dtype)
                continue
            name = getattr(given, "__name__", str(given)).removeprefix("torch.")
            if given is not None and not isinstance(given, bool) and name not in _HERE:
                raise ValueError(
                    f"vitpool computes on the CPU in float32, not {name!r}: 'cpu' and "
                    "float32 are taken"
                )
        return self

    def cpu(self) -> Self:
        """Itself: it is there."""
        return self

    def float(self) -> Self:
        """Itself: it is float32."""
        return self

    cuda = xpu = _refused("vitpool computes on the CPU alone")
    half = bfloat16 = double = _refused(
        "vitpool computes in float32 alone; float16, bfloat16 and float64 inputs are "
        "converted"
    )
    compile = _refused("the model is compiled C already: call it as it is")
    zero_grad = _refused("vitpool computes no gradients")
    apply = _refused(
        "a part's weights are assigned, as model.head.weight = array, or loaded with "
        "load_state_dict; no function is applied to modules"
    )
    register_forward_hook = register_forward_pre_hook = _refused(
        "there are no hooks: forward_intermediates gives the outputs of blocks and "
        "return_attn their attention"
    )
    register_full_backward_hook = _refused("vitpool computes no gradients")
