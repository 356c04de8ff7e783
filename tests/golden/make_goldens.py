# SPDX-License-Identifier: Apache-2.0
"""Write timm's outputs on small models: cases.json and outputs.npz in this folder.

    python tests/golden/make_goldens.py

This is the only script that writes them. It needs timm 1.0.31 and torch; the tests
that read the files need neither. A case holds the constructor options (in vitpool's
words), the seed of the recipe for weights and picture, calls made before the weights
are loaded, timm's parameter shapes, and for each output its shape and the largest error
of timm's float32. The outputs themselves are timm's in float64, one after another.
"""

from __future__ import annotations

import copy
import itertools
import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent / "timm")]

import measure  # noqa: E402
import numpy as np  # noqa: E402
import prepare  # noqa: E402, F401
import reference  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from golden import recipe  # noqa: E402

BASE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 16,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 10,
}
POOLS = ("", "avg", "avgmax", "max", "token", "map", "prr")
NORMS = {None: "default", True: "fc", False: "nofc"}
INIT = {"init_values": 0.1}


def case(name: str, options: dict[str, Any], **extra: Any) -> dict[str, Any]:
    return dict(name=name, options=BASE | options, **extra)


def pools() -> list[dict[str, Any]]:
    """Every pool, with and without the class token, and with prefix tokens included."""
    out = []
    for pool, cls in itertools.product(POOLS, (True, False)):
        if pool == "token" and not cls:
            continue
        name = f"pool_{pool or 'none'}_{'cls' if cls else 'nocls'}"
        out.append(case(name, {"global_pool": pool, "class_token": cls}))
        if pool and pool != "token":
            options = {
                "global_pool": pool,
                "class_token": cls,
                "reg_tokens": 2,
                "pool_include_prefix": True,
            }
            out.append(case(f"{name}_prefix_included", options))
    return out


def prefixes() -> list[dict[str, Any]]:
    """Class token, 0 to 3 register tokens, positions for patches only or for all."""
    out = []
    layouts = itertools.product((True, False), range(4), (False, True))
    for cls, reg, patches_only in layouts:
        for pool in ("avg", "token", "map", "prr"):
            if (pool == "token" and not cls) or (pool == "prr" and reg not in (0, 2)):
                continue
            options: dict[str, Any] = {
                "global_pool": pool,
                "class_token": cls,
                "reg_tokens": reg,
                "no_embed_class": patches_only,
            }
            where = "patches" if patches_only else "all"
            name = f"prefix_{pool}_{'cls' if cls else 'nocls'}_reg{reg}_pos_{where}"
            out.append(case(name, options))
    for cls, reg in itertools.product((True, False), (0, 2)):
        options = {
            "global_pool": "avg",
            "class_token": cls,
            "reg_tokens": reg,
            "pos_embed": "none",
        }
        name = f"prefix_avg_{'cls' if cls else 'nocls'}_reg{reg}_pos_none"
        out.append(case(name, options))
    return out


def norms() -> list[dict[str, Any]]:
    """norm_pre, norm and fc_norm in every placement."""
    out = []
    for pool, final, fc in itertools.product(
        ("", "avg", "max", "token", "map", "prr"), (True, False), (None, True, False)
    ):
        options: dict[str, Any] = {
            "global_pool": pool,
            "final_norm": final,
            "fc_norm": fc,
        }
        name = f"norm_{pool or 'none'}_{'final' if final else 'nofinal'}_{NORMS[fc]}"
        out.append(case(name, options))
        if pool in ("avg", "token") and fc is None:
            out.append(case(f"{name}_pre", options | {"pre_norm": True}))
    for pool in ("avg", "token", "map"):
        out.append(
            case(f"layer_scale_{pool}", INIT | {"global_pool": pool, "depth": 2})
        )
    return out


def options() -> list[dict[str, Any]]:
    """Each constructor option away from its default."""
    norm_specs: dict[str, Any] = {
        "rms": "rmsnorm",
        "rms_eps5": ["rmsnorm", 1e-5],
        "layer_eps5": ["layernorm", 1e-5],
        "layer_eps1": ["layernorm", 0.1],
    }
    table: dict[str, dict[str, Any]] = {}
    for name, spec in norm_specs.items():
        table[f"norm_layer_{name}"] = {"norm_layer": spec, "pre_norm": True}
        table[f"norm_layer_{name}_map"] = {"norm_layer": spec, "global_pool": "map"}
        table[f"embed_norm_{name}"] = {"embed_norm_layer": spec}
    for act in ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu"):
        table[f"act_{act}"] = {"act_layer": act, "global_pool": "map"}
        for mlp in ("GluMlp", "SwiGLUPacked", "SwiGLU"):
            table[f"mlp_{mlp}_{act}"] = {"mlp_layer": mlp, "act_layer": act}
    for mlp in ("Mlp", "GluMlp", "SwiGLUPacked", "SwiGLU"):
        table[f"mlp_{mlp}_default"] = {"mlp_layer": mlp, "mlp_ratio": 3}
        table[f"mlp_{mlp}_scale_norm"] = {"mlp_layer": mlp, "scale_mlp_norm": True}
        table[f"mlp_{mlp}_nobias"] = {"mlp_layer": mlp, "proj_bias": False}
    blocks = (
        "Block",
        "ResPostBlock",
        "ParallelScalingBlock",
        "ParallelThingsBlock",
        "DiffParallelScalingBlock",
    )
    for block in blocks:
        plain: dict[str, Any] = {"block_fn": block, "depth": 2}
        table[f"{block}_default"] = plain
        table[f"{block}_layer_scale"] = plain | INIT
        table[f"{block}_scale_of_zero"] = plain | {"init_values": 0.0}
        table[f"{block}_qk_norm"] = plain | {"qk_norm": True}
        table[f"{block}_qkv_nobias"] = plain | {"qkv_bias": False}
        table[f"{block}_proj_nobias"] = plain | {"proj_bias": False}
        table[f"{block}_rmsnorm_silu"] = plain | {
            "norm_layer": "rmsnorm",
            "act_layer": "silu",
            "qk_norm": True,
        }
        table[f"{block}_relu"] = plain | {"act_layer": "relu"}
        table[f"{block}_map"] = plain | {"global_pool": "map"}
        if "Scaling" not in block:
            table[f"{block}_scale_norms"] = plain | {
                "scale_attn_norm": True,
                "scale_mlp_norm": True,
            }
            table[f"{block}_diff"] = plain | {"attn_layer": "diff"}
            table[f"{block}_diff_norms"] = plain | {
                "attn_layer": "diff",
                "qk_norm": True,
                "scale_attn_norm": True,
                "qkv_bias": False,
            }
            table[f"{block}_swiglu"] = plain | {"mlp_layer": "SwiGLU"}
    table["mlp_ratio_not_whole"] = {"mlp_ratio": 2.67}
    table["mlp_ratio_half"] = {"mlp_ratio": 0.5}
    table["heads_1"] = {"num_heads": 1}
    table["heads_8"] = {"num_heads": 8, "global_pool": "map"}
    table["heads_of_odd_width"] = {
        "embed_dim": 36,
        "num_heads": 4,
        "global_pool": "map",
    }
    table["no_classes"] = {"num_classes": 0}
    table["one_class"] = {"num_classes": 1}
    for pool in POOLS:
        table[f"no_blocks_{pool or 'none'}"] = {"depth": 0, "global_pool": pool}
    table["no_blocks_avg_no_class"] = {
        "depth": 0,
        "global_pool": "avg",
        "class_token": False,
    }
    table["deep"] = {"depth": 3, "embed_dim": 64, "patch_size": 8}
    table["deep_diff"] = {"depth": 3, "attn_layer": "diff"}
    table["in_chans_1"] = {"in_chans": 1}
    table["in_chans_4"] = {"in_chans": 4}
    table["image_not_square"] = {"img_size": [32, 48]}
    table["patch_not_square"] = {"patch_size": [16, 8]}
    table["image_and_patch_not_square"] = {"img_size": [32, 24], "patch_size": [8, 12]}
    table["image_not_of_whole_patches"] = {"img_size": [35, 40]}
    return [case(name, value) for name, value in table.items()]


def sizes() -> list[dict[str, Any]]:
    """dynamic_img_size at other sizes, and set_input_size."""
    out = []
    dynamic: dict[str, Any] = {"dynamic_img_size": True, "patch_size": 8}
    for name, extra in {
        "": {},
        "_no_embed_class": {"no_embed_class": True, "reg_tokens": 1},
        "_no_class": {"class_token": False, "global_pool": "avg"},
        "_no_positions": {"pos_embed": "none"},
        "_embed_norm": {"embed_norm_layer": "layernorm"},
        "_map": {"global_pool": "map"},
    }.items():
        out.append(case(f"dynamic_same{name}", dynamic | extra))
        shape = [2, 3, 48, 24]
        out.append(case(f"dynamic_other{name}", dynamic | extra, shape=shape))
    for h, w in ((16, 16), (8, 64), (32, 40)):
        out.append(case(f"dynamic_{h}x{w}", dynamic, shape=[2, 3, h, w]))
    padded = dynamic | {"dynamic_img_pad": True}
    out.append(case("dynamic_padded", padded, shape=[2, 3, 30, 45]))
    out.append(case("dynamic_padded_small", padded, shape=[1, 3, 3, 50]))
    for name, arguments, shape in (
        ("image", {"img_size": [48, 16]}, [2, 3, 48, 16]),
        ("patch", {"patch_size": [8, 8]}, [2, 3, 32, 32]),
        ("both", {"img_size": [40, 30], "patch_size": [8, 10]}, [2, 3, 40, 30]),
    ):
        for key, extra in (("", {}), ("_no_embed_class", {"no_embed_class": True})):
            # The position embeddings are resampled, so the weights go in before.
            call = ["set_input_size", [], arguments]
            out.append(
                case(
                    f"set_input_size_{name}{key}",
                    extra,
                    calls_after=[call],
                    shape=shape,
                )
            )
    return out


def masks() -> list[dict[str, Any]]:
    out = []
    for block in ("Block", "ParallelScalingBlock", "ParallelThingsBlock"):
        out.append(case(f"causal_{block}", {"block_fn": block}, is_causal=True))
        for kind in ("bool", "additive"):
            mask = {"kind": kind, "shape": [5, 5]}
            out.append(case(f"mask_{kind}_{block}", {"block_fn": block}, mask=mask))
    for kind in ("bool", "additive"):
        for name, shape in (("batch", [2, 1, 5, 5]), ("heads", [2, 2, 5, 5])):
            mask = {"kind": kind, "shape": shape}
            out.append(case(f"mask_{kind}_per_{name}", {"depth": 2}, mask=mask))
            diff = {"attn_layer": "diff", "depth": 2}
            if name == "batch":
                out.append(case(f"mask_{kind}_diff", diff, mask=mask))
    mask = {"kind": "bool_empty_row", "shape": [5, 5]}
    out.append(case("mask_bool_empty_row", {}, mask=mask))
    out.append(case("causal_diff", {"attn_layer": "diff"}, is_causal=True))
    diff_block = {"block_fn": "DiffParallelScalingBlock"}
    out.append(case("causal_diff_parallel", diff_block, is_causal=True))
    return out


def many_tokens() -> list[dict[str, Any]]:
    """More keys than attention takes at a time, and masks of that size."""
    large = {"img_size": 400, "depth": 2, "global_pool": "", "num_classes": 2}
    whole: dict[str, Any] = {"views": [["forward", {}]]}
    out = [
        case("tokens_626", large, **whole),
        case("tokens_626_causal", large, is_causal=True, **whole),
    ]
    for kind in ("bool", "additive"):
        mask = {"kind": kind, "shape": [2, 2, 626, 626]}
        out.append(case(f"tokens_626_{kind}", large, mask=mask, **whole))
    diff = large | {"attn_layer": "diff"}
    mask = {"kind": "additive", "shape": [2, 1, 626, 626]}
    return [*out, case("tokens_626_diff", diff, mask=mask, **whole)]


def sequences() -> list[dict[str, Any]]:
    """The calls of the reset_classifier table that timm answers."""

    def reset(*arguments: Any) -> list[Any]:
        return ["reset_classifier", list(arguments), {}]

    rows: dict[str, tuple[dict[str, Any], list[Any]]] = {
        "row1": ({"global_pool": "map", "class_token": False}, [reset(5, "map")]),
        "row2_five": ({"global_pool": "map"}, [reset(5)]),
        "row2_none": ({"global_pool": "map"}, [reset(5, None)]),
        "row2_zero": ({"global_pool": "map"}, [reset(0, "map")]),
        "row3": ({"global_pool": "map"}, [reset(5, "avg")]),
        "row3_no_class": (
            {"global_pool": "map", "class_token": False},
            [reset(5, "avg")],
        ),
        "row12": ({}, [reset(5, "avg")]),
        "row13": ({"global_pool": "avg"}, [reset(0, "token")]),
        "row14_token": ({}, [reset(0, "")]),
        "row14_avg": ({"global_pool": "avg"}, [reset(0, "")]),
        "row15": ({}, [reset(0, ""), reset(5)]),
        "row17": ({"global_pool": "prr"}, [reset(5, "prr")]),
        "row18": ({}, [reset(10)]),
        "row19": ({"global_pool": "map", "fc_norm": True}, [reset(5, "avg")]),
        "row20": ({"global_pool": "max", "final_norm": False}, [reset(5, "avgmax")]),
        "row25": ({"global_pool": "map", "reg_tokens": 1}, []),
        "row26": ({"global_pool": "prr", "class_token": False, "reg_tokens": 2}, []),
        "map_to_none": ({"global_pool": "map"}, [reset(5, "")]),
        "map_to_token": ({"global_pool": "map"}, [reset(5, "token")]),
        "avg_to_max": ({"global_pool": "avg", "reg_tokens": 1}, [reset(5, "max")]),
        "avg_there_and_back": (
            {"global_pool": "avg"},
            [reset(5, "token"), reset(0), reset(3, "avg")],
        ),
        "pruned": ({"depth": 3}, [["prune_intermediate_layers", [[0, 1]], {}]]),
        "pruned_norm_kept_head": (
            {"depth": 3},
            [
                [
                    "prune_intermediate_layers",
                    [2],
                    {"prune_norm": True, "prune_head": False},
                ]
            ],
        ),
        "pruned_avg": (
            {"depth": 2, "global_pool": "avg"},
            [["prune_intermediate_layers", [[0]], {}]],
        ),
    }
    return [case(f"calls_{n}", o, calls=c) for n, (o, c) in rows.items()]


def odd_values() -> list[dict[str, Any]]:
    """NaN and infinity in the second picture of three, and huge and tiny values."""
    out = []
    shape = [3, 3, 32, 32]
    for pool in ("avg", "avgmax", "max", "token", "map", "prr", ""):
        for name in ("nan", "inf"):
            options = {"global_pool": pool}
            out.append(
                case(f"{name}_{pool or 'none'}", options, shape=shape, spoil=name)
            )
    for name in ("huge", "tiny"):
        out.append(case(f"{name}_values", {"depth": 2}, shape=shape, spoil=name))
    return out


def intermediates() -> list[dict[str, Any]]:
    """forward_intermediates and get_intermediate_layers: the shapes of the answer."""
    small = {"depth": 3, "reg_tokens": 1, "embed_dim": 16}
    bare = {"depth": 2, "class_token": False, "global_pool": "avg", "embed_dim": 16}
    arguments: dict[str, dict[str, Any]] = {
        "all": {},
        "last": {"indices": 1},
        "last_two_normed": {"indices": 2, "norm": True},
        "chosen": {"indices": [0, -1], "output_fmt": "NLC"},
        "early": {"indices": [0, 1], "stop_early": True},
        "early_only": {"indices": [1], "stop_early": True, "intermediates_only": True},
        "prefix": {"indices": [1, 2], "return_prefix_tokens": True},
        "named": {"indices": [2], "output_dict": True, "return_prefix_tokens": True},
        "named_only": {"output_dict": True, "intermediates_only": True, "norm": True},
        "causal": {"indices": [2], "is_causal": True},
        "unordered": {"indices": [2, 0]},
        "repeated": {"indices": [1, 1]},
    }
    out = []
    for name, given in arguments.items():
        view = ["forward_intermediates", given]
        out.append(case(f"intermediates_{name}", small, views=[view]))
        if name in ("all", "prefix", "named"):
            if name != "all":
                view = ["forward_intermediates", given | {"indices": [1]}]
            out.append(case(f"intermediates_bare_{name}", bare, views=[view]))
    for name, given in {
        "default": {},
        "reshaped": {"n": [0, 2], "reshape": True, "return_prefix_tokens": True},
    }.items():
        view = ["get_intermediate_layers", given]
        out.append(case(f"layers_{name}", small, views=[view]))
    return out


def make(spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Run one case through timm; returns its record for cases.json."""
    model = reference.build(spec["options"])
    for name, args, kwargs in spec.get("calls", []):
        getattr(model, name)(*args, **kwargs)
    reference.fill(model)
    parameters = reference.shapes(model)
    data = recipe.inputs(spec)

    def call(one: Any, *values: Any) -> Any:
        one = copy.deepcopy(one)
        for name, args, kwargs in spec.get("calls_after", []):
            getattr(one, name)(*args, **kwargs)
        return recipe.run(one, spec, dict(zip(data, values, strict=True)))

    exact, plain = reference.both(model, call, *data.values())
    rough = dict(recipe.flat(plain))
    outputs, parts = {}, []
    for path, value in recipe.flat(exact):
        timm = measure.Error(measure.error(rough[path], value).largest)
        measure.check(rough[path], value, timm, f"{spec['name']} {path}")
        parts.append(shortened(value))
        error = float(f"{timm.largest:.3g}")
        outputs[path] = {"shape": value.shape, "timm_error": error}
    arrays[spec["name"]] = np.concatenate(parts)
    return spec | {"parameters": parameters, "outputs": outputs}


def shortened(value: np.ndarray) -> np.ndarray:
    """Float64 values, flat, cut to 32 bits behind the point so that they compress.

    What is cut is a five hundredth of float32's unit in the last place.
    """
    bits = np.ascontiguousarray(value, np.float64).ravel().view(np.uint64)
    return (bits & ~np.uint64(2**20 - 1)).view(np.float64)


def main() -> None:
    torch.set_num_threads(1)
    print(f"timm {timm.__version__}, torch {torch.__version__}")
    groups = (
        pools,
        prefixes,
        norms,
        options,
        sizes,
        masks,
        many_tokens,
        sequences,
        odd_values,
        intermediates,
    )
    specs = [spec for group in groups for spec in group()]
    arrays: dict[str, np.ndarray] = {}
    records = [make(spec, arrays) for spec in specs]
    lines = ",\n".join(json.dumps(record) for record in records)
    (FOLDER / "cases.json").write_text(f"[\n{lines}\n]\n")
    np.savez_compressed(FOLDER / "outputs.npz", **arrays)  # type: ignore[arg-type]
    for name in ("cases.json", "outputs.npz"):
        print(name, (FOLDER / name).stat().st_size, "bytes")
    print(len(records), "cases")


if __name__ == "__main__":
    main()
