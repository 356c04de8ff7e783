# SPDX-License-Identifier: Apache-2.0
"""torch.nn.Module's switches: those that ask for what is so, and why the others fail.

A model here computes on the CPU, without gradients. What torch would change to what is
so is taken and changes nothing; what it would change to something else is refused, but
for a whole model's dtype, of which `to` makes another model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from ...config import DTYPES

if TYPE_CHECKING:
    from typing_extensions import Self

# The device that there is, by its names.
_CPU = ("cpu", "cpu:0")


def asked_for(given: Iterable[Any]) -> str | None:
    """The dtype that arguments of torch's `to` name, or None: none of them does.

    Devices and dtypes are known by name, NumPy's or torch's, or of a tensor; bools and
    None are passed over. ValueError: another device or dtype, or two dtypes.
    """
    names: dict[str, None] = {}
    for one in given:
        has_both = hasattr(one, "device") and hasattr(one, "dtype")
        if has_both and not isinstance(one, type):  # a tensor
            names |= {_name_of(one.device): None, _name_of(one.dtype): None}
        elif one is not None and not isinstance(one, bool):
            names[_name_of(one)] = None
    dtypes = [name for name in names if name not in _CPU]
    for name in dtypes:
        if name not in DTYPES:
            raise ValueError(
                f"vitpool computes on the CPU, with weights in {', '.join(DTYPES)}, "
                f"not {name!r}: 'cpu' and these are taken"
            )
    if len(dtypes) > 1:
        raise ValueError(f"one dtype can be asked for, not {' and '.join(dtypes)}")
    return dtypes[0] if dtypes else None


def _name_of(given: Any) -> str:
    return str(getattr(given, "__name__", given)).removeprefix("torch.")


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
                "a model computes inference only: vitpool.train.Trainer trains it, and "
                "load_state_dict takes what torch has; eval(), train(False) are taken"
            )
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Itself for False. NotImplementedError for True, TypeError for no bool."""
        if not isinstance(requires_grad, bool):
            raise TypeError(
                f"requires_grad must be a bool, not {type(requires_grad).__name__}"
            )
        if requires_grad:
            raise NotImplementedError(
                "a model keeps no gradients: vitpool.train.gradients gives them"
            )
        return self

    def to(
        self,
        *args: Any,
        device: Any = None,
        dtype: Any = None,
        non_blocking: bool = False,
        memory_format: Any = None,
    ) -> Self:
        """Itself, for the CPU and the dtype it has, by torch's or NumPy's name or of a
        tensor.

        non_blocking and memory_format mean nothing here. ValueError: another device or
        dtype; model.to(dtype) makes a model of another one.
        """
        name = asked_for((*args, device, dtype))
        kept = {dtype.removesuffix("_a16") for dtype in self._kept_as()} | {"float32"}
        if name is not None and kept != {name, "float32"}:
            raise ValueError(
                f"the weights of a part are what its model keeps them as, not {name}: "
                f"model.to({name!r}) makes a model whose are"
            )
        return self

    def _kept_as(self) -> set[str]:
        """The dtypes of the parameters below."""
        raise NotImplementedError

    def cpu(self) -> Self:
        """Itself: it is there."""
        return self

    def float(self) -> Self:
        """to('float32'): itself, where it is that."""
        return self.to("float32")

    cuda = xpu = _refused("vitpool computes on the CPU alone")
    half = _refused(
        "a model does not change its dtype, which is float32 where nothing else was "
        "asked for: model.to('float16') makes one of float16 weights"
    )
    bfloat16 = _refused(
        "a model does not change its dtype, which is float32 where nothing else was "
        "asked for: model.to('bfloat16') makes one of bfloat16 weights"
    )
    double = _refused(
        "vitpool computes in float32 and less; float64 inputs are converted"
    )
    compile = _refused("the model is compiled C already: call it as it is")
    zero_grad = _refused(
        "a model keeps no gradients: vitpool.train.gradients gives them"
    )
    apply = _refused(
        "a part's weights are assigned, as model.head.weight = array, or loaded with "
        "load_state_dict; no function is applied to modules"
    )
    register_forward_hook = register_forward_pre_hook = _refused(
        "there are no hooks: forward_intermediates gives the outputs of blocks and "
        "return_attn their attention"
    )
    register_full_backward_hook = _refused(
        "a model keeps no gradients: vitpool.train.gradients gives them"
    )
