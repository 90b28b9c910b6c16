"""Commands that are little more than a call."""

from __future__ import annotations

import sys
from pathlib import Path

from fasthmr.cli.telling import printable, say, split, write_json


def demo(out: Path = Path("fasthmr-demo"), debug: bool = False) -> None:
    """Run on the pictures and the clip that come with the package and write overlays, meshes and data.

    Args:
        out: Folder for the results.
        debug: Show the traceback of errors.
    """
    from fasthmr.runtime.demo import run_demo

    folder = run_demo(out, say)
    say(f"results are in {printable(folder)}")


def convert(
    result: Path,
    /,
    to: str,
    out: Path | None = None,
    debug: bool = False,
) -> None:
    """Write a result file (.npz) in other formats.

    Args:
        result: A result that 'fasthmr predict' wrote.
        to: Formats to write, separated by commas: glb (animated if the result has several frames), bvh (a
            file per person), obj (a file per frame), json, npz.
        out: Folder for the files; beside the result if not given.
        debug: Show the traceback of errors.
    """
    from fasthmr.runtime.convert import convert_result

    for path in convert_result(result, split(to), out):
        say(f"wrote {printable(path)}")


def accelerate(
    model: str,
    /,
    data: str,
    masks: str = "self",
    labels: str = "auto",
    max_error_mm: float | None = None,
    target_speedup: float = 2.2,
    tokens: int | None = None,
    plan: Path | None = None,
    heal_steps: int = 300,
    heal_data: Path | None = None,
    detector: str = "auto",
    out: Path = Path("accelerated"),
    seed: int = 0,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Merge layers and tokens of a model; write the cheaper model and a report of what it costs.

    A run that was stopped goes on from its last trial when it is started again with the same options.

    Args:
        model: Preset ('default' for the one that comes with the package) or weight file.
        data: Folder, glob or list of pictures with people (no labels needed), or a folder of rendered
            records.
        masks: Which tokens are on the person: 'self' teaches the model to find out by itself; 'ellipse' in
            the box, 'true' masks of records, a folder with a mask NAME.png for each picture, or an .onnx
            segmentation model; 'none' protects nobody.
        labels: 'auto' measures the error where true joints are known, 'none' always the distance to the
            unmerged model.
        max_error_mm: Allowed rise of the mean joint error, before healing. If not given, --target-speedup
            counts.
        target_speedup: Speed-up to reach, as measured here, with the least error.
        tokens: Tokens to keep; several numbers are tried if not given.
        plan: Merge by the plan.json of a former run instead of searching.
        heal_steps: Steps of distillation to the unmerged model; 0 for none.
        heal_data: Rendered records to heal on, instead of the calibration part of the data.
        detector: As for 'predict'.
        out: Folder for model.safetensors, plan.json, report.html and report.md.
        seed: Of the split into calibration and held-out pictures.
        json: Write the numbers of the report as JSON.
        debug: Show the traceback of errors.
    """
    from fasthmr.acceleration.command import run_accelerate

    report = run_accelerate(
        model,
        data,
        masks=masks,
        labels=labels,
        max_error_mm=max_error_mm,
        target_speedup=target_speedup,
        tokens=tokens,
        plan=plan,
        heal_steps=heal_steps,
        heal_data=heal_data,
        detector=detector,
        out=out,
        seed=seed,
    )
    if json:
        write_json(report)
    say(f"model, plan and report are in {printable(out)}")


def import_file(
    file: Path,
    /,
    out: Path | None = None,
    intrinsics: Path | None = None,
    preset: str | None = None,
    regressor: Path | None = None,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Check a published checkpoint, body or mesh hierarchy and write it as safetensors.

    Args:
        file: Weights of a published model, an SMPL, SMPL-H, SMPL-X or MANO file, or METRO's
            mesh_downsampling.npz or mano_downsampling.npz.
        out: File to write; beside the source and named after it if not given.
        intrinsics: Weights of the camera network to put into the same file (CameraHMR).
        preset: Name of the preset that the file must fit; told from the file if not given.
        regressor: Joints to put into the same file as a mesh hierarchy: METRO's J_regressor_h36m_correct.npy,
            which METRO starts from.
        json: Write the report as JSON.
        debug: Show the traceback of errors.
    """
    from fasthmr.runtime.import_file import as_lines, run_import

    report = run_import(file, out, intrinsics, preset, regressor)
    if json:
        write_json(report)
        return
    for line in as_lines(report):
        say(printable(line))


def models(patterns: str = "*", /, json: bool = False, debug: bool = False) -> None:
    """List the presets: parameters and multiply-accumulates beside the published numbers.

    Args:
        patterns: Only names that match one, such as 'hmr2_*' or 'hmr2_*,vitpose_*'.
        json: Write the list as JSON, with exact numbers.
        debug: Show the traceback of errors.
    """
    from fasthmr.benchmark.listing import as_table, list_presets

    rows = list_presets(patterns)
    if json:
        write_json(rows)
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 100, highlight=False).print(as_table(rows))


def export(
    model: str,
    /,
    to: str = "onnx,openvino",
    out: Path = Path("exported"),
    checkpoint: Path | None = None,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Write a model for other engines; every file is run and compared with the model before it is kept.

    Args:
        model: Preset ('default' for the one that comes with the package) or weight file.
        to: Formats, separated by commas: onnx, openvino.
        out: Folder for the files, which are named after the model.
        checkpoint: Weights of the preset, where none come with the package.
        json: Write the report as JSON.
        debug: Show the traceback of errors.
    """
    from fasthmr.runtime.export import run_export

    report = run_export(model, split(to), out, checkpoint)
    if json:
        write_json(report.as_json())
    for file in report.files:
        say(
            f"wrote {printable(file.path)} ({file.bytes / 1e6:.1f} MB), {file.precision} in {file.engine}, "
            f"largest difference {max(file.errors.values()):.1e}"
        )


def doctor(json: bool = False, debug: bool = False) -> None:
    """Show versions, back ends, data that comes with the package, and licences.

    Args:
        json: Write the findings as JSON.
        debug: Show the traceback of errors.
    """
    from fasthmr.runtime.inventory import examine

    findings = examine()
    if json:
        write_json(findings)
        return
    for section, entries in findings.items():
        sys.stdout.write(f"{section}\n")
        for name, value in entries.items():
            sys.stdout.write(f"  {name:28} {value}\n")
