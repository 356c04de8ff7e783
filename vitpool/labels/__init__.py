# SPDX-License-Identifier: Apache-2.0
"""What a classifier's outputs mean: names of the classes, and probabilities.

Names are those of a model's config, else ImageNet's, else the number.
"""

from __future__ import annotations

import functools
import gzip
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

# number of classes -> the letter of the set in data/imagenet21k.txt.gz (see
# tools/make_labels.py); as in timm, the count alone tells the sets apart
_LARGE = {11821: "a", 21841: "b", 21843: "c", 11221: "d"}


@functools.cache
def imagenet(num_classes: int) -> tuple[tuple[str, str], ...] | None:
    """(synset, description) of each class of the ImageNet set of that size, or None.

    Sizes known: 1000, 11821 (timm's 12k), 21841 (22k), 21843 (21k), 11221 (21k-miil).
    """
    data = resources.files(__package__) / "data"
    if num_classes == 1000:
        text = (data / "imagenet1k.txt").read_text(encoding="utf-8")
        rows = [line.split("\t") for line in text.splitlines()]
    elif num_classes in _LARGE:
        letter = _LARGE[num_classes]
        text = gzip.decompress((data / "imagenet21k.txt.gz").read_bytes()).decode()
        rows = [line.split("\t") for line in text.splitlines()]
        rows = [row for row in rows if letter in row[2]]
    else:
        return None
    return tuple((row[0], row[1]) for row in rows)


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax of logits (..., num_classes): each row sums to 1."""
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float32] = exp / exp.sum(axis=-1, keepdims=True)
    return result


def best(values: NDArray[np.float32], topk: int) -> NDArray[np.intp]:
    """Classes (B, topk) of the largest of values (B, K), the largest first.

    Of equal ones the lower number comes first; where topk is above K, all K are given.
    """
    return np.argsort(-values, axis=-1, kind="stable")[:, :topk]


class Labels:
    """The names of a classifier's outputs: `labels[index]` is what to show."""

    def __init__(self, names: Mapping[int, str], descriptions: Mapping[str, str]):
        self._names, self._descriptions = dict(names), dict(descriptions)

    def name(self, index: int) -> str:
        """The unique name (ImageNet: the synset); the number where there is none."""
        return self._names.get(index, str(index))

    def __getitem__(self, index: int) -> str:
        name = self.name(index)
        return self._descriptions.get(name, name)


def labels_for(cfg: Mapping[str, Any], num_classes: int) -> Labels:
    """Labels from a pretrained config, else ImageNet's by number, else numbers.

    cfg's label_names is a list, or a dict index -> name with gaps (JSON's keys are
    strings); label_descriptions a dict name -> text, or a list beside the names.
    Names for another number of classes than the model has are not used: they are the
    checkpoint's, from before its classifier was replaced.
    """
    names = cfg.get("label_names")
    descriptions = cfg.get("label_descriptions") or {}
    if names:
        if not isinstance(names, Mapping):
            names = dict(enumerate(names))
        named = {int(index): str(name) for index, name in names.items()}
        if max(named) < num_classes and cfg.get("num_classes") in (None, num_classes):
            if not isinstance(descriptions, Mapping):
                descriptions = dict(zip(named.values(), descriptions, strict=False))
            return Labels(named, {str(k): str(v) for k, v in descriptions.items()})
    known = imagenet(num_classes)
    if known is None:
        return Labels({}, {})
    return Labels({i: row[0] for i, row in enumerate(known)}, dict(known))
