# SPDX-License-Identifier: Apache-2.0
"""vitpool.compare of live torch modules: timm's, its relatives', and forks'."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import prepare  # noqa: F401
import pytest
import reference
import timm
import torch
from dice import Dice, examples
from models import BASE
from test_random_configs import configuration, show
from timm.layers import attention_pool
from timm.models import vision_transformer as vit
from torch import nn

import vitpool
from vitpool.testing.comparison.opened import opened
from vitpool.testing.comparison.ours import Ours
from vitpool.testing.comparison.side import place
from vitpool.testing.comparison.torch_module import TorchModule

NARROW = {"embed_dim": 48, "num_heads": 4, "depth": 2, "num_classes": 5}


def made(name: str, **options: Any) -> Any:
    """One of timm's, small and in training mode, with weights that matter."""
    torch.manual_seed(0)
    module = timm.create_model(name, **{"img_size": 32, "depth": 2} | options)
    return opened(module).drawn(0).module.train()


# Each has something that the others have not, and what its stages are beside the usual.
RELATIVES: dict[str, tuple[Any, set[str]]] = {
    "vit": (lambda: made("vit_tiny_patch16_224"), {"norm", "head"}),
    "no classes": (lambda: made("vit_tiny_patch16_224", num_classes=0), {"norm"}),
    "any size": (
        lambda: made("vit_tiny_patch16_224", dynamic_img_size=True),
        {"norm", "head"},
    ),
    "clip": (
        lambda: made("vit_base_patch32_clip_224", img_size=64, **NARROW),
        {"norm_pre", "norm", "head"},
    ),
    "siglip": (
        lambda: made("vit_base_patch16_siglip_224", **NARROW),
        {"norm", "head"},
    ),
    "res_post": (
        lambda: made("vit_tiny_patch16_224", block_fn=vit.ResPostBlock),
        {"norm", "head"},
    ),
    "things": (
        lambda: made("vit_tiny_patch16_224", block_fn=vit.ParallelThingsBlock),
        {"norm", "head"},
    ),
    "eva": (
        lambda: made("eva02_tiny_patch14_224", img_size=28, num_classes=5),
        {"fc_norm", "head"},
    ),
    "eva with rope": (
        lambda: made("vit_small_patch16_rope_224", **NARROW),
        {"norm", "head"},
    ),
    "beit": (lambda: made("beit_base_patch16_224", **NARROW), {"fc_norm", "head"}),
    "distilled": (
        lambda: made("deit_tiny_distilled_patch16_224"),
        {"norm", "head", "head_dist", "output"},
    ),
}
each_relative = pytest.mark.parametrize(
    ("make", "own"), RELATIVES.values(), ids=RELATIVES
)


def pictures(side: Any) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, *side.input_size), np.float32)


def untouched(module: Any) -> bool:
    """Training, and without hooks."""
    return all(
        part.training and not part._forward_hooks and not part._forward_pre_hooks
        for part in module.modules()
    )


@each_relative
def test_the_stages_are_those_of_the_modules_own_forward(
    make: Any, own: set[str]
) -> None:
    module = make()
    side = TorchModule(module)
    x = pictures(side)
    stages = dict(side.stages(x))
    blocks = {f"blocks.{i}.{part}" for i in range(2) for part in ("attn", "mlp")}
    assert set(stages) == {"patch_embed", "pos_embed", *blocks, "pool"} | own
    assert sorted(stages, key=place) == list(stages)
    assert untouched(module)
    with torch.no_grad():
        want = copy.deepcopy(module).eval()(torch.from_numpy(x))
    assert list(stages.values())[-1].tobytes() == want.numpy().tobytes()


@each_relative
def test_what_replaces_a_stage_is_what_the_rest_computes_with(
    make: Any, own: set[str]
) -> None:
    """Each stage in turn is that of other pictures: so is all that follows."""
    side = TorchModule(make())
    x = pictures(side)
    others = dict(side.stages(x[::-1] * 0.5))
    for at in others:
        if at in ("head", "head_dist", "output"):
            continue
        run = side.stages(x)
        stage = next(run)
        for _ in others:
            name, output = stage
            apart = np.abs(output - others[name]).max() / np.abs(others[name]).max()
            # The two heads of a distilled model get tokens of their own.
            if place(name) > place(at) and not (at == "pool" and "head_dist" in own):
                assert apart < 3e-6, (at, name)
            elif place(name) <= place(at):
                assert apart > 1e-2, (at, name)
            try:
                stage = run.send(others[name] if name == at else None)
            except StopIteration:
                break


@each_relative
def test_a_module_and_itself_are_alike_to_the_bit(make: Any, own: set[str]) -> None:
    module = make()
    before = copy.deepcopy(module.state_dict())
    found = vitpool.compare(module, module, isolate=True, float64=True)
    assert found.ok
    assert all(row.largest == 0 for row in found.stages)
    assert all(row.reference_error < 3e-6 for row in found.stages)
    assert found.stages[2].reference_error > 1e-8
    assert untouched(module)
    assert all(
        torch.equal(before[key], now) for key, now in module.state_dict().items()
    )


def test_one_weight_of_block_7_says_block_7() -> None:
    module = made("vit_tiny_patch16_224", depth=9)
    fork = copy.deepcopy(module)
    with torch.no_grad():
        fork.blocks[7].mlp.fc1.weight[3, 5] += 1
    carried = vitpool.compare(module, fork)
    made_there = vitpool.compare(module, fork, isolate=True)
    assert carried.first.name == made_there.first.name == "blocks.7.mlp"
    assert [row.name for row in made_there.stages if not row.ok] == ["blocks.7.mlp"]
    assert [row.name for row in carried.stages if not row.ok][-1] == "head"


@pytest.mark.parametrize("example", examples(40))
def test_timm_and_vitpool_are_alike_in_any_configuration(example: int) -> None:
    """No false alarm, in the whole and stage by stage; the configuration is one."""
    dice = Dice("compare", example)
    options, seed = configuration(dice), dice.integer(0, 2**32)
    isolate = dice.pick(False, True)
    show(options=options, isolate=isolate)
    module = reference.build(options)
    reference.fill(module, seed)
    ours = vitpool.VisionTransformer(**options, weights=reference.state(module))
    size = options["img_size"]
    if "dynamic_img_size" in options:
        pairs = zip(size, options["patch_size"], strict=True)
        size = tuple(s // p * p for s, p in pairs)
    x = np.random.default_rng(seed).standard_normal((2, options["in_chans"], *size))
    for pair in ((module, ours), (ours, module)):
        found = vitpool.compare(*pair, x, isolate=isolate, rtol=1e-3)
        assert found.ok, str(found)
        assert not found.configuration, str(found)
        assert not found.parameters, str(found)


@pytest.mark.parametrize(
    "options",
    [
        {"global_pool": "map", "class_token": False},
        {"global_pool": "avg", "dynamic_img_size": True},
        {"attn_layer": "diff", "reg_tokens": 2},
        {"pre_norm": True, "block_fn": "ParallelScalingBlock"},
    ],
    ids=str,
)
def test_timm_and_vitpool_draw_the_same_weights(options: Any) -> None:
    options = BASE | {"depth": 2} | options
    module = reference.build(options)
    ours = vitpool.VisionTransformer(**options)
    before = reference.state(module)["head.weight"].copy()
    found = vitpool.compare(module, ours, randomize=True, float64=True)
    assert found.ok, str(found)
    assert not found.parameters
    assert all(row.times < 5 for row in found.stages if row.largest)
    # Two ways to float64, of which neither knows the other.
    exact = [
        dict(opened(side).drawn(0).exact().stages(pictures(opened(module))))
        for side in (module, ours)
    ]
    for name, output in exact[0].items():
        assert output.dtype == np.float64
        np.testing.assert_allclose(exact[1][name], output, rtol=0, atol=1e-11)
    assert (reference.state(module)["head.weight"] == before).all()


def test_randomize_shows_a_pool_with_another_gelu() -> None:
    """As a fork had it, whose fresh weights hide that."""
    torch.manual_seed(0)
    options = {"img_size": 32, "depth": 2, "num_classes": 10}
    module = timm.create_model("vit_base_patch16_siglip_224", **NARROW | options)
    fork = copy.deepcopy(module)
    fork.attn_pool.mlp.act = nn.GELU(approximate="tanh")
    fresh = vitpool.compare(module, fork)
    drawn = vitpool.compare(module, fork, randomize=True)
    pool = next(row for row in fresh.stages if row.name == "pool")
    assert pool.relative < 1e-5
    assert fresh.ok
    pool = next(row for row in drawn.stages if row.name == "pool")
    assert pool.relative > 1e-5
    assert isinstance(module.attn_pool, attention_pool.AttentionPoolLatent)


# -- forks --


class InPlace(vit.Block):
    """Adds to its input."""

    def forward(self, x: Any, **_: Any) -> Any:
        x += self.attn(self.norm1(x))
        x += self.mlp(self.norm2(x))
        return x


class Parallel(vit.Block):
    """Attention and MLP of one input: no stage between them."""

    def forward(self, x: Any, **_: Any) -> Any:
        return x + self.attn(self.norm1(x)) + self.mlp(self.norm2(x))


class SharedNorm(vit.Block):
    """The same of one norm."""

    def forward(self, x: Any, **_: Any) -> Any:
        y = self.norm1(x)
        return x + self.attn(y) + self.mlp(y)


class PostNorm(vit.Block):
    """As the first transformers: norms after the sums."""

    def forward(self, x: Any, **_: Any) -> Any:
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class Pair(vit.Block):
    """Gives attention beside its output."""

    def forward(self, x: Any, **_: Any) -> Any:
        return super().forward(x), x.mean()


class Scaled(vit.VisionTransformer):
    """Does something after the head."""

    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


class Chunked(vit.VisionTransformer):
    """Blocks in lists of lists, as DINOv2's code has them, that give pairs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        chunks = (nn.ModuleList([self.blocks[0]]), nn.ModuleList([nn.Identity()]))
        chunks[1].extend(self.blocks[1:])
        self.blocks = nn.ModuleList(chunks)

    def forward_features(self, x: Any, *_: Any, **__: Any) -> Any:
        x = self.norm_pre(self._pos_embed(self.patch_embed(x)))
        for block in (block for chunk in self.blocks for block in chunk):
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x
        return self.norm(x)


class Shared(vit.VisionTransformer):
    """One block, twice."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.blocks = nn.Sequential(self.blocks[0], self.blocks[0])


class Renamed(vit.VisionTransformer):
    """Calls its head by its weights."""

    def forward_head(self, x: Any, pre_logits: bool = False) -> Any:
        return nn.functional.linear(self.fc_norm(self.pool(x)), *self.head.parameters())


def fork(cls: Any = vit.VisionTransformer, **options: Any) -> Any:
    options = BASE | {"depth": 2} | options
    return opened(cls(**options)).drawn(0).module


SPLIT = [f"blocks.{i}.{part}" for i in range(2) for part in ("attn", "mlp")]
WHOLE = ["blocks.0", "blocks.1"]


@pytest.mark.parametrize(
    ("cls", "block", "blocks", "end"),
    [
        (vit.VisionTransformer, InPlace, SPLIT, ["head"]),
        (vit.VisionTransformer, Parallel, WHOLE, ["head"]),
        (vit.VisionTransformer, SharedNorm, WHOLE, ["head"]),
        (vit.VisionTransformer, PostNorm, WHOLE, ["head"]),
        (Scaled, vit.Block, SPLIT, ["head", "output"]),
        (Chunked, Pair, SPLIT, ["head"]),
        (Shared, vit.Block, SPLIT, ["head"]),
        (Renamed, vit.Block, SPLIT, ["head"]),
    ],
)
def test_forks_have_the_stages_that_they_compute(
    cls: Any, block: Any, blocks: list[str], end: list[str]
) -> None:
    module = fork(cls, block_fn=block)
    side = TorchModule(module)
    x = pictures(side)
    stages = dict(side.stages(x))
    assert list(stages) == ["patch_embed", "pos_embed", *blocks, "norm", "pool", *end]
    with torch.no_grad():
        want = module.eval()(torch.from_numpy(x)).numpy()
    assert list(stages.values())[-1].tobytes() == want.tobytes()
    others = dict(side.stages(x * 0.5))
    run = side.stages(x)
    stage = next(run)
    for _ in stages:
        # Each stage gets what the other pictures gave: isolate, at every stage.
        name, output = stage
        if name != "patch_embed":
            scale = np.abs(others[name]).max()
            assert np.abs(output - others[name]).max() < 3e-6 * scale, name
        try:
            stage = run.send(others[name])
        except StopIteration:
            break


def test_something_after_the_head_parts_from_what_has_nothing_there() -> None:
    found = vitpool.compare(fork(), fork(Scaled), isolate=True)
    assert [row.name for row in found.stages if not row.ok] == ["output"]
    assert found.first.relative == pytest.approx(1)


def test_a_fork_with_a_fault_is_told_the_stage() -> None:
    module = fork()
    other = copy.deepcopy(module)
    other.blocks[1].norm2.eps = 0.1
    found = vitpool.compare(module, other, isolate=True)
    assert [row.name for row in found.stages if not row.ok] == ["blocks.1.mlp"]
    assert [name for name, _, _ in found.configuration] == ["blocks.1.norm2.eps"]


# -- the caller's module --


def test_a_module_is_as_it_was_after_an_exception_and_an_early_end() -> None:
    class Stops(vit.Block):
        def forward(self, x: Any, **_: Any) -> Any:
            raise RuntimeError("stopped here")

    module = fork(block_fn=Stops).train()
    module.norm.training = False
    threads = threading.active_count()
    found = vitpool.compare(fork(), module)
    assert found.first.note == "the candidate stopped: RuntimeError: stopped here"
    names = [row.name for row in found.stages]
    assert names == ["patch_embed", "pos_embed", "blocks.0.attn"]
    with pytest.raises(RuntimeError, match="stopped here"):
        list(TorchModule(module).stages(pictures(opened(module))))
    run = TorchModule(module).stages(pictures(opened(module)))
    next(run)
    run.close()
    assert not module.norm.training
    module.norm.training = True
    assert untouched(module)
    assert threading.active_count() == threads


def test_a_callers_hooks_stay_and_run() -> None:
    module = fork()
    seen: list[Any] = []
    handle = module.norm.register_forward_hook(lambda *args: seen.append(1))
    assert vitpool.compare(module, fork()).ok
    assert seen == [1]
    assert list(module.norm._forward_hooks) == [handle.id]


def test_modules_of_half_precision_get_pictures_of_theirs() -> None:
    module = fork()
    found = vitpool.compare(module, copy.deepcopy(module).bfloat16(), rtol=0.1)
    assert found.ok
    assert found.first is None
    assert 1e-4 < max(row.relative for row in found.stages) < 0.1
    assert next(module.parameters()).dtype == torch.float32


def test_gradients_are_neither_asked_for_nor_left() -> None:
    module = fork()
    vitpool.compare(module, fork(), randomize=True)
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_tensors_are_pictures() -> None:
    module = fork()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert vitpool.compare(module, module, x).images == "2 given, (3, 32, 32)"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (lambda: nn.Linear(2, 2), ["Linear has no blocks", "patch_embed"]),
        (lambda: timm.create_model("resnet18"), ["ResNet has no blocks"]),
        (lambda: torch.compile(fork()), ["OptimizedModule", "._orig_mod"]),
        (lambda: nn.DataParallel(fork()), ["DataParallel", ".module"]),
    ],
)
def test_a_module_that_cannot_be_looked_into_says_why(
    module: Any, words: list[str]
) -> None:
    with pytest.raises(TypeError) as raised:
        vitpool.compare(module(), fork())
    assert all(word in str(raised.value) for word in words)


def test_a_module_that_cannot_be_copied_is_named() -> None:
    module = fork()
    module.lock = threading.Lock()
    with pytest.raises(ValueError, match="timm:VisionTransformer cannot be copied"):
        vitpool.compare(module, fork(), randomize=True)
    found = vitpool.compare(module, fork(), float64=True)
    assert "cannot be copied" in found.stages[0].note
    assert found.ok


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("vit_tiny_patch16_224", {"in_chans": 1, "img_size": 64}, (1, 64, 64)),
        ("vit_tiny_r_s16_p8_224", {"in_chans": 2, "img_size": 64}, (2, 64, 64)),
        ("naflexvit_base_patch16_gap", NARROW, (3, 384, 384)),
    ],
)
def test_pictures_are_of_the_size_that_a_module_has(
    name: str, options: Any, size: tuple[int, ...]
) -> None:
    assert opened(timm.create_model(name, **options)).input_size == size


def test_a_module_without_patch_embed_is_compared_from_where_it_is_known() -> None:
    module = timm.create_model("naflexvit_base_patch16_gap", **NARROW)
    x = np.zeros((1, 3, 64, 64), np.float32)
    found = vitpool.compare(module, module, x, isolate=True)
    assert found.ok
    assert [row.name for row in found.stages] == [
        "pos_embed", *SPLIT, "pool", "fc_norm", "head",
    ]  # fmt: skip


def test_a_module_of_a_name_is_called_by_it() -> None:
    found = vitpool.compare(made("vit_tiny_patch16_224"), fork())
    assert found.reference == "timm:vit_tiny_patch16_224"
    assert found.candidate == "timm:VisionTransformer"
    assert Ours(vitpool.VisionTransformer(**BASE)).name == "vitpool:VisionTransformer"
