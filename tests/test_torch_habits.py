# SPDX-License-Identifier: Apache-2.0
"""What people write of habit about a torch module: taken where it is so, else refused.

tests/timm/test_card.py has the same with torch's own devices and dtypes.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from models import X, refused, small

import vitpool

# What is so already, and gives the module itself.
TAKEN: dict[str, Any] = {
    "eval": lambda m: m.eval(),
    "train(False)": lambda m: m.train(False),
    "mode": lambda m: m.train(mode=False),
    "requires_grad_": lambda m: m.requires_grad_(False),
    "cpu": lambda m: m.cpu(),
    "float": lambda m: m.float(),
    "to cpu": lambda m: m.to("cpu"),
    "to cpu:0": lambda m: m.to("cpu:0"),
    "to device": lambda m: m.to(device="cpu", non_blocking=True),
    "to float32": lambda m: m.to(np.float32),
    "to dtype": lambda m: m.to(dtype=np.dtype("float32")),
    "to both": lambda m: m.to("cpu", np.float32, True),
    "to an array": lambda m: m.to(X),
    "to nothing": lambda m: m.to(),
}
# What cannot be had: the error, and words of the sentence that says so.
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "train": (lambda m: m.train(), NotImplementedError, "inference only"),
    "train(True)": (lambda m: m.train(True), NotImplementedError, "state_dict"),
    "train(1)": (lambda m: m.train(1), TypeError, "int"),
    "gradients": (lambda m: m.requires_grad_(), NotImplementedError, "gradients"),
    "gradients 0": (lambda m: m.requires_grad_(0), TypeError, "int"),
    "cuda": (lambda m: m.cuda(), NotImplementedError, "CPU"),
    "cuda 0": (lambda m: m.cuda(0), NotImplementedError, "CPU"),
    "half": (lambda m: m.half(), NotImplementedError, "float32"),
    "bfloat16": (lambda m: m.bfloat16(), NotImplementedError, "float32"),
    "double": (lambda m: m.double(), NotImplementedError, "float32"),
    "compile": (lambda m: m.compile(mode="x"), NotImplementedError, "C already"),
    "zero_grad": (lambda m: m.zero_grad(), NotImplementedError, "gradients"),
    "apply": (lambda m: m.apply(print), NotImplementedError, "load_state_dict"),
    "hook": (
        lambda m: m.register_forward_hook(print),
        NotImplementedError,
        "forward_intermediates",
    ),
    "to cuda": (lambda m: m.to("cuda"), ValueError, "cuda"),
    "to cuda:1": (lambda m: m.to(device="cuda:1"), ValueError, "cuda:1"),
    "to 0": (lambda m: m.to(0), ValueError, "'0'"),
    "to float64": (lambda m: m.to(np.float64), ValueError, "float64"),
    "to float": (lambda m: m.to(float), ValueError, "float"),
    "to two": (lambda m: m.to("float16", dtype="float32"), ValueError, "one dtype"),
    "to bf16": (lambda m: m.to("bf16"), ValueError, "bfloat16"),
    "to an array": (lambda m: m.to(X.astype(np.float64)), ValueError, "float64"),
    "to a word": (lambda m: m.to(vice="cpu"), TypeError, "vice"),
}

of_what = pytest.mark.parametrize(
    "part",
    [lambda m: m, lambda m: m.blocks, lambda m: m.head, lambda m: m.blocks[0].attn],
    ids=["model", "blocks", "head", "attn"],
)


@of_what
@pytest.mark.parametrize("call", TAKEN.values(), ids=TAKEN)
def test_what_is_so_is_taken_and_gives_the_module(part: Any, call: Any) -> None:
    module = part(small())
    assert call(module) is module
    assert module.training is False


@of_what
@pytest.mark.parametrize(("call", "error", "word"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_had_is_refused_in_a_sentence(
    part: Any, call: Any, error: type[Exception], word: str
) -> None:
    model = small()
    with refused(error, word, model=model):
        call(part(model))


OTHER = {
    "float16": lambda m: m.to("cpu", dtype="float16"),
    "bfloat16": lambda m: m.to(ml_dtypes.bfloat16),
    "int8": lambda m: m.to(np.dtype("int8")),
}


@pytest.mark.parametrize("dtype", OTHER)
def test_another_dtype_is_another_model_and_no_other_part(dtype: str) -> None:
    model = small()
    state = model.state_dict()
    other = OTHER[dtype](model)
    assert (other.dtype, model.dtype) == (dtype, "float32")
    assert all(np.array_equal(v, state[k]) for k, v in model.state_dict().items())
    for part in (model.blocks, model.head, model.blocks[0].attn):
        with refused(ValueError, f"model.to({dtype!r})", model=model):
            OTHER[dtype](part)
    attn = other.blocks[0].attn
    assert OTHER[dtype](attn) is attn.to("cpu") is attn
    with refused(ValueError, "model.to('float32')", model=other):
        attn.float()


def test_training_is_a_fact_and_cannot_be_assigned() -> None:
    model = small()
    with refused(AttributeError, "training", "inference only", model=model):
        model.training = True


def test_checkpointing_of_gradients_is_off() -> None:
    model = small()
    model.set_grad_checkpointing(False)
    with refused(NotImplementedError, "gradients", model=model):
        model.set_grad_checkpointing()


def test_a_chain_of_habits_computes_what_the_model_does() -> None:
    model = small()
    chained = copy.deepcopy(model).eval().cpu().float().to("cpu").requires_grad_(False)
    np.testing.assert_array_equal(chained(X), model(X))
    assert chained is not model


def test_a_model_saves_itself_as_the_function_does(tmp_path: Path) -> None:
    model = small()
    method, function = tmp_path / "method", tmp_path / "function"
    labels = {"label_names": list("abcdefghij"), "label_descriptions": {"a": "first"}}
    model.save_pretrained(method, **labels)
    vitpool.save_pretrained(model, function, **labels)
    for name in ("config.json", "model.safetensors"):
        assert (method / name).read_bytes() == (function / name).read_bytes()
    with refused(ValueError, "label_names"):
        model.save_pretrained(method, label_names=list("abcdefghijk"))
