# SPDX-License-Identifier: Apache-2.0
"""Class names: from the config, else ImageNet's by number, else the number."""

from __future__ import annotations

import pytest

from vitpool.labels import imagenet, labels_for


@pytest.mark.parametrize("size", [1000, 11221, 11821, 21841, 21843])
def test_imagenet_sets_have_their_size(size: int) -> None:
    rows = imagenet(size)
    assert rows is not None
    assert len(rows) == size == len({synset for synset, _ in rows})
    assert all(synset[0] == "n" and text for synset, text in rows)


def test_imagenet_1k_is_in_the_usual_order() -> None:
    labels = labels_for({}, 1000)
    assert labels[0] == "tench, Tinca tinca"
    assert (labels.name(285), labels[285]) == ("n02124075", "Egyptian cat")
    assert labels[999].startswith("toilet tissue")


def test_config_names_come_first() -> None:
    names = [f"c{i}" for i in range(1000)]
    assert labels_for({"label_names": names, "num_classes": 1000}, 1000)[7] == "c7"
    cfg = {"label_names": {"0": "a", "2": "c"}, "label_descriptions": {"a": "the a"}}
    labels = labels_for(cfg, 3)
    assert [labels[i] for i in range(3)] == ["the a", "1", "c"]
    assert labels.name(0) == "a"


def test_numbers_where_nothing_is_known() -> None:
    assert imagenet(17) is None
    assert labels_for({}, 17)[4] == "4"


def test_names_of_a_classifier_that_was_replaced_are_not_used() -> None:
    cfg = {"label_names": ["cat", "dog"], "num_classes": 2}
    assert labels_for(cfg, 2)[1] == "dog"
    assert labels_for(cfg, 5)[1] == "1"
