"""Cases, tolerances and the registry of checkers behind `run.py`.

A checker is a function of one `Case` that runs our code on the case's inputs and returns what it computed,
keyed by the reference tensor it must equal (`"output/feat"`), or as a `Pair` where the reference is not a
stored tensor. It reads sizes, seeds and options from `case.meta`, never from the cases it was written with.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

Status = Literal["PASS", "FAIL", "UNSUPPORTED"]
Tolerance = Mapping[str, Any]

CHECKERS_FOLDER = Path(__file__).parent / "checkers"
TOLERANCE_KEYS = ("max_abs", "atol", "rtol", "rel", "max_rel_to_max", "mean_abs", "exact")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One golden case.

    Attributes:
        meta: Its json: configuration, seed, recipe, reference values that are no tensors.
        tensors: Its tensors by full name (`input/...`, `mid/...`, `output/...`, `weight/...`).
        folder: Where its files lie, for cases that share a file.
    """

    case: str
    kind: str
    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    tolerance: dict[str, Any]
    folder: Path = Path()

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose name starts with `prefix/`, without it."""
        start = f"{prefix}/"
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A computed value and the reference it must equal; `tolerance` replaces the case's."""

    actual: Any
    expected: Any
    tolerance: Tolerance | None = None


Result = Mapping[str, "Tensor | Pair"]
Checker = Callable[[Case], Result]

_CHECKERS: dict[str, Checker] = {}


def checker(*kinds: str) -> Callable[[Checker], Checker]:
    """Decorator: the function checks cases of these kinds."""

    def register(function: Checker) -> Checker:
        for kind in kinds:
            if kind in _CHECKERS:
                raise ValueError(f"two checkers for kind '{kind}'")
            _CHECKERS[kind] = function
        return function

    return register


def load_checkers() -> Mapping[str, Checker]:
    """Import every file of `checkers/` once; each registers the kinds it covers."""
    for path in sorted(CHECKERS_FOLDER.glob("*.py")):
        name = f"parity_checkers_{path.stem}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return _CHECKERS


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one case ended.

    Attributes:
        max_abs: Largest absolute error of all values.
        worst: The value whose error comes closest to what is allowed, or exceeds it most.
        used: That error over what is allowed; above 1 fails.
    """

    case: str
    kind: str
    status: Status
    max_abs: float | None = None
    tolerance: dict[str, Any] = field(default_factory=dict)
    worst: str = ""
    used: float | None = None
    reason: str = ""

    def line(self) -> str:
        tolerance = ",".join(f"{key}:{value:g}" for key, value in self.tolerance.items()) or "-"
        error = "-" if self.max_abs is None else f"{self.max_abs:.3g}"
        reason = f"  {self.reason}" if self.reason else ""
        return f"{self.status} {self.case} max_abs={error} tol={tolerance}{reason}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_index(folder: Path) -> list[dict[str, Any]]:
    """Rows of `index.json`."""
    return json.loads((folder / "index.json").read_text())["cases"]


def read_case(folder: Path, row: Mapping[str, Any]) -> Case:
    """A case with its json and tensors."""
    meta = json.loads((folder / row["meta"]).read_text())
    tensors = load_file(folder / row["data"]) if row.get("data") else {}
    tolerance = row.get("tolerance") or meta.get("tolerance") or {}
    return Case(
        case=row["case"],
        kind=row["kind"],
        meta=meta,
        tensors=tensors,
        tolerance=tolerance,
        folder=(folder / row["meta"]).parent,
    )


def run_case(folder: Path, row: Mapping[str, Any], checkers: Mapping[str, Checker]) -> Outcome:
    """Check one case. Whatever goes wrong inside is a FAIL with the error's first line."""
    name, kind, tolerance = row["case"], row["kind"], dict(row.get("tolerance") or {})
    if kind not in checkers:
        reason = f"no checker for kind {kind}"
        return Outcome(case=name, kind=kind, status="UNSUPPORTED", tolerance=tolerance, reason=reason)
    try:
        case = read_case(folder, row)
        result = checkers[kind](case)
        return judge(case, result)
    except Exception as error:  # noqa: BLE001 - one broken case must not hide the others
        message = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {message[0]}"
        return Outcome(case=name, kind=kind, status="FAIL", tolerance=tolerance, reason=reason)


def judge(case: Case, result: Result) -> Outcome:
    """Compare what a checker computed with the references; every `output/` tensor must be among it.

    Values that the case stores no reference for (some cases leave out `mid/`) are not compared.
    """
    reasons: list[str] = []
    missing = sorted(k for k in case.tensors if k.startswith("output/") and k not in result)
    if missing:
        reasons.append(f"not computed: {', '.join(missing)}")
    pairs = {
        name: value if isinstance(value, Pair) else Pair(actual=value, expected=case.tensors[name])
        for name, value in result.items()
        if isinstance(value, Pair) or name in case.tensors
    }
    if not pairs:
        reasons.append("nothing was compared")
    largest, worst, worst_ratio = 0.0, "", -1.0
    for name, pair in pairs.items():
        tolerance = pair.tolerance if pair.tolerance is not None else tolerance_of(name, case.tolerance)
        error, ratio, reason = compare(pair.actual, pair.expected, tolerance)
        largest = max(largest, error)
        if ratio > worst_ratio:
            worst, worst_ratio = name, ratio
        if reason:
            reasons.append(f"{name}: {reason}")
    return Outcome(
        case=case.case,
        kind=case.kind,
        status="FAIL" if reasons else "PASS",
        max_abs=largest,
        tolerance=dict(case.tolerance),
        worst=worst,
        used=worst_ratio if pairs else None,
        reason="; ".join(reasons),
    )


def tolerance_of(name: str, tolerance: Tolerance) -> dict[str, Any]:
    """The part of a case's tolerance that holds for one value.

    `img_max_abs` holds for values whose last name part is `img`, in place of the general keys; `uint8` is the
    `max_abs` of pixel values, where a checker asks for it.
    """
    leaf = name.rsplit("/", 1)[-1].rsplit(".", 1)[-1]
    own = {key: tolerance[f"{leaf}_{key}"] for key in TOLERANCE_KEYS if f"{leaf}_{key}" in tolerance}
    return own or {key: value for key, value in tolerance.items() if key in TOLERANCE_KEYS}


def compare(actual: Any, expected: Any, tolerance: Tolerance) -> tuple[float, float, str]:
    """Largest absolute error, largest error over what is allowed, and why it does not pass (or "").

    `max_abs` or `atol` plus `rel` or `rtol` times |reference| is allowed for each value, or `max_rel_to_max`
    times the largest |reference|; `mean_abs` bounds the mean error; `exact` demands equality.
    """
    unknown = set(tolerance) - set(TOLERANCE_KEYS)
    if unknown or not tolerance:
        raise ValueError(f"cannot compare with tolerance {dict(tolerance)}")
    if not isinstance(expected, Tensor | np.ndarray | float | int | bool):
        return (
            (0.0, 0.0, "")
            if actual == expected
            else (float("inf"), float("inf"), _difference(actual, expected))
        )
    computed, reference = torch.as_tensor(actual).detach().cpu(), torch.as_tensor(expected)
    if computed.shape != reference.shape:
        shapes = f"shape {tuple(computed.shape)} instead of {tuple(reference.shape)}"
        return float("inf"), float("inf"), shapes
    if reference.numel() == 0:
        return 0.0, 0.0, ""
    computed, reference = computed.double(), reference.double()
    same = (computed == reference) | (computed.isnan() & reference.isnan())
    error = torch.where(same, 0.0, (computed - reference).abs()).nan_to_num(nan=torch.inf)
    size = torch.where(reference.isfinite(), reference.abs(), 0.0)
    limits = {
        "max_abs": _allowed(tolerance, ("max_abs", "atol"), ("rel", "rtol"), size),
        "max_rel_to_max": size.max() * tolerance["max_rel_to_max"] if "max_rel_to_max" in tolerance else None,
        "exact": torch.zeros(()) if tolerance.get("exact") else None,
    }
    ratio, reasons = 0.0, []
    for name, allowed in limits.items():
        if allowed is None:
            continue
        over = torch.where(error == 0, 0.0, error / allowed)
        ratio = max(ratio, over.max().item())
        if not bool((error <= allowed).all()):
            reasons.append(
                f"{name} {error.max().item():.3g} in {int((error > allowed).sum())} of {error.numel()}"
            )
    if "mean_abs" in tolerance:
        mean = error.mean().item()
        ratio = max(ratio, mean / tolerance["mean_abs"])
        if not mean <= tolerance["mean_abs"]:
            reasons.append(f"mean_abs {mean:.3g}")
    return error.max().item(), ratio, ", ".join(reasons)


def _allowed(
    tolerance: Tolerance, absolute: Iterable[str], relative: Iterable[str], size: Tensor
) -> Tensor | None:
    given = [key for key in (*absolute, *relative) if key in tolerance]
    if not given:
        return None
    fixed = sum(tolerance[key] for key in absolute if key in tolerance)
    return fixed + size * sum(tolerance[key] for key in relative if key in tolerance)


def _difference(actual: Any, expected: Any) -> str:
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        keys = [key for key in {**expected, **actual} if expected.get(key) != actual.get(key)]
        return f"differs at {', '.join(map(str, keys[:5]))}"
    return f"{actual!r:.60} instead of {expected!r:.60}"


def recipe_weights(shapes: Mapping[str, Iterable[int]], *, seed: int, gain: float) -> dict[str, Tensor]:
    """Float weights that a case does not store but describes under `weights_recipe`.

    Each tensor is drawn from a generator seeded with the checksum of its published name, so that the order of
    keys does not matter.
    """
    return {key: _recipe_tensor(key, tuple(shape), seed, gain) for key, shape in shapes.items()}


def _recipe_tensor(key: str, shape: tuple[int, ...], seed: int, gain: float) -> Tensor:
    random = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return torch.from_numpy((0.5 + random.rand(*shape)).astype(np.float32))
    noise = random.randn(*shape)
    if leaf == "running_mean":
        value = 0.2 * noise
    elif leaf == "weight" and len(shape) == 1:
        value = 1 + 0.2 * noise
    elif leaf == "weight" and len(shape) >= 2:
        value = gain * noise / np.sqrt(np.prod(shape[1:]))
    elif leaf == "bias":
        value = 0.1 * noise
    elif leaf == "init_body_pose":
        value = np.tile([1, 0, 0, 0, 1, 0], shape[-1] // 6)[None] + 0.5 * noise
    elif leaf == "init_cam":
        value = np.array([[0.9, 0.05, -0.03]]) + 0.02 * noise
    else:
        value = 0.3 * noise
    return torch.from_numpy(np.asarray(value, dtype=np.float32))
