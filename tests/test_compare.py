# SPDX-License-Identifier: Apache-2.0
"""vitpool.compare: of models of ours, and of whatever else is no torch module."""

from __future__ import annotations

import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import BASE, X, refused, small

import vitpool
from vitpool import testing
from vitpool.testing.comparison import Side, Stages
from vitpool.testing.comparison.opened import opened
from vitpool.testing.comparison.ours import Ours
from vitpool.testing.comparison.relay import relayed
from vitpool.testing.comparison.side import place

BLOCKS: tuple[dict[str, Any], ...] = (
    {"init_values": 0.5},
    {"attn_layer": "diff"},
    {"block_fn": "ResPostBlock"},
    {"block_fn": "ParallelThingsBlock", "init_values": 0.5},
    {"block_fn": "ParallelScalingBlock"},
    {"block_fn": "DiffParallelScalingBlock"},
)
POOLS = ("", "avg", "avgmax", "max", "token", "map", "prr")
DIGIT = vitpool.samples()[0]


def changed(model: Any, key: str, by: float = 1.0) -> Any:
    """A copy of a model with another number in one parameter."""
    other = model.snapshot()
    numbers = np.array(model.get_parameter(key))
    numbers.flat[7] += by
    other.load_state_dict({key: numbers}, strict=False)
    return other


def parted(comparison: Any) -> list[str]:
    """The stages at which two part."""
    return [row.name for row in comparison.stages if not row.ok]


# -- stages --


@pytest.mark.parametrize("options", BLOCKS)
@pytest.mark.parametrize("pool", POOLS)
def test_stage_after_stage_has_the_bits_of_the_whole(options: Any, pool: str) -> None:
    own = {"depth": 2, "pre_norm": True, "reg_tokens": 1, "fc_norm": False}
    model = small(global_pool=pool, **own, **options)
    stages = dict(Ours(model).stages(X))
    assert stages["norm"].tobytes() == model.forward_features(X).tobytes()
    assert stages["head"].tobytes() == model(X).tobytes()
    assert sorted(stages, key=place) == list(stages)


@pytest.mark.parametrize("pool", ["avg", "map", ""])
def test_stages_of_pictures_of_any_size_have_the_bits_of_the_whole(pool: str) -> None:
    model = small(
        depth=1, dynamic_img_size=True, dynamic_img_pad=True, fc_norm=True,
        final_norm=True, global_pool=pool, no_embed_class=True,
    )  # fmt: skip
    x = recipe.picture((2, 3, 50, 70))
    *_, (name, logits) = Ours(model).stages(x)
    assert name == "head"
    tokens = model.forward_features(x)
    assert logits.tobytes() == model.forward_head(tokens).tobytes()


@pytest.mark.parametrize("options", BLOCKS)
def test_a_stage_that_is_replaced_is_what_the_rest_computes_with(options: Any) -> None:
    """Every stage replaced by what the model itself makes of other pictures."""
    model = small(depth=2, pre_norm=True, **options)
    y = recipe.picture(X.shape, 1)
    others = dict(Ours(model).stages(y))
    for at in others:
        run = Ours(model).stages(X)
        name, output = next(run)
        for _ in others:
            given = others[name] if name == at else None
            if place(name) > place(at):
                scale = np.abs(others[name]).max()
                assert np.abs(output - others[name]).max() < 2e-6 * scale
            try:
                name, output = run.send(given)
            except StopIteration:
                break


def test_a_model_without_classes_ends_with_its_features() -> None:
    names = [name for name, _ in Ours(small(num_classes=0, depth=0)).stages(X)]
    assert names == ["patch_embed", "pos_embed", "norm", "pool"]


def test_what_changes_in_the_model_meanwhile_changes_nothing() -> None:
    model = small()
    want = model(X)
    side = Ours(model)
    model.reset_classifier(3)
    assert dict(side.stages(X))["head"].tobytes() == want.tobytes()


# -- the comparison --


@pytest.mark.parametrize("isolate", [False, True])
def test_a_model_and_a_copy_are_alike_to_the_bit(isolate: bool) -> None:
    model = small(depth=2, global_pool="map")
    found = vitpool.compare(model, model.snapshot(), isolate=isolate)
    assert found.ok
    assert found.first is None
    assert not found.configuration
    assert not found.parameters
    assert all(row.largest == 0 for row in found.stages)
    names = ("attn", "mlp")
    blocks = [f"blocks.{i}.{name}" for i in range(2) for name in names]
    assert [row.name for row in found.stages] == [
        "patch_embed", "pos_embed", *blocks, "norm", "pool", "head",
    ]  # fmt: skip
    assert found.stages[0].shape == (3, 4, 32)
    assert found.images == "2 of seed 0 and a constant one, (3, 32, 32)"


def test_one_weight_of_a_block_is_found_with_isolate_and_without() -> None:
    model = small(depth=9)
    other = changed(model, "blocks.7.mlp.fc1.weight")
    carried = vitpool.compare(model, other)
    made = vitpool.compare(model, other, isolate=True)
    assert carried.first.name == made.first.name == "blocks.7.mlp"
    after = ["blocks.7.mlp", "blocks.8.attn", "blocks.8.mlp", "norm", "pool", "head"]
    assert parted(carried) == after
    assert parted(made) == ["blocks.7.mlp"]
    assert list(made.parameters.largest) == ["blocks.7.mlp.fc1.weight"]


@pytest.mark.parametrize(
    ("key", "stage"),
    [
        ("patch_embed.proj.bias", "patch_embed"),
        ("cls_token", "pos_embed"),
        ("norm_pre.weight", "norm_pre"),
        ("blocks.1.norm1.weight", "blocks.1.attn"),
        ("blocks.1.mlp.fc2.bias", "blocks.1.mlp"),
        ("norm.bias", "norm"),
        ("attn_pool.latent", "pool"),
        ("head.bias", "head"),
    ],
)
def test_each_part_is_found_at_its_stage_alone(key: str, stage: str) -> None:
    model = small(depth=2, global_pool="map", pre_norm=key.startswith("norm_pre"))
    if key.startswith("patch_embed"):
        model = small(depth=2, global_pool="map")
    found = vitpool.compare(model, changed(model, key), isolate=True)
    assert parted(found) == [stage]


def test_fc_norm_is_a_stage() -> None:
    model = small(global_pool="avg", fc_norm=True)
    found = vitpool.compare(model, changed(model, "fc_norm.bias"), isolate=True)
    assert parted(found) == ["fc_norm"]


def test_randomize_finds_what_fresh_weights_hide() -> None:
    """Behind an init_values of 1e-5 blocks do next to nothing."""
    options = BASE | {"depth": 2, "init_values": 1e-5, "seed": 0}
    gelu, other = (
        vitpool.VisionTransformer(**options, act_layer=act)
        for act in ("gelu", "quick_gelu")
    )
    fresh = vitpool.compare(gelu, other)
    assert fresh.ok
    assert str(fresh).splitlines()[0].endswith("randomized weights may show it")
    before = gelu(X).tobytes()
    found = vitpool.compare(gelu, other, randomize=True)
    assert found.randomize
    assert found.first.name == "blocks.0.mlp"
    assert ("blocks.0.mlp.act", "gelu", "quick_gelu") in found.configuration
    assert gelu(X).tobytes() == before
    assert vitpool.compare(gelu, vitpool.VisionTransformer(**options), seed=3,
                           randomize=True).ok  # fmt: skip


def test_drawn_weights_neither_explode_nor_vanish_in_many_blocks() -> None:
    side = Ours(small(depth=24, init_values=1e-5)).drawn(0)
    sizes = [np.abs(output).max() for _, output in side.stages(X)]
    assert min(sizes) > 1
    assert max(sizes) < 30


def test_float64_says_whose_error_it_is() -> None:
    model = small(depth=2)
    found = vitpool.compare(model, model.snapshot(), float64=True)
    for row in found.stages:
        assert 0 <= row.reference_error < 1e-6
        assert row.reference_error == row.candidate_error
        assert row.times == 0
    other = changed(model, "blocks.1.mlp.fc1.weight", 1e-3)
    found = vitpool.compare(model, other, float64=True, isolate=True, rtol=1e-6)
    assert found.first.name == "blocks.1.mlp"
    assert found.first.times > 10
    assert found.first.candidate_error < 1e-6


def test_other_depths_are_compared_as_far_as_both_go() -> None:
    found = vitpool.compare(small(depth=3), small(depth=2))
    notes = {row.name: row.note for row in found.stages if row.ok is None}
    assert notes == dict.fromkeys(
        ["blocks.2.attn", "blocks.2.mlp"], "only the reference has it"
    )
    assert ("depth", 3, 2) in found.configuration
    assert found.stages[-1].name == "head"
    assert not np.isnan(found.stages[-1].largest)


def test_blocks_that_cannot_be_split_are_compared_whole() -> None:
    whole = small(depth=2, block_fn="ParallelScalingBlock")
    found = vitpool.compare(small(depth=2), whole)
    names = [row.name for row in found.stages]
    assert names[2:4] == ["blocks.0", "blocks.1"]
    assert found.first.name == "blocks.0"


@pytest.mark.parametrize(
    "options", [{"in_chans": 1}, {"img_size": 48}, {"embed_dim": 64}]
)
def test_models_of_other_pictures_and_widths_are_told_apart(options: Any) -> None:
    found = vitpool.compare(small(), small(**options))
    assert not found.ok
    assert found.first.name == "patch_embed"
    assert found.first.note
    fact = next(iter(options))
    assert fact in [name for name, _, _ in found.configuration] or found.parameters


def test_what_stops_on_its_way_says_so_and_what_was_before_is_kept() -> None:
    class Stops(Ours):
        def stages(self, images: Any) -> Stages:
            for name, output in super().stages(images):
                if name == "norm":
                    raise RuntimeError("no such norm")
                yield name, output

    model = small()
    note = "stopped: RuntimeError: no such norm"
    found = vitpool.compare(model, Stops(model))
    assert [row.name for row in found.stages][-2:] == ["blocks.0.mlp", "norm"]
    assert found.first.note == f"the candidate {note}"
    assert found.first.ok is None
    found = vitpool.compare(Stops(model), model)
    assert found.first.note == f"the reference {note}"
    found = vitpool.compare(Stops(model), Stops(model))
    assert found.first.note == f"the reference {note}; the candidate {note}"
    assert parted(found) == ["output"]


def test_a_stage_is_gone_when_the_next_but_one_is_computed() -> None:
    alive: list[Any] = []
    most = 0

    class Watched(Ours):
        def stages(self, images: Any) -> Stages:
            nonlocal most
            for name, output in super().stages(images):
                own = output.copy()
                del output
                alive.append(weakref.ref(own))
                most = max(most, sum(ref() is not None for ref in alive))
                yield name, own
                del own

    model = small(depth=12)
    assert vitpool.compare(Watched(model), Watched(model)).ok
    assert len(alive) == 2 * 29
    assert most <= 6


# -- pictures --


def test_pictures_are_seeded_and_one_is_constant() -> None:
    seen = []

    class Seen(Ours):
        def stages(self, images: Any) -> Stages:
            seen.append(images)
            return super().stages(images)

    model = small(img_size=(32, 48))
    vitpool.compare(Seen(model), Seen(model), seed=5)
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0][:2], testing.images(model, 2, 5))
    assert (seen[0][2] == 1).all()


def test_pictures_may_be_any_batch_of_floats() -> None:
    model = small()
    want = vitpool.compare(model, model, X)
    assert want.images == "2 given, (3, 32, 32)"
    assert want.stages[0].shape == (2, 4, 32)
    half = vitpool.compare(model, model, X.astype(np.float16))
    assert half.ok


def test_files_are_prepared_by_each_side_and_compared_first() -> None:
    model = small()
    other = model.snapshot()
    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    other.pretrained_cfg = {"mean": (0.0, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    found = vitpool.compare(model, other, [DIGIT, str(DIGIT)])
    assert found.images == "2 files"
    assert [row.name for row in found.preprocessing] == [str(DIGIT)] * 2
    assert not any(row.ok for row in found.preprocessing)
    assert found.first.name == str(DIGIT)
    assert parted(found)[0] == "patch_embed"
    names = [name for name, _, _ in found.configuration]
    assert names == ["preprocessing.mean"]
    alone = vitpool.compare(model, other, DIGIT, isolate=True)
    assert not parted(alone)
    assert not alone.ok
    assert alone.first.name == str(DIGIT)


def test_a_side_that_prepares_no_pictures_gets_the_others() -> None:
    model = small()

    class Unsaid(Ours):
        def pixels(self, files: Any) -> Any:
            raise TypeError("it says nothing of pictures")

    found = vitpool.compare(Unsaid(model), model, [DIGIT])
    assert found.ok
    assert found.images == "1 file, prepared alike, since it says nothing of pictures"
    with refused(ValueError, "says nothing of pictures"):
        vitpool.compare(Unsaid(model), Unsaid(model), [DIGIT])


# -- sides --


def test_a_side_is_whatever_names_a_model(tmp_path: Path) -> None:
    model = vitpool.create_model("vit_digits", pretrained=True)
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    for side in (
        "vit_digits",
        f"local-dir:{tmp_path}",
        tmp_path,
        weights,
        {"model_name": "vit_digits", "checkpoint_path": str(weights)},
        Ours(model),
    ):
        found = vitpool.compare(model, side)
        assert found.ok, side
        assert not found.parameters


def test_a_record_is_a_side_either_way(tmp_path: Path) -> None:
    model = small(depth=2)
    path = tmp_path / "record.npz"
    testing.write_record(path, opened(model), intermediates=[0, 1])
    for pair in ((path, model), (model, testing.open_record(path))):
        found = vitpool.compare(*pair)
        assert found.ok
        assert "blocks.1" in [row.name for row in found.stages]
    found = vitpool.compare(path, changed(model, "blocks.1.mlp.fc1.weight"))
    assert found.first.name == "blocks.1"
    with refused(ValueError, "record.npz is a record, of other pictures"):
        vitpool.compare(path, model, X + 1)
    with refused(ValueError, "record.npz is a record: isolate needs a model"):
        vitpool.compare(model, path, isolate=True)
    with refused(ValueError, "record.npz is a record"):
        vitpool.compare(path, model, randomize=True)


@pytest.mark.parametrize("side", [None, 3, X, [small()], object(), b"vit_digits"])
def test_what_is_no_model_is_refused_by_name(side: Any) -> None:
    kind = type(side).__name__
    with refused(TypeError, f"reference: {kind}", "a vitpool model", "a torch module"):
        vitpool.compare(side, small())
    with refused(TypeError, f"candidate: {kind}"):
        vitpool.compare(small(), side)


def test_names_that_are_none_are_refused_with_near_ones() -> None:
    with refused(ValueError, "vit_digits"):
        vitpool.compare("vit_digit", "vit_digits")


@pytest.mark.parametrize(
    ("error", "word", "options"),
    [
        (ValueError, "rtol", {"rtol": -1.0}),
        (ValueError, "rtol", {"rtol": float("nan")}),
        (TypeError, "atol", {"atol": "0"}),
        (TypeError, "float64", {"float64": 1}),
        (TypeError, "isolate", {"isolate": "yes"}),
        (TypeError, "randomize", {"randomize": None}),
        (TypeError, "seed", {"seed": 0.5}),
        (ValueError, "seed", {"seed": -1}),
        (ValueError, "images", {"images": []}),
        (ValueError, "(B, C, H, W)", {"images": X[0]}),
        (ValueError, "(B, C, H, W)", {"images": X[:0]}),
        (TypeError, "images", {"images": 3}),
        (FileNotFoundError, "nothing.png", {"images": "nothing.png"}),
        (ValueError, "the reference stopped", {"images": X[:, :1]}),
        (ValueError, "the reference stopped", {"images": X[:, :, :16]}),
    ],
)
def test_bad_arguments_are_refused(
    error: type[Exception], word: str, options: Any
) -> None:
    with refused(error, word):
        vitpool.compare(small(), small(), **options)


def test_a_side_without_float64_is_named_and_the_other_goes_on() -> None:
    class Single(Ours):
        def exact(self) -> Side:
            raise TypeError("no float64 here")

    model = small()
    found = vitpool.compare(model, Single(model), float64=True)
    assert found.stages[0].note == "no float64 here"
    assert found.stages[0].reference_error is not None
    assert found.stages[0].candidate_error is None
    assert found.ok
    with refused(ValueError, "no float64 here"):
        vitpool.compare(Single(model), Single(model), float64=True)


# -- parts of it --


def test_stages_have_a_place_and_other_names_have_none() -> None:
    order = [
        "patch_embed", "pos_embed", "norm_pre", "blocks.0.attn", "blocks.0.mlp",
        "blocks.2", "blocks.10.attn", "blocks.10.mlp", "norm", "pool", "fc_norm",
        "head", "head_dist", "output",
    ]  # fmt: skip
    mixed = [*order[6:], *order[:6]]
    assert sorted(mixed, key=place) == order
    assert place("blocks.3") == place("blocks.3.mlp")
    for name in ("", "blocks", "blocks.01", "blocks.1.norm", "neck", "blocks.-1"):
        with refused(ValueError, repr(name)):
            place(name)


def test_a_relay_ends_where_it_stands_when_nobody_listens() -> None:
    done: list[str] = []

    def compute(say: Any) -> None:
        try:
            done.append(say(1))
            try:
                say(2)
            except Exception:
                done.append("caught")
        finally:
            done.append("unwound")

    run = relayed(compute)
    assert next(run) == 1
    assert run.send("answer") == 2
    run.close()
    assert done == ["answer", "unwound"]


def test_a_relay_raises_what_was_raised() -> None:
    def compute(say: Any) -> None:
        say(1)
        raise KeyError("lost")

    run = relayed(compute)
    next(run)
    with pytest.raises(KeyError, match="lost"):
        run.send(None)


def test_nothing_of_it_is_loaded_before_it_is_asked_for() -> None:
    program = (
        "import sys, vitpool; assert not any('testing' in m for m in sys.modules); "
        "vitpool.compare; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
