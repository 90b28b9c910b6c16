"""What `fasthmr import` does: weights or a body, and the report in words."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fasthmr.checkpoints.import_file import (
    ExpectedModel,
    import_body,
    import_checkpoint,
    import_hierarchy,
    is_body_file,
)
from fasthmr.errors import UsageError
from fasthmr.io.hierarchy_files import is_hierarchy_file


def run_import(
    file: Path,
    out: Path | None = None,
    intrinsics: Path | None = None,
    preset: str | None = None,
    regressor: Path | None = None,
) -> dict[str, Any]:
    """Import a file, told by its content; the report as plain values.

    Raises:
        InputError: There is no such file.
        UnsafeFileError: It is unsafe, damaged, of no known layout, or does not fit the preset.
        UsageError: An unknown preset, or an option that such a file has no use for.
        ResourceError: The result cannot be written.
    """
    expected = None
    if preset is not None:
        from fasthmr.zoo import preset as find_preset

        row = find_preset(preset)
        expected = ExpectedModel(name=row.name, config=row.config(), table=row.layout)
    if regressor is not None and not is_hierarchy_file(file):
        raise UsageError(f"{file}: no mesh hierarchy; --regressor is for these")
    if is_hierarchy_file(file):
        if intrinsics is not None or expected is not None:
            raise UsageError(f"{file}: a mesh hierarchy; --intrinsics and --preset are for weights")
        report = import_hierarchy(file, out, regressor)
    elif is_body_file(file):
        if intrinsics is not None or expected is not None:
            raise UsageError(f"{file}: a body file; --intrinsics and --preset are for weights")
        report = import_body(file, out)
    else:
        report = import_checkpoint(file, out, intrinsics, expected)
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(report).items()}


def as_lines(report: dict[str, Any]) -> list[str]:
    """A report in words."""
    preset = "" if report["kind"] != "weights" else f", preset {report['preset'] or 'none has these sizes'}"
    lines = [
        f"recognised {report['recognised']}{preset}",
        f"took over {report['tensors']} tensors, {report['parameters'] / 1e6:.2f} M numbers, all finite",
    ]
    lines += [f"ignored {count} keys: {reason}" for reason, count in report["ignored"].items()]
    if report["not_read"]:
        lines.append(f"not read: {', '.join(report['not_read'])}")
    return [
        *lines,
        f"source SHA-256 {report['source_sha256']}",
        f"licence: {report['licence']}",
        f"wrote {report['out']}",
        f"next: {report['next_command']}",
    ]
