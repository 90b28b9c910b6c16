"""Runs scans by Triton's interpreter on the processor: python triton_interpreted.py CASES FOUND.

A process of its own for `test_scan_triton`: what TRITON_INTERPRET says counts where Triton is imported first.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"TRITON_INTERPRET": "1", "FASTHMR_SCAN": "triton"}

import torch
from torch import Tensor

from fasthmr.layers import scan_triton
from fasthmr.layers.scan import selective_scan
from fasthmr.layers.ss2d import SS2D

STEPS = 3
"""So short are chunks here, for few tokens take long."""


def scanned(given: list[Tensor | None], slope: Tensor, softplus: bool) -> list[Tensor]:
    """The outputs, and the gradients of all arguments that are there."""
    given = [None if x is None else x.requires_grad_() for x in given]
    y = selective_scan(*given, delta_softplus=softplus)
    return [y.detach(), *torch.autograd.grad(y, [x for x in given if x is not None], slope)]


def block(
    options: dict[str, Any], weights: dict[str, Tensor], x: Tensor, slope: Tensor, compiled: bool
) -> list[Tensor]:
    """The same for a block and its parameters."""
    module = SS2D(x.shape[-1], **options).to(x.dtype)
    module.load_state_dict(weights)
    form = torch.compile(module, backend="aot_eager", fullgraph=True) if compiled else module
    y = form(x.requires_grad_())
    return [y.detach(), *torch.autograd.grad(y, [x, *module.parameters()], slope)]


def main(cases: Path, found: Path) -> None:
    scan_triton._STEPS = STEPS
    forms = {"scan": scanned, "block": block}
    torch.save([forms[case.pop("form")](**case) for case in torch.load(cases)], found)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
