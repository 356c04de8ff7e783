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
class _Config(TypedDict):
    target: str
    targets: list[str]
    micro_kernel: str
    tile: tuple[int, int]
    blis: str
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
        /,
    ) -> None: ...
    def _commit(
        self, before: VisionTransformer, after: VisionTransformer, /
    ) -> bool: ...
    def _lambdas(self) -> list[tuple[float, float]]: ...
    def _grid(self, height: int, width: int, /) -> tuple[int, int]: ...
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
    ) -> tuple[
        NDArray[np.float32] | None,
        list[NDArray[np.float32]],
        list[NDArray[np.float32]],
        dict[str, Any] | None,
    ]: ...
    def _run_part(
        self, path: str, x: Any, attn_mask: Any = None, is_causal: bool = False, /
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
    def untrained(self) -> list[str]: ...
    def get_parameter(self, target: str, /) -> NDArray[np.float32]: ...
    def memory_bytes(self) -> _Memory: ...
    def release_workspace(self) -> None: ...
