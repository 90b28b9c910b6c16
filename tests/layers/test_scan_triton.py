"""The kernels of the scan, run by Triton's interpreter, against the definition; and compiled for a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fasthmr.errors import UsageError
from fasthmr.layers import scan as scan_module
from fasthmr.layers.scan import fused_scan, selective_scan_reference
from fasthmr.layers.ss2d import SS2D

_HERE = Path(__file__).parent
_CHUNK = 3  # tokens, as `triton_interpreted` has it


def arguments(
    *,
    batch: int = 1,
    groups: int = 1,
    width: int = 3,
    state: int = 1,
    tokens: int = 2 * _CHUNK + 2,
    rests: bool = True,
    half: torch.dtype | None = None,
    bias: float | None = None,
    rate: float | None = None,
) -> list[torch.Tensor | None]:
    """u, delta, A, B, C, D and bias; step sizes of decays that reach over several tokens."""
    generator = torch.Generator().manual_seed(tokens + state)
    dtype = torch.float64 if half is None else torch.float32

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator, dtype=dtype)

    inputs = [normal(batch, groups * width, tokens) for _ in range(2)]
    weights = [normal(batch, groups, state, tokens) for _ in range(2)]
    A = -torch.rand((groups * width, state), generator=generator, dtype=dtype) - 0.1
    rest = [normal(groups * width), normal(groups * width) - 1] if rests else [None, None]
    if bias is not None:
        A, rest[1] = torch.full_like(A, rate), torch.full_like(rest[1], bias)
    if half is not None:
        inputs, weights = [[x.to(half) for x in pair] for pair in (inputs, weights)]
    return [*inputs, A, *weights, *rest]


SCANS = {
    "one token": {"tokens": 1, "batch": 2},
    "one chunk": {"tokens": _CHUNK, "groups": 2},
    "a ragged chunk": {"batch": 2},
    "many channels": {"width": 35, "tokens": _CHUNK + 1},
    "groups and numbers": {"groups": 2, "state": 3, "tokens": 2 * _CHUNK + 1},
    "without the rests": {"rests": False},
    "single": {"state": 2, "half": torch.float32},
    "bfloat16": {"half": torch.bfloat16},
    "float16": {"half": torch.float16},
    "steps that vanish": {"half": torch.float32, "bias": -60.0, "rate": -1.0},
    "decays that vanish": {"half": torch.float32, "bias": 300.0, "rate": -1e4},
    "no decay": {"half": torch.float32, "bias": -2.0, "rate": -1e-6},
}
PLAIN_STEPS = ("without the rests",)
"""Without softplus."""

BLOCKS = {
    "block": {"options": {"ratio": 1}, "size": (3, 2), "dtype": torch.float64, "compiled": False},
    "compiled": {"options": {"ratio": 1}, "size": (2, 2), "dtype": torch.float32, "compiled": True},
}


def scan_case(name: str) -> dict:
    given, softplus = arguments(**SCANS[name]), name not in PLAIN_STEPS
    if not softplus:
        given[1] = given[1].abs()
    slope = torch.randn(given[0].shape, generator=torch.Generator().manual_seed(1)).to(given[0].dtype)
    return {"form": "scan", "given": given, "slope": slope, "softplus": softplus}


def block_case(name: str) -> tuple[SS2D, dict]:
    case = BLOCKS[name]
    torch.manual_seed(0)
    module = SS2D(6, **case["options"])
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    module.to(case["dtype"])
    x, slope = torch.randn(2, 1, *case["size"], 6, dtype=case["dtype"])
    given = {"options": case["options"], "weights": module.state_dict(), "compiled": case["compiled"]}
    return module, {"form": "block", "x": x, "slope": slope, **given}


_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Of the largest number; for half precision one unit of its last digit, which the interpreter cuts off."""


def difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest, over the largest number of its tensor; below a thousandth that counts as one."""
    assert [x.shape for x in found] == [x.shape for x in expected]
    assert all(x.isfinite().all() for x in found)
    pairs = [(mine.double(), theirs) for mine, theirs in zip(found, expected, strict=True)]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-3)) for a, b in pairs)


def defined_scan(case: dict) -> list[torch.Tensor]:
    given = [None if x is None else x.double().requires_grad_() for x in case["given"]]
    y = selective_scan_reference(*given, delta_softplus=case["softplus"])
    wanted = [x for x in given if x is not None]
    return [y.detach(), *torch.autograd.grad(y, wanted, case["slope"].double())]


def defined_block(module: SS2D, case: dict) -> list[torch.Tensor]:
    x = case["x"].double().requires_grad_()
    y = module.double().plain(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *module.parameters()], case["slope"].double())]


def test_values_and_gradients_are_those_of_the_definition(tmp_path):
    scans, blocks = {name: scan_case(name) for name in SCANS}, {name: block_case(name) for name in BLOCKS}
    cases = scans | {name: case for name, (_, case) in blocks.items()}
    torch.save(list(cases.values()), tmp_path / "cases.pt")
    command = [sys.executable, _HERE / "triton_interpreted.py", tmp_path / "cases.pt", tmp_path / "found.pt"]
    subprocess.run(command, check=True)  # all in one process: most of the time goes into its imports
    found = dict(zip(cases, torch.load(tmp_path / "found.pt"), strict=True))
    expected = {name: defined_scan(case) for name, case in scans.items()}
    expected |= {name: defined_block(module, case) for name, (module, case) in blocks.items()}
    errors = {name: difference(found[name], expected[name]) for name in cases}
    kinds = {name: case["slope"].dtype for name, case in cases.items()}
    assert {name: error for name, error in errors.items() if error > _TOLERANCE[kinds[name]]} == {}
    for name, case in scans.items():
        assert [x.dtype for x in found[name][1:]] == [x.dtype for x in case["given"] if x is not None]


def test_kernels_compile_for_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    subprocess.run([sys.executable, _HERE / "triton_compiled.py", "80", tmp_path / "made.json"], check=True)
    made = json.loads((tmp_path / "made.json").read_text())
    assert [name for name, _ in made] == ["run", "run", "run_back", "run_back", "join"]
    assert all(sizes["cubin"] > 0 for _, sizes in made)


def test_the_choice_of_form(monkeypatch):
    processor, gpu, meta = (torch.device(name) for name in ("cpu", "cuda", "meta"))
    monkeypatch.delenv("FASTHMR_SCAN", raising=False)
    assert fused_scan(processor) is None
    assert fused_scan(meta) is None
    assert fused_scan(gpu) is not None
    monkeypatch.setenv("FASTHMR_SCAN", "torch")
    assert fused_scan(gpu) is None
    monkeypatch.setenv("FASTHMR_SCAN", "triton")
    assert fused_scan(gpu) is not None
    assert fused_scan(meta) is None
    with pytest.raises(UsageError, match=r"tensors are on 'cpu'.*FASTHMR_SCAN=auto"):
        fused_scan(processor)
    monkeypatch.setattr(scan_module, "_TRITON", False)
    with pytest.raises(UsageError, match="pip install triton"):
        fused_scan(gpu)
    monkeypatch.setenv("FASTHMR_SCAN", "auto")
    assert fused_scan(gpu) is None
    monkeypatch.setenv("FASTHMR_SCAN", "cuda")
    with pytest.raises(UsageError, match="one of auto, triton, torch"):
        fused_scan(gpu)
