# SPDX-License-Identifier: Apache-2.0
"""Any order of load, reset, prune, resize, copy, pickle and forward, against a model of
the state in plain Python."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import rerun
from golden import recipe
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from models import BASE, refused

import vitpool
from vitpool.resample import resample_abs_pos_embed, resample_patch_embed

PLAIN = ["", "avg", "avgmax", "max", "token"]
POOLS = [*PLAIN, "map", "prr"]


class Model(RuleBasedStateMachine):
    """What a VisionTransformer holds: options, weights by key, the pool's identity."""

    @initialize(
        pool=st.sampled_from(POOLS),
        reg=st.integers(0, 2),
        no_embed_class=st.booleans(),
        block=st.sampled_from(["Block", "ParallelScalingBlock", "ParallelThingsBlock"]),
    )
    def build(self, pool: str, reg: int, no_embed_class: bool, block: str) -> None:
        options = BASE | {
            "depth": 3,
            "global_pool": pool,
            "reg_tokens": reg,
            "no_embed_class": no_embed_class,
            "block_fn": block,
        }
        self.model: Any = vitpool.VisionTransformer(**options, seed=1)
        self.weights = recipe.weights(self.model.param_shapes())
        self.model.load_state_dict(self.weights)
        self.pool, self.classes, self.depth = pool, 10, 3
        self.size, self.patch, self.prefix = 32, 16, 1 + reg
        self.embed_prefix = 0 if no_embed_class else 1 + reg
        self.held = self.model.attn_pool

    # -- what changes it --

    @rule(seed=st.integers(0, 9), part=st.sampled_from(["all", "body", "extra"]))
    def load(self, seed: int, part: str) -> None:
        new = recipe.weights(self.model.param_shapes(), seed)
        if part == "body":
            new = {k: v for k, v in new.items() if not k.startswith("head.")}
        missing = [k for k in self.weights if k not in new]
        extra = {"nothing": np.zeros(1, np.float32)} if part == "extra" else {}
        if missing or extra:
            with refused(ValueError, "state_dict"):
                self.model.load_state_dict(new | extra)
        result = self.model.load_state_dict(new | extra, strict=not (missing or extra))
        assert result == (missing, list(extra))
        self.weights |= new

    @rule(
        classes=st.integers(0, 12),
        pool=st.sampled_from([None, *POOLS]),
        add=st.booleans(),
        seed=st.integers(0, 3),
    )
    def reset(self, classes: int, pool: str | None, add: bool, seed: int) -> None:
        keeps = pool is None or pool == self.pool
        if pool in ("map", "prr") and not keeps and not add:
            with refused(ValueError, f"'{pool}'"):
                self.model.reset_classifier(classes, pool)
            return
        self.model.reset_classifier(classes, pool, add_attn_pool=add, seed=seed)
        if not keeps:
            self._drop("attn_pool.")
            self.pool = pool or ""
            self.held = self.model.attn_pool
        self._drop("head.")
        self.classes = classes
        fresh = [k for k in self.model.param_shapes() if k not in self.weights]
        assert all(k.startswith(("head.", "attn_pool.")) for k in fresh)
        self.weights |= {k: self.model.get_parameter(k) for k in fresh}

    @precondition(lambda self: self.depth > 1)
    @rule(last=st.integers(0, 2), norm=st.booleans(), head=st.booleans())
    def prune(self, last: int, norm: bool, head: bool) -> None:
        if last >= self.depth:
            with refused(ValueError, "indices"):
                self.model.prune_intermediate_layers([last])
            return
        kept = self.model.prune_intermediate_layers([0, last], norm, head)
        assert kept == [0, last]
        for i in range(last + 1, self.depth):
            self._drop(f"blocks.{i}.")
        self.depth = last + 1
        if norm:
            self._drop("norm.")
        if head:
            for part in ("head.", "fc_norm.", "attn_pool."):
                self._drop(part)
            self.pool, self.classes, self.held = "", 0, None

    @rule(size=st.sampled_from([16, 32, 48]), patch=st.sampled_from([8, 16, None]))
    def resize(self, size: int, patch: int | None) -> None:
        self.model.set_input_size(size, patch)
        old, self.size = self.size // self.patch, size
        if patch is not None and patch != self.patch:
            self.patch = patch
            key = "patch_embed.proj.weight"
            self.weights[key] = resample_patch_embed(self.weights[key], (patch, patch))
        new = self.size // self.patch
        if new != old:
            self.weights["pos_embed"] = resample_abs_pos_embed(
                self.weights["pos_embed"],
                new_size=(new, new),
                old_size=(old, old),
                num_prefix_tokens=self.embed_prefix,
            )

    @rule(how=st.sampled_from(["pickle", "deepcopy", "copy", "config"]))
    def replace(self, how: str) -> None:
        old = self.model
        if how == "pickle":
            self.model = pickle.loads(pickle.dumps(old))
        elif how == "config":
            self.model = vitpool.VisionTransformer(
                **old.config, weights=old.state_dict()
            )
        else:
            self.model = getattr(copy, how)(old)
        self.held = self.model.attn_pool
        old.reset_classifier(1)  # which is nothing to the copy

    @rule(what=st.sampled_from(["pool", "classes", "shape", "dtype", "size", "memory"]))
    def fail(self, what: str) -> None:
        if what == "pool":
            with refused(ValueError, "mean"):
                self.model.reset_classifier(3, "mean")
        elif what == "classes":
            with refused(ValueError, "num_classes"):
                self.model.reset_classifier(-1)
        elif what == "shape":
            wrong = self.weights | {"cls_token": np.zeros((1, 1, 33), np.float32)}
            with refused(ValueError, "cls_token"):
                self.model.load_state_dict(wrong)
        elif what == "dtype":
            last = list(self.weights)[-1]
            new = recipe.weights(self.model.param_shapes(), seed=77)
            with refused(TypeError, last):
                self.model.load_state_dict(new | {last: new[last].astype(np.int64)})
        elif what == "size":
            with refused(ValueError, "img_size"):
                self.model.set_input_size(1)
        else:
            vitpool._core._fail_allocations_after(3)
            try:
                with refused(MemoryError):
                    self.model.reset_classifier(3)
            finally:
                vitpool._core._fail_allocations_after(-1)

    def _drop(self, prefix: str) -> None:
        self.weights = {
            k: v for k, v in self.weights.items() if not k.startswith(prefix)
        }

    # -- what must hold then --

    @invariant()
    def weights_are_as_expected(self) -> None:
        state = self.model.state_dict()
        assert set(state) == set(self.weights)
        for key, value in state.items():
            assert value.tobytes() == self.weights[key].tobytes(), key

    @invariant()
    def facts_are_as_expected(self) -> None:
        model = self.model
        assert (model.global_pool, model.num_classes) == (self.pool, self.classes)
        assert (len(model.blocks), model.img_size) == (self.depth, (self.size,) * 2)
        assert model.attn_pool is self.held
        assert (self.held is None) == (self.pool not in ("map", "prr"))
        assert ("head.weight" in self.weights) == (self.classes > 0)

    @invariant()
    def forward_is_that_of_a_fresh_model(self) -> None:
        x = recipe.picture((2, 3, self.size, self.size))
        got = self.model(x)
        tokens = self.prefix + (self.size // self.patch) ** 2
        width = self.classes or 32
        assert got.shape == ((2, tokens, width) if self.pool == "" else (2, width))
        fresh = vitpool.VisionTransformer(**self.model.config, weights=self.weights)
        assert fresh(x).tobytes() == got.tobytes()


TestModel = rerun.seeded(Model).TestCase
TestModel.settings = rerun.settings(40, stateful_step_count=20)
