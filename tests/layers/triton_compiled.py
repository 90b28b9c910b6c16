"""Compiles the kernels of the scan for a GPU, which is not needed: python triton_compiled.py CAPABILITY MADE.

A process of its own for `test_scan_triton`. Writes JSON: names of kernels with the sizes of their forms.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from jaxtyping import install_import_hook
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

with install_import_hook("fasthmr", "beartype.beartype"):  # which must leave kernels alone
    scan_kernels = importlib.import_module("fasthmr.layers.scan_kernels")

_IN_TYPE_OF_INPUTS = {"u", "delta", "B", "C", "d_u", "d_delta"}
_IN_SINGLE = {"A", "D", "bias", "y", "dy", "states", "decays", "rests", "within"} | {
    f"d_{name}" for name in ("A", "B", "C", "D", "bias")
}
_FIRST = {
    "run": {"y"},
    "run_back": {"within", *(f"d_{x}" for x in ("u", "delta", "A", "B", "C", "D", "bias"))},
}
"""What is not given where chunks run from zero; otherwise it is `decays`."""


def variants() -> Iterator[tuple[Any, str, set[str], dict[str, Any]]]:
    """Kernels, types of inputs, what is not given, and constants."""
    few = {"STATE": 1, "PAD": 1, "LANES": 32, "TERMS": 8, "MAP": True}
    more = {"STATE": 3, "PAD": 4, "LANES": 32, "TERMS": 0, "MAP": False, "groups": 1, "width": 1}
    for kernel in (scan_kernels.run, scan_kernels.run_back):
        first = _FIRST[kernel.fn.__name__]
        yield kernel, "bf16", {"decays"}, few
        yield kernel, "fp32", first | {"D", "bias"}, more
    yield scan_kernels.join, "fp32", set(), {"LANES": 32, "REVERSE": True}


def main(capability: int, made: Path) -> None:
    kernels = []
    for kernel, inputs, absent, constants in variants():
        values = {**dict.fromkeys(absent), **constants}
        signature = {}
        for name in kernel.arg_names:
            kind = "*" + inputs if name in _IN_TYPE_OF_INPUTS else "*fp32" if name in _IN_SINGLE else "i32"
            signature[name] = "constexpr" if name in values else kind
        places = {(kernel.arg_names.index(name),): x for name, x in values.items() if name in signature}
        source = ASTSource(fn=kernel, signature=signature, constexprs=places)
        target = GPUTarget("cuda", capability, 32)
        forms = triton.compile(source, target=target, options={"num_warps": 1}).asm
        kernels.append([kernel.fn.__name__, {name: len(code) for name, code in forms.items()}])
    made.write_text(json.dumps(kernels))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
