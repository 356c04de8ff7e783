# SPDX-License-Identifier: Apache-2.0
"""Who is audited: a `make`, and how its models are built, run and written down."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .drawing import Array, filled, pictures
from .kinds import Kind, kind_of
from .source import arguments, definition, options_of

# timm's names of pools; which of them a class has is found by trying.
POOLS = ("token", "avg", "max", "avgmax", "catavgmax", "map", "prr", "")
# Sides of a picture that are tried where nothing tells the model's own.
SIDES = (64, 96, 128, 160, 224)
LONG = 0.5  # seconds of a core, after which a model is copied rather than made again
MOST_KEPT = 3
SLOW = 0.2  # seconds of a core for a model that is made, drawn and run: fewer are, then


class Subject:
    """What the checks know of a classifier: nothing of it depends on torch or on us.

    Args:
        make: `make(**kwargs)` gives a new model.
        source: Python text after which `make` is that callable, for the snippets.
        input_size: (channels, height, width) of its pictures, where neither the model
            nor trying tells it.
        name: how a report calls it.
        kwargs: of the small model.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        *,
        source: str | None = None,
        input_size: tuple[int, int, int] | None = None,
        name: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        inner = make.func if isinstance(make, functools.partial) else make
        self.make = make
        self.kwargs = dict(kwargs or {})
        self.name = name or getattr(inner, "__qualname__", None) or type(inner).__name__
        self.source = definition(make) if source is None else source.strip()
        self.printed: list[str] = []  # what make and the model wrote
        self._input_size = input_size
        self._kept: dict[str, Any] = {}  # models by their kwargs, never handed out

    def build(self, **kwargs: Any) -> Any:
        """A new model of the small one's kwargs and these; raises what make raises.

        Of a model that takes long to make it is a copy of one made before.
        """
        key = repr(kwargs)
        if key in self._kept:
            return copy.deepcopy(self._kept[key])
        began = time.process_time()
        model = self.draw(**kwargs)
        if time.process_time() - began > LONG:
            while len(self._kept) >= MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = copy.deepcopy(model)
        return model

    def draw(self, **kwargs: Any) -> Any:
        """The same, made by `make` itself: its weights are drawn anew."""
        with self.quiet():
            return self.make(**copy.deepcopy(self.kwargs | kwargs))

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Keep what a model prints (`self.printed`) and warns of off the terminal."""
        text = io.StringIO()
        with (
            contextlib.redirect_stdout(text),
            contextlib.redirect_stderr(text),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            try:
                yield
            finally:
                if text.getvalue().strip():
                    self.printed.append(text.getvalue())

    def refusal(self, **kwargs: Any) -> Exception | None:
        """What `build(**kwargs)` raises, or None."""
        try:
            self.build(**kwargs)
        except Exception as error:
            return error
        return None

    @functools.cached_property
    def example(self) -> Any:
        """A model of the small one's kwargs, to look at: never change it."""
        return self.build()

    @functools.cached_property
    def slow(self) -> str:
        """Why fewer models are tried than of a small class, in words; '' where not."""
        self.run(self.example)
        began = time.process_time()
        model = self.build()
        self.fill(model)
        self.run(model)
        took = time.process_time() - began
        return f"a model takes {took:.1f} s" if took > SLOW else ""

    @functools.cached_property
    def kind(self) -> Kind:
        """How its models are handled: as torch modules, or as ones over arrays."""
        return kind_of(self.example)

    def pool(self, model: Any) -> str | None:
        """The name of the model's pool, as it or a module of it says; None: unsaid."""
        for module in (model, *self.kind.modules(model).values()):
            for attribute in ("global_pool", "pool_type"):
                name = getattr(module, attribute, None)
                if isinstance(name, str):
                    return name
        return None

    @functools.cached_property
    def pools(self) -> tuple[str, ...]:
        """The pool names that the constructor accepts, with classes or without.

        Empty where it has no such option. A model that tells of another pool than was
        asked for has not taken the name.
        """
        if "global_pool" not in self.options:
            return ()
        taken = []
        for pool in POOLS:
            for classes in ({}, {"num_classes": 0}):
                try:
                    told = self.pool(self.build(global_pool=pool, **classes))
                except Exception:
                    continue
                if told == pool or (told is None and self.refuses_unknown):
                    taken.append(pool)
                break
        return tuple(taken)

    @functools.cached_property
    def refuses_unknown(self) -> bool:
        """Whether the constructor refuses a pool that nobody has."""
        return self.refusal(global_pool="no pool") is not None

    @functools.cached_property
    def heeds_classes(self) -> bool:
        """Does make build a model of as many classes as are asked for, or refuse?"""
        try:
            model = self.build(num_classes=self.num_classes + 3)
        except Exception:
            return True
        return bool(model.num_classes == self.num_classes + 3)

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """The constructor's options by name, with their defaults (`inspect` 's empty).

        Those behind a **kwargs are found too, in `make` or in the model's own class.
        """
        return options_of(self.make) | options_of(type(self.example))

    @functools.cached_property
    def num_classes(self) -> int:
        """How many classes the small model has."""
        return int(self.example.num_classes)

    @functools.cached_property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width): as given or said, or the first that runs.

        Raises:
            ValueError: no size that was tried runs.
        """
        if self._input_size is not None:
            return self._input_size
        model = self.example
        cfg = getattr(model, "pretrained_cfg", None)
        configured = tuple(
            cfg.get("input_size", ()) if isinstance(cfg, Mapping) else ()
        )
        chans = self.kwargs.get("in_chans") or getattr(model, "in_chans", None)
        chans = int(chans or (configured[0] if configured else 3))
        said = (
            self.kwargs.get("img_size"),
            getattr(getattr(model, "patch_embed", None), "img_size", None),
            getattr(model, "img_size", None),
            *SIDES,
            configured[1:] or None,
        )
        why: Exception | None = None
        for side in said:
            if side is None:
                continue
            height, width = side if isinstance(side, (tuple, list)) else (side, side)
            size = (chans, int(height), int(width))
            try:
                self.run(model, pictures(2, size))
            except Exception as error:
                why = why or error
            else:
                return size
        raise ValueError(f"no size of picture runs: {why}; give input_size") from why

    def images(self, n: int = 2) -> Array:
        """n pictures (n, channels, height, width), float32, the same each time."""
        return pictures(n, self.input_size)

    def run(self, model: Any, images: Array | None = None) -> Array:
        """The model's output in eval mode, without gradients, as float32.

        Raises:
            TypeError: it is not one tensor.
            Exception: what forward raises.
        """
        given = self.images() if images is None else images
        with self.quiet():
            out = self.kind.run(model, given)
        if not hasattr(out, "shape"):
            raise TypeError(f"forward gives {type(out).__name__}, not one tensor")
        return self.kind.array(out)

    def call(self, model: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """A method's answer in eval mode: arrays go in and come out, at any depth."""
        return self._arrays(self.call_inside(model, method, *args, **kwargs))

    def call_inside(self, model: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """The same with the model's own tensors out, for another of its methods."""
        return self._called(model, getattr(model, method), *args, **kwargs)

    def applied(self, model: Any, part: Any, given: Any) -> Array:
        """The answer of a part: a vector goes into a 1x1 convolution too."""
        if "Conv2d" in repr(part) and len(given.shape) == 2:
            given = given[:, :, None, None]
            return self.kind.array(self._called(model, part, given))[:, :, 0, 0]
        return self.kind.array(self._called(model, part, given))

    def _called(self, model: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        with self.quiet(), self.kind.evaluated(model):
            given = [
                self.kind.tensor(model, arg) if isinstance(arg, np.ndarray) else arg
                for arg in args
            ]
            return function(*given, **kwargs)

    def _arrays(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: self._arrays(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([self._arrays(item) for item in value])
        return self.kind.array(value) if hasattr(value, "shape") else value

    def unused(self, model: Any) -> set[str]:
        """Keys of the trained parameters on which no output depends, in any mode."""
        with self.quiet():
            return self.kind.unused(model, self.images())

    def state(self, model: Any) -> dict[str, Array]:
        """The state dict, each array a copy."""
        return self.kind.state(model)

    def load(self, model: Any, state: Mapping[str, Array]) -> None:
        """Load a state dict, strictly."""
        self.kind.load(model, state)

    def fill(self, model: Any, seed: int = 0) -> None:
        """Load drawn weights that matter: the same key and shape, the same numbers."""
        keys = set(self.kind.parameters(model))
        self.load(model, filled(self.state(model), keys, seed))

    def reset(self, model: Any, *args: Any, **kwargs: Any) -> None:
        """`model.reset_classifier(...)`."""
        with self.quiet():
            model.reset_classifier(*args, **kwargs)

    def classifiers(self, model: Any) -> tuple[Any, ...]:
        """`model.get_classifier()` as a tuple; a distilled model has two."""
        found = model.get_classifier()
        return tuple(found) if isinstance(found, (tuple, list)) else (found,)

    def program(self, *lines: str) -> str:
        """A program that runs by itself: after what defines `make`, these lines."""
        return "\n".join([self.source, "", *lines, ""])

    def making(self, **kwargs: Any) -> str:
        """The lines that make `model` with the small one's kwargs and these."""
        imports: set[str] = set()
        given = ", ".join(arguments(self.kwargs | kwargs, imports))
        return "\n".join([*sorted(imports), f"model = make({given}).eval()"])

    def drawing(self) -> list[str]:
        """Lines of a snippet that give `model` weights that matter."""
        return self.kind.drawing

    def snippet(self, *lines: str, **kwargs: Any) -> str:
        """A program that runs by itself: builds `model` (eval), then these lines.

        A line may say `build(...)`: another model of these options and more; `make`;
        and `x`: pictures (2, channels, height, width), a tensor for a torch model, else
        an array. What is written alike for both, as `(a == b).all()` and
        `abs(a - b).max()`, need not know which.

        Args:
            *lines: Python text.
            **kwargs: over those of the small model.
        """
        text = "\n".join(lines)
        drawn: list[str] = []
        if re.search(r"\bx\b", text):
            drawn = [f"x = {self.kind.pictures((2, *self.input_size))}"]
        model = [self.making(**kwargs)]
        if re.search(r"\bbuild\(", text):
            *imports, made = model[0].splitlines()
            call = made.removeprefix("model = make(").removesuffix(").eval()")
            model = [
                *imports,
                "def build(**options):",
                f"    return make(**dict({call}) | options).eval()",
                "",
                "model = build()",
            ]
        whole = self.program(self.kind.seed, *model, *drawn, text)
        return f"{self.kind.imports}\n{whole}"
