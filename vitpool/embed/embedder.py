# SPDX-License-Identifier: Apache-2.0
"""A model and the pools to take from it; what tells its vectors from another's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import PIL

from .. import _core
from ..config import resolve, told_options
from ..model import POOLS, Pooling, digest
from ..registry import PACKAGED
from ..transforms import Transform

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
    *("init_values", "has_init_values", "global_pool", "head_init_scale"),
}


class Embedder(Pooling):
    """A model and the pools to take; see vitpool.model.Pooling."""

    def identity(self, transform: Transform) -> dict[str, Any]:
        """What makes two runs' vectors the same up to rounding, as JSON has it.

        That is every weight but the classifier's, and what it is kept in, every option
        that a vector depends on, by its value and not by what is default, the pools,
        the transform, and the version of the numbers. Not threads, batches, the
        machine, nor Pillow's release: their difference is one of rounding.
        """
        model = self.model
        options = told_options(resolve(model.config, model._family))
        heads = tuple(f"{head}." for head in model._heads)
        names = [n for n in model.param_shapes() if not n.startswith(heads)]
        told = {
            "format": FORMAT,
            "model": type(model).__name__,
            "options": {k: v for k, v in options.items() if k not in _NOT_COMPARED},
            "weights": digest(model, names),
            "pools": self.sizes,
            "transform": {"class": type(transform).__name__, **transform.options},
        }
        if model.dtype != "float32":  # said for eyes: the digest tells each weight's
            told["dtype"] = str(model.dtype)
        identity: dict[str, Any] = json.loads(json.dumps(told))
        return identity


def about(model: Any) -> dict[str, Any]:
    """What a run was made with, for who reads its files; nothing compares it.

    versions, and source: the name, the dtype and the options for which `create_model`
    gives such a model with its weights, as far as the model knows that.
    """
    cfg = model.pretrained_cfg or {}
    name, place = cfg.get("architecture"), cfg.get("source")
    if place == "local-dir" and cfg.get("file") and name not in PACKAGED:
        name = f"local-dir:{os.path.abspath(cfg['file'])}"
    elif place == "hf-hub" and cfg.get("hf_hub_id"):
        name = f"hf-hub:{cfg['hf_hub_id']}"
    elif name and cfg.get("tag"):
        name = f"{name}.{cfg['tag']}"
    options = {**model.config, "num_classes": 0}
    return {
        "source": {"name": name, "dtype": str(model.dtype), "options": options},
        "versions": {"vitpool": _core.__version__, "pillow": PIL.__version__},
    }


def difference(made: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words how an earlier run's identity differs from this one's; '' where not."""
    if "format" not in made:
        return "made by vitpool 0.1.0, which did not note all that is needed to go on"
    if made["format"] != now["format"]:
        return f"made in format {made['format']}, which is {now['format']} now"
    options, others = now["options"], made["options"]
    told = dict.fromkeys([*now, *made])  # a float32 model says no dtype
    differ = [k for k in told if k != "options" and made.get(k) != now.get(k)]
    differ += sorted(k for k in {*options, *others} if options.get(k) != others.get(k))
    return f"made with other {', '.join(differ)}" if differ else ""
