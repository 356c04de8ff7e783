# SPDX-License-Identifier: Apache-2.0
from collections.abc import Container, Mapping, Sequence
from typing import (
    Any,
    Literal,
    SupportsIndex,
    TypeAlias,
    TypedDict,
    final,
    type_check_only,
)

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import disjoint_base

__version__: str

# As vitpool.config.Pool, which mypy compares with it.
_Entry: TypeAlias = Literal["images", "block", "features", "pre_logits"]
_Loss: TypeAlias = Literal["cross_entropy", "binary_cross_entropy", "mse"]
_Pool: TypeAlias = Literal["", "avg", "avgmax", "max", "token", "map", "prr"]

@final
@type_check_only
class _Memory(TypedDict):
    weights: int
    workspace: int

@final
@type_check_only
class _Caches(TypedDict):
    l1d: int
    l2: int
    l3: int

@final
@type_check_only
class _Products(TypedDict):
    micro_kernel: str
    arithmetic: str

@final
@type_check_only
class _Config(TypedDict):
    target: str
    targets: list[str]
    micro_kernel: str
    tile: tuple[int, int]
    dtypes: dict[str, _Products]
    blis: str | None
    threads: int
    cpus: int
    caches: _Caches
    build: str

def set_num_threads(n: SupportsIndex, /) -> None: ...
def get_num_threads() -> int: ...
def show_config() -> _Config: ...
def normalize_u8(
    pixels: NDArray[np.uint8], mean: ArrayLike, std: ArrayLike, /
) -> NDArray[np.float32]: ...
def param_shapes(options: dict[str, Any], /) -> dict[str, tuple[int, ...]]: ...
def as_float32(object: Any, what: str, /) -> NDArray[np.float32]: ...
def adamw(
    w: NDArray[np.float32],
    m: NDArray[np.float32],
    v: NDArray[np.float32],
    g: NDArray[np.float32],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: SupportsIndex,
) -> None: ...
def sgd(
    w: NDArray[np.float32],
    buf: NDArray[np.float32],
    g: NDArray[np.float32],
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> None: ...
def lars(
    w: NDArray[np.float32],
    buf: NDArray[np.float32],
    g: NDArray[np.float32],
    lr: float,
    momentum: float,
    weight_decay: float,
    trust: float,
) -> None: ...
def squares(g: NDArray[np.float32], /) -> float: ...
def drop_bits(
    seed: SupportsIndex, site: SupportsIndex, image: SupportsIndex, count: SupportsIndex
) -> NDArray[np.uint32]: ...
def _fail_allocations_after(n: int, /) -> None: ...
def _set_limits(
    chunk_bytes: SupportsIndex = 0,
    block_keys: SupportsIndex = 0,
    block_queries: SupportsIndex = 0,
) -> None: ...
def _allocations() -> int: ...

@disjoint_base
class VisionTransformer:
    def __init__(
        self,
        options: dict[str, Any],
        weights: Mapping[str, Any] | None = None,
        seed: int = 0,
        weight_init: str = "",
        fix_init: bool = False,
        dtypes: Mapping[str, str] = {},
    ) -> None: ...
    @property
    def _serial(self) -> int: ...
    @property
    def _pool_serial(self) -> int: ...
    def _adopt(self, other: VisionTransformer, /) -> None: ...
    def _snapshot(self) -> VisionTransformer: ...
    def _options(self) -> dict[str, Any]: ...
    def _replace(
        self,
        options: dict[str, Any] | None,
        weights: Mapping[str, Any],
        untrained: Container[str] = (),
        dtypes: Mapping[str, str] = {},
        /,
    ) -> None: ...
    def _commit(
        self, before: VisionTransformer, after: VisionTransformer, /
    ) -> bool: ...
    def _lambdas(self) -> list[tuple[float, float]]: ...
    def _grid(self, height: int, width: int, /) -> tuple[int, int]: ...
    def _rope(self, height: int, width: int, /) -> NDArray[np.float32]: ...
    def _run(
        self,
        x: Any,
        output: SupportsIndex,
        attn_mask: Any = None,
        is_causal: bool = False,
        pos_embed: NDArray[np.float32] | None = None,
        depth: SupportsIndex = -1,
        taps: Sequence[tuple[int, int] | tuple[int, int, str]] = (),
        maps: Sequence[tuple[int, int]] = (),
        profile: bool = False,
        first: SupportsIndex | None = None,
        rope: NDArray[np.float32] | None = None,
        patches: bool = False,
    ) -> tuple[
        NDArray[np.float32] | None,
        list[NDArray[np.float32]],
        list[NDArray[np.float32]],
        dict[str, Any] | None,
    ]: ...
    def _gradients(
        self,
        x: Any,
        targets: Any,
        grads: dict[str, NDArray[np.float32]],
        /,
        *,
        entry: _Entry = "images",
        block: SupportsIndex = 0,
        loss: _Loss = "cross_entropy",
        weights: Any = None,
        scale: float = 1.0,
        groups: SupportsIndex = 1,
        rates: dict[str, float] | None = None,
        seed: SupportsIndex = 0,
        image: SupportsIndex = 0,
        checkpointing: bool = False,
        memory: SupportsIndex = 536870912,
        mask: Any = None,
        pos_embed: Any = None,
        rope: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]: ...
    def _run_part(
        self,
        path: str,
        x: Any,
        attn_mask: Any = None,
        is_causal: bool = False,
        rope: NDArray[np.float32] | None = None,
        /,
    ) -> NDArray[np.float32]: ...
    def forward_head(self, x: Any, pre_logits: bool = False) -> NDArray[np.float32]: ...
    def pool(self, x: Any, pool_type: _Pool | None = None) -> NDArray[np.float32]: ...
    def reset_classifier(
        self,
        num_classes: SupportsIndex,
        global_pool: _Pool | None = None,
        *,
        add_attn_pool: bool = False,
        seed: int = 0,
    ) -> None: ...
    def param_shapes(self) -> dict[str, tuple[int, ...]]: ...
    def _dtypes(self) -> dict[str, str]: ...
    def _integers(
        self, target: str, /
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]: ...
    def untrained(self) -> list[str]: ...
    def get_parameter(self, target: str, /) -> NDArray[np.float32]: ...
    def memory_bytes(self) -> _Memory: ...
    def release_workspace(self) -> None: ...
