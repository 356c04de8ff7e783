# SPDX-License-Identifier: Apache-2.0
"""A model and the pools to take from it; what tells its vectors from another's."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import PIL

from .. import _core
from ..config import resolve
from ..model import POOLS, Pooling
from ..registry import PACKAGED
from ..transforms import Transform, default_workers

__all__ = ["FORMAT", "POOLS", "Embedder", "about", "difference"]

# The version of what `Embedder.identity` tells and of the numbers behind it. It goes up
# when a vector or a pixel of the same model becomes another, beyond rounding, and with
# the columns that a row has.
FORMAT = 3

# What no vector depends on: the classifier, what other sizes the model would take (the
# transform says which it gets), where its scales began (they are weights), and its own
# pool (the norms that follow from that are options themselves).
_NOT_COMPARED = {
    *("num_classes", "dynamic_img_size", "dynamic_img_pad"),
    *("init_values", "has_init_values", "global_pool"),
}


class Embedder(Pooling):
    """A model and the pools to take; see vitpool.model.Pooling."""

    def identity(self, transform: Transform) -> dict[str, Any]:
        """What makes two runs' vectors the same up to rounding, as JSON has it.

        That is every weight but the classifier's, every option that a vector depends
        on, by its value and not by what is default, the pools, the transform, and the
        version of the numbers. Not threads, batches, the machine, nor Pillow's release:
        their difference is one of rounding.
        """
        model = self.model
        options = resolve(model.config)
        told = {
            "format": FORMAT,
            "model": type(model).__name__,
            "options": {k: v for k, v in options.items() if k not in _NOT_COMPARED},
            "weights": self._digest(),
            "pools": self.sizes,
            "transform": {"class": type(transform).__name__, **transform.options},
        }
        identity: dict[str, Any] = json.loads(json.dumps(told))
        return identity

    def _digest(self) -> str:
        """A text that changes with any weight; tensor by tensor, on all processors."""

        def one(name: str) -> bytes:
            array = self.model.get_parameter(name)
            digest = hashlib.blake2b(f"{name} {array.shape}".encode(), digest_size=16)
            digest.update(array)
            return digest.digest()

        names = [n for n in self.model.param_shapes() if not n.startswith("head.")]
        with ThreadPoolExecutor(default_workers()) as pool:
            whole = b"".join(pool.map(one, names))
        return hashlib.blake2b(whole, digest_size=16).hexdigest()


def about(model: Any) -> dict[str, Any]:
    """What a run was made with, for who reads its files; nothing compares it.

    versions, and source: the name and the options for which `create_model` gives such a
    model with its weights, as far as the model knows that.
    """
    cfg = model.pretrained_cfg or {}
    name, place = cfg.get("architecture"), cfg.get("source")
    if place == "local-dir" and cfg.get("file") and name not in PACKAGED:
        name = f"local-dir:{os.path.abspath(cfg['file'])}"
    elif place == "hf-hub" and cfg.get("hf_hub_id"):
        name = f"hf-hub:{cfg['hf_hub_id']}"
    elif name and cfg.get("tag"):
        name = f"{name}.{cfg['tag']}"
    return {
        "source": {"name": name, "options": {**model.config, "num_classes": 0}},
        "versions": {"vitpool": _core.__version__, "pillow": PIL.__version__},
    }


def difference(made: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words how an earlier run's identity differs from this one's; '' where not."""
    if "format" not in made:
        return "made by vitpool 0.1.0, which did not note all that is needed to go on"
    if made["format"] != now["format"]:
        return f"made in format {made['format']}, which is {now['format']} now"
    options, others = now["options"], made["options"]
    differ = [k for k in now if k != "options" and made.get(k) != now[k]]
    differ += sorted(k for k in {*options, *others} if options.get(k) != others.get(k))
    return f"made with other {', '.join(differ)}" if differ else ""
