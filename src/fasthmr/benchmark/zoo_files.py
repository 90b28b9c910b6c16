"""Files of the model chooser: what was measured, so that a run can go on, and the accuracy of models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from fasthmr.benchmark.zoo_runs import GroupRun, Setting, ZooRuns
from fasthmr.errors import InputError
from fasthmr.io.atomic import write_bytes


def write_runs(path: Path, runs: ZooRuns, more: dict[str, Any] | None = None) -> None:
    """Write runs as JSON, one group in a line, so that a later run can go on.

    Args:
        more: What else to put into the file.

    Raises:
        ResourceError: The file cannot be written.
    """
    content = {**runs.as_json(), **(more or {})}
    lines = []
    for key, value in content.items():
        many = isinstance(value, list | tuple) and value and isinstance(value[0], dict)
        text = (
            "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n]"
            if many
            else json.dumps(value)
        )
        lines.append(f"{json.dumps(key)}: {text}")
    write_bytes(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def read_runs(path: Path) -> ZooRuns:
    """What `write_runs` wrote.

    Raises:
        InputError: The file is none of these.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return ZooRuns(
            reference=str(content["reference"]),
            settings=tuple(Setting(**setting) for setting in content["settings"]),
            machine=dict(content["machine"]),
            runs=[
                GroupRun(
                    setting=Setting(**run["setting"]),
                    models=tuple(map(str, run["models"])),
                    seconds=tuple(tuple(map(float, row)) for row in run["seconds"]),
                )
                for run in content["runs"]
            ],
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: cannot go on from it ({type(error).__name__}: {error})") from error


def read_accuracy(path: Path) -> dict[str, dict[str, float]]:
    """Accuracy of models from a JSON file: {"accuracy": {"MODEL": {"METRIC": number}}}.

    Anything else in the file is passed over. Names of runs that are no model's may say whose they are:
    {"RUN": {"model": "MODEL", "METRIC": number}}; of several runs of a model the mean counts. Metrics with
    "_mm", "error", "mpjpe" or "pve" in their names are better when smaller, all others when larger.

    Raises:
        InputError: The file cannot be read, or has another form.
    """
    form = '{"accuracy": {"MODEL": {"METRIC": number}}}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["accuracy"]
        found: dict[str, dict[str, list[float]]] = {}
        for name, metrics in entries.items():
            model = metrics.get("model", name)
            for metric, value in metrics.items():
                if metric != "model":
                    found.setdefault(model, {}).setdefault(metric, []).append(_number(value))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: no accuracy of the form {form} ({type(error).__name__}: {error})"
        ) from error
    return {
        model: {metric: sum(values) / len(values) for metric, values in metrics.items()}
        for model, metrics in found.items()
    }


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)
