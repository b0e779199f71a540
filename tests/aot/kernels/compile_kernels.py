"""Compiles the kernels for a card that need not be there; a program of its own, since the tests
run them in Triton's interpreter. Prints a line of JSON: what each takes of a multiprocessor.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from aot.kernels import (
    attention,
    lengths,
    novelty,
    pooling,
    products,
    scan,
    shares,
    sinkhorn,
    thinnest,
)

CAPABILITY = 90
"""Hopper's."""


def measure(
    kernel: Any,
    types: dict[str, str],
    constants: Mapping[str, float],
    warps: int,
    stages: int = 3,
    aligned_numbers: Collection[str] = (),
) -> dict:
    """Registers a thread, bytes spilled and bytes of shared memory of a compiled kernel."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if signature[name].startswith("*") or name in aligned_numbers
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=dict(constants), attrs=aligned)
    target = GPUTarget("cuda", CAPABILITY, 32)
    compiled = triton.compile(
        source, target=target, options={"num_warps": warps, "num_stages": stages}
    )
    report = assemble(compiled.asm["ptx"])
    return {
        "registers": int(re.findall(r"Used (\d+) registers", report)[0]),
        "spilled_bytes": sum(map(int, re.findall(r"(\d+) bytes spill", report))),
        "shared_bytes": compiled.metadata.shared,
    }


def assemble(ptx: str) -> str:
    """What the assembler says of the code, verbosely."""
    target = re.findall(r"\.target (\w+)", ptx)[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [get_ptxas(CAPABILITY).path, "-v", f"-arch={target}", path, "-o", "/dev/null"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def sinkhorn_variants() -> dict[str, dict]:
    """Frames of 126 anchors, and clips of many anchors in float64."""
    strides = ("element_stride", "source_stride", "anchor_stride", "marginal_stride")
    numbers = dict.fromkeys((*strides, "num_sources", "num_anchors", "max_iterations"), "i32")
    columns = (
        "kernel", "shift", "source_marginal", "anchor_marginal", "source_scaling", "anchor_scaling",
        "unshifted", "weights",
    )  # fmt: skip
    variants = {}
    for size, width in (("fp32", 128), ("fp32", 256), ("fp64", 128), ("fp64", 256), ("fp64", 1024)):
        types = dict.fromkeys(columns, f"*{size}") | numbers
        types |= {"iterations": "*i64", "tolerance": "fp32"}
        rows = sinkhorn.rows_at_once(width, int(size[2:]) // 8)
        constants = {"ROWS": rows, "COLUMNS": width}
        variants[f"sinkhorn {size} {width}"] = measure(
            sinkhorn._scale, types, constants, sinkhorn._WARPS
        )
    return variants


def shares_variants() -> dict[str, dict]:
    """Frames of 196 and of 729 anchors."""
    doubles = (
        "product", "norm", "anchor_norm", "sharpness", "similarity", "nearest", "kernel",
        "anchor_scaling", "share", "best",
    )  # fmt: skip
    strides = ("norm_stride", "sharpness_stride", "num_tokens", "num_anchors")
    types = dict.fromkeys(doubles, "*fp64") | dict.fromkeys(strides, "i32")
    types |= {"count": "*i64"}
    return {
        f"{kernel.__name__} {width}": measure(
            kernel, types, constants | {"COLUMNS": width}, width // 128
        )
        for kernel, constants in ((shares._sharpen, {"LIMIT": 0.999}), (shares._give_shares, {}))
        for width in (256, 1024)
    }


def thinnest_variants() -> dict[str, dict]:
    """Frames of 196 and of 729 tokens."""
    types = dict.fromkeys(("best", "between"), "*fp64") | dict.fromkeys(
        ("sources", "distinct"), "*u8"
    )
    strides = ("sources_stride", "edges_stride", "between_stride", "num_tokens")
    types |= {"edges": "*i64", "tie": "fp32"} | dict.fromkeys(strides, "i32")
    return {
        f"thinnest {lanes}": measure(
            thinnest._find_thinnest, types, {"LANES": lanes, "BLOCK": thinnest._ENTRIES // lanes}, 8
        )
        for lanes in (256, 1024)
    }


def scan_variants() -> dict[str, dict]:
    """Clips that open and clips that go on, of the grids of two families."""
    floats = (
        "novelty", "likeness", "gram", "weights", "inverse", "offset", "mass", "signals",
        "contrast", "length",
    )  # fmt: skip
    whole = ("filled", "known", "spent", "born", "limits", "position")
    numbers = ("clips", "step", "rounds")
    constants = (
        "threshold", "novelty_floor", "novelty_power", "spread", "unlike", "merge_similarity",
        "patience",
    )  # fmt: skip
    types = dict.fromkeys(floats, "*fp32") | dict.fromkeys(whole, "*i64")
    types |= {"places": "*i32"} | dict.fromkeys(("owed", "kept", "emitted", "active"), "*u8")
    types |= dict.fromkeys(numbers, "i32") | dict.fromkeys(constants, "fp32")
    variants = {}
    for cells, basis in ((196, 8), (196, 16), (729, 16)):
        sizes = {"SLOTS": 8, "BASIS": basis, "STEPS": 8, "CELLS": cells}
        name = f"{cells} cells, basis {basis}"
        compare = sizes | {"BLOCK": novelty._BLOCK}
        variants[f"novelty {name}"] = measure(novelty._find_novelty, types, compare, 4)
        lanes = 1 << (cells - 1).bit_length()
        take = sizes | {"LANES": lanes, "HAS_ACTIVE": True, "BLOCKS": novelty.count_blocks(cells)}
        warps = scan.warps_for(lanes)
        variants[f"frame {name}"] = measure(scan._take_frame, types, take, warps)
    return variants


def product_variants() -> dict[str, dict]:
    """Clips that open and clips that go on, of the grids of two families."""
    floats = ("vectors", "gram", "weights", "basis", "anchors")
    types: dict[str, str] = dict.fromkeys(floats, "*fp32")
    types |= dict.fromkeys(("high", "low"), "*fp16") | dict.fromkeys(("width", "size"), "i32")
    variants = {"split": measure(products._split, types, {"BLOCK": products._ENTRIES}, 8)}
    for cells, basis, even in ((196, 8, True), (729, 16, True), (196, 8, False)):
        sizes = {"BASIS": basis, "CELLS": cells}
        tile = {"STEPS": 8, "EVEN": even, **products._TILE}
        how = products.warps_for(even=even), products._STAGES
        name = f"{cells} cells, basis {basis}, even {even}"
        variants[f"multiply {name}"] = measure(
            products._multiply, types, sizes | tile, *how, {"width"} if even else ()
        )
        columns = {"SLOTS": 8, "LANES": 8, "BLOCK": 512}
        variants[f"combine {name}"] = measure(products._combine, types, sizes | columns, 4)
    types = dict.fromkeys(("tokens", "unit", "length", "factor", "scaled"), "*fp32")
    types |= {"width": "i32", "floor": "fp32"}
    for width in (896, 8192):
        block, warps = lengths._block(width)
        for kernel in (lengths._normalise, lengths._scale):
            name = f"{kernel.__name__} {width}"
            variants[name] = measure(kernel, types, {"BLOCK": block}, warps)
    numbers = {"pooled": "*fp32", "width": "i32", "frame_stride": "i32"}
    grids = {"ROWS": 27, "COLUMNS": 27, "POOLED_ROWS": 14, "POOLED_COLUMNS": 14}
    for kind in ("bf16", "fp32"):
        types = numbers | {"tokens": f"*{kind}"}
        variants[f"pool {kind}"] = measure(
            pooling._pool, types, grids | {"BLOCK": pooling._BLOCK}, 4
        )
    return variants


def attention_variants() -> dict[str, dict]:
    """Heads of SigLIP-so400m, 72 wide."""
    strides = [f"{side}_{axis}" for side in ("query", "key") for axis in ("batch", "head", "row")]
    numbers = dict.fromkeys([*strides, "num_tokens", "num_heads"], "i32") | {"scaling": "fp32"}
    main, rest = attention.split_width(72)
    variants = {}
    for size, entry_bytes in (("bf16", 2), ("fp32", 4)):
        types = numbers | dict.fromkeys(("query", "key"), f"*{size}")
        types |= dict.fromkeys(("log_sums", "received"), "*fp32")
        constants = {"WIDTH": 72, "MAIN": main, "REST": rest, "UPCAST": False}
        constants |= attention.block_of_scores(entry_bytes)
        for kernel in (attention._log_sums, attention._received):
            variants[f"{kernel.__name__} {size}"] = measure(kernel, types, constants, warps=4)
    return variants


if __name__ == "__main__":
    variants = sinkhorn_variants() | scan_variants() | product_variants() | attention_variants()
    print(json.dumps(variants | shares_variants() | thinnest_variants()))
