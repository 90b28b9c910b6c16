"""The command `fasthmr`. Nothing heavy is imported before a subcommand runs, and help needs none of it."""

from __future__ import annotations

import dataclasses
import importlib
import json as json_module
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from fasthmr import __version__
from fasthmr.errors import FastHMRError, PartialFailure, ResourceError, UsageError, did_you_mean

if TYPE_CHECKING:
    from fasthmr.runtime.batch import ItemReport

_INTERRUPTED = 130
_INTERNAL = 1

# Functions of one configuration, whose fields become the options.
_RECIPES = {
    "diffusion_decoder": "fasthmr.training.diffusion_decoder:train",
    "first_light": "fasthmr.training.first_light:train",
    "hierarchical": "fasthmr.training.hierarchical:train",
    "motion_vae": "fasthmr.training.motion_vae:train",
    "tore": "fasthmr.training.tore:train",
}
_REPORTS = {
    "acceleration": "fasthmr.acceleration.tables:report",
    "adaptive_tokens": "fasthmr.acceleration.adaptive_report:report",
    "first_light": "fasthmr.training.first_light_report:report",
    "metro": "fasthmr.runtime.metro_eval:report",
    "hierarchical": "fasthmr.training.hierarchical_report:report",
    "motion": "fasthmr.training.motion_report:report",
    "tore": "fasthmr.training.tore_report:report",
}


def demo(out: Path = Path("fasthmr-demo"), debug: bool = False) -> None:
    """Run on the pictures and the clip that come with the package and write overlays, meshes and data.

    Args:
        out: Folder for the results.
        debug: Show the traceback of errors.
    """
    from fasthmr.runtime.demo import run_demo

    folder = run_demo(out, _say)
    _say(f"results are in {_printable(folder)}")


def predict(
    sources: tuple[str, ...],
    /,
    task: str = "mesh",
    model: str = "default",
    body: Path | None = None,
    mesh: Path | None = None,
    boxes: Path | None = None,
    hand: Literal["left", "right"] | None = None,
    detector: str = "auto",
    focal: float | None = None,
    fov: float | None = None,
    calib: Path | None = None,
    intrinsics: str = "auto",
    max_persons: int | None = None,
    every: int = 1,
    max_frames: int | None = None,
    detect_every: int | None = None,
    smooth: str = "auto",
    delay: float = 0.0,
    save: str | None = None,
    out: Path = Path("out"),
    resume: bool = False,
    batch_size: int = 16,
    device: str = "auto",
    engine: str = "auto",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Recover a body mesh, or 2D keypoints, for every person in pictures and videos.

    One Ctrl-C ends a video early and writes what was read; a second one ends at once.

    Args:
        sources: Picture and video files, folders, globs, .txt lists with one of these in a line, numbers of
            cameras, or URLs of streams.
        task: 'mesh', or 'pose' for COCO's 17 keypoints.
        model: Name of a preset ('fasthmr models' lists them), a weight file, or an exported model
            (.onnx, .xml).
        body: SMPL, SMPL-H or SMPL-X file to use instead of the free body; for METRO, FastMETRO and TORE the
            body or hand (MANO) whose mesh they give.
        mesh: Hierarchy of that mesh for published weights: METRO's mesh_downsampling.npz, or what 'import'
            made of it.
        boxes: JSON or CSV file with the boxes of people, or hands with their sides, in each picture
            ("photo.jpg") or frame of a video ("clip.mp4#12").
        hand: What hands are where their boxes do not say it, for models of hands: 'right' if not given.
        detector: 'auto', 'full' (one person fills the picture) or the path of an .onnx person detector.
        focal: Focal length in pixels.
        fov: Horizontal field of view in degrees, instead of --focal.
        calib: File with the camera matrix, instead of --focal: JSON with K or fx, fy, cx, cy, NPZ, or text.
        intrinsics: Where the camera comes from if not given: 'exif', 'model' (the model's own network),
            'hmr2' (a long lens), or the weight file of an intrinsics network. 'auto' means, for models that
            take the camera, EXIF where it is believable, else the model's network; for others 'hmr2'.
        max_persons: Keep this many of the best detections in each picture, or follow so many people at once.
        every: Take every n-th frame of videos only.
        max_frames: Take so many frames of a video at most.
        detect_every: Look for people in every n-th of these frames, and follow them in between; about ten
            times a second if not given.
        smooth: What smooths motion in videos: 'decoder' (learned), 'savgol' (Savitzky-Golay), 'one-euro' or
            'none'; 'auto' is the decoder for the models it was trained with and 'savgol' for others.
            Cameras and streams: 'decoder' with the past alone, else 'one-euro', which needs no future.
        delay: Seconds by which frames of cameras and streams may come later, so that 'decoder' and 'savgol'
            see what follows; 0.15 is enough for 'decoder'. Frames that cannot be kept up with are left out.
        save: What to write, separated by commas: overlay, glb, npz, bvh, obj, json; the first three if not
            given. With --task pose: overlay, json (COCO results), npz.
        out: Folder for the results.
        resume: Skip what a former run with the same settings finished.
        batch_size: People that pass the model at once.
        device: 'auto', 'cpu', 'cuda' or another torch device.
        engine: What runs the model: 'auto' (torch, or what an exported file is for), 'torch', 'onnxruntime'
            or 'openvino'. These run on the CPU, and a model that is not exported yet is, for this run.
        json: Write the outcome as JSON to the standard output.
        debug: Show the traceback of errors.
    """
    from fasthmr.runtime.sources import find_sources, is_video

    found = find_sources(sources)

    from rich.console import Console
    from rich.progress import Progress

    from fasthmr.runtime.batch import check_formats, predict_many
    from fasthmr.runtime.loading import check_task
    from fasthmr.runtime.pipeline import Pipeline
    from fasthmr.runtime.timing import summarise
    from fasthmr.runtime.video_options import VideoOptions

    formats = check_formats(None if save is None else _split(save), check_task(task))
    pipeline = Pipeline(
        model,
        task=task,
        body=body,
        mesh=mesh,
        boxes=boxes,
        hand=hand,
        detector=detector,
        focal=focal,
        fov_deg=fov,
        calib=calib,
        intrinsics=intrinsics,
        max_persons=max_persons,
        batch_size=batch_size,
        device=device,
        engine=engine,
        video=VideoOptions(
            every=every, max_frames=max_frames, detect_every=detect_every, smooth=smooth, delay=delay
        ),
    )
    reports = []
    total = len(found.items)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("files", total=total)
        frames = progress.add_task("frames", visible=False)

        def show(stage: str, done: int, expected: int | None) -> None:
            progress.update(frames, description=stage, completed=done, total=expected, visible=True)

        for report in predict_many(pipeline, found.items, out, formats, resume, show):
            reports.append(report)
            progress.update(bar, completed=len(reports))
            progress.update(frames, visible=False)
            _say(f"[{len(reports)}/{total}] {_describe(report)}")
            if debug and report.error is not None:
                traceback.print_exception(report.error)
    timings = summarise([report.timings for report in reports], [report.frames or 1 for report in reports])
    for stage, seconds in timings.items():
        _say(f"{stage:>10} {1000 * seconds['median']:9.1f} ms median {seconds['total']:9.2f} s total")
    _say(f"{'engine':>10} {pipeline.engine}")
    failed = [report for report in reports if report.status == "failed"]
    partial = [report for report in reports if report.status == "partial"]
    if json:
        _write_json(
            {
                "items": [_as_json(report) for report in reports],
                "engine": pipeline.engine,
                "timings": timings,
                "failed": len(failed),
                "partial": len(partial),
            }
        )
    if failed and found.single and failed[0].error is not None:
        raise failed[0].error
    if failed:
        kind = "files" if any(is_video(item) for item in found.items) else "pictures"
        raise PartialFailure(f"{len(failed)} of {len(reports)} {kind} failed; the others are in {out}")
    if partial:
        told = "; ".join(f"{report.source}: {report.warning}" for report in partial)
        raise PartialFailure(f"{told}; the results in {out} are for these")


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

    for path in convert_result(result, to.split(","), out):
        _say(f"wrote {_printable(path)}")


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
        _write_json(report)
    _say(f"model, plan and report are in {_printable(out)}")


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
        _write_json(report)
        return
    for line in as_lines(report):
        _say(_printable(line))


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
        _write_json(rows)
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

    report = run_export(model, _split(to), out, checkpoint)
    if json:
        _write_json(report.as_json())
    for file in report.files:
        _say(
            f"wrote {_printable(file.path)} ({file.bytes / 1e6:.1f} MB), {file.precision} in {file.engine}, "
            f"largest difference {max(file.errors.values()):.1e}"
        )


def bench(
    models: tuple[str, ...] = (),
    /,
    zoo: str | None = None,
    batch: str = "1,8",
    engine: str = "torch",
    precision: str = "float32",
    layers: int | None = None,
    tokens: int | None = None,
    seconds: float | None = None,
    rounds: int = 5,
    threads: str | None = None,
    device: str = "cpu",
    out: Path = Path("zoo_speed"),
    accuracy: Path | None = None,
    resume: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Time models in turns; with --zoo, say which of many presets to use on this machine.

    Args:
        models: Presets (random weights where none come along), weight files, or exported models. They are
            compared with the first; names joined by commas make a group with a first of its own.
        zoo: Patterns of presets, separated by commas, such as 'hmr2_*_s3,hmr2_vit_s'. All are timed, a few at
            a time, and the outcome is written as a table, plots and JSON.
        batch: Crops that pass the model at once; several numbers separated by commas.
        engine: torch, onnxruntime, openvino, separated by commas; 'auto' for exported models.
        precision: float32, bfloat16, separated by commas.
        layers: Time each model also with this many layers, the last ones merged.
        tokens: And with this many tokens, merged around an elliptic mask.
        seconds: To spend on each batch size, 10 if not given; with --zoo on everything, 600 if not given.
        rounds: Rounds to run at least.
        threads: Of the processor; as the environment says if not given. With --zoo several numbers,
            separated by commas.
        device: 'cpu', 'cuda' or another torch device.
        out: With --zoo, where to write: OUT.md, OUT.json and OUT.png.
        accuracy: With --zoo, a JSON file with the accuracy of models to plot speed against:
            {"accuracy": {"MODEL": {"METRIC": number}}}.
        resume: With --zoo, go on with a run that was stopped, from OUT.json.
        json: Write the numbers as JSON.
        debug: Show the traceback of errors.
    """
    import torch

    from fasthmr.benchmark.bench import as_table, bench_models
    from fasthmr.benchmark.chooser import choose_models
    from fasthmr.runtime.backends import check_engine, open_model
    from fasthmr.runtime.loading import DEFAULT_MODEL, choose_device

    counts = [] if threads is None else _numbers(threads, "threads")
    if threads is not None and (not counts or min(counts) < 1):
        raise UsageError(f"--threads {threads}: at least 1 is needed")
    for name in _split(engine):
        check_engine(name)
    where = choose_device(device)
    named = [DEFAULT_MODEL if name == "default" else name for name in models]
    if zoo is not None:
        if layers is not None or tokens is not None:
            raise UsageError("--layers and --tokens are for single models, not for --zoo")
        chosen = choose_models(
            zoo,
            open_model,
            out,
            models=named,
            threads=counts,
            batches=_numbers(batch, "batch"),
            engines=_split(engine),
            precisions=_split(precision),
            seconds=600.0 if seconds is None else seconds,
            min_rounds=rounds,
            device=where,
            accuracy=accuracy,
            resume=resume,
            command=f"fasthmr {shlex.join(sys.argv[1:])}",
            progress=_say,
        )
        if json:
            _write_json(chosen.as_json())
        else:
            sys.stdout.writelines(f"{advice.sentence}\n" for advice in chosen.advice)
        _say(f"wrote {', '.join(_printable(path) for path in chosen.files)}")
        return
    if accuracy is not None or resume:
        raise UsageError("--accuracy and --resume belong to --zoo")
    if len(counts) > 1:
        raise UsageError("several numbers of threads are for --zoo")
    if counts:
        torch.set_num_threads(counts[0])
    report = bench_models(
        named,
        open_model,
        batches=_numbers(batch, "batch"),
        engines=_split(engine),
        precisions=_split(precision),
        layers=layers,
        tokens=tokens,
        seconds=10.0 if seconds is None else seconds,
        min_rounds=rounds,
        device=str(where),
    )
    if json:
        _write_json(report.as_json())
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 130, highlight=False).print(as_table(report))


def doctor(json: bool = False, debug: bool = False) -> None:
    """Show versions, back ends, data that comes with the package, and licences.

    Args:
        json: Write the findings as JSON.
        debug: Show the traceback of errors.
    """
    from fasthmr.runtime.inventory import examine

    findings = examine()
    if json:
        _write_json(findings)
        return
    for section, entries in findings.items():
        sys.stdout.write(f"{section}\n")
        for name, value in entries.items():
            sys.stdout.write(f"  {name:28} {value}\n")


_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "predict": predict,
    "convert": convert,
    "accelerate": accelerate,
    "import": import_file,
    "export": export,
    "models": models,
    "bench": bench,
    "doctor": doctor,
}
_GROUPS = {
    "train": (_RECIPES, "Train a model by a recipe: {known}."),
    "report": (_REPORTS, "Measure a model and write the report: {known}."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(arguments)
    except SystemExit as stop:  # tyro has shown help or a usage error
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        _say("interrupted; finished results are kept")
        return _INTERRUPTED
    except FastHMRError as error:
        return _fail(error, str(error), error.exit_code, arguments)
    except MemoryError as error:
        message = "memory is used up; use a smaller picture or batch size"
        return _fail(error, message, ResourceError.exit_code, arguments)
    except BrokenPipeError:  # the reader of our output has left
        sys.stdout = None  # type: ignore[assignment]
        return 0
    except Exception as error:  # noqa: BLE001 - a defect of ours, still told in one line
        message = f"unexpected {type(error).__name__}: {error}; run again with --debug and report it"
        return _fail(error, message, _INTERNAL, arguments)
    return 0


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        if not arguments:
            raise UsageError("no command given")
        return
    if arguments[0] == "--version":
        sys.stdout.write(f"fasthmr {__version__}\n")
        return
    command, *rest = arguments
    if command in _GROUPS:
        _run_module(command, rest)
    elif command in _COMMANDS:
        import tyro

        tyro.cli(
            _COMMANDS[command], prog=f"fasthmr {command}", args=rest, config=(tyro.conf.FlagCreatePairsOff,)
        )
    else:
        known = (*_COMMANDS, *_GROUPS)
        raise UsageError(f"unknown command '{command}'{did_you_mean(command, known)}; see 'fasthmr --help'")


def _run_module(command: str, arguments: list[str]) -> None:
    """Recipes and reports bring options of their own."""
    table, description = _GROUPS[command]
    known = ", ".join(table)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(
            f"usage: fasthmr {command} NAME [OPTIONS]\n\n{description.format(known=known)}\n"
            f"'fasthmr {command} NAME --help' shows the options.\n"
        )
        if not arguments:
            raise UsageError(f"'fasthmr {command}' needs a name: {known}")
        return
    name, *rest = arguments
    if name not in table:
        raise UsageError(f"unknown {command} '{name}'{did_you_mean(name, list(table))}; known: {known}")
    import logging

    import tyro

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    module, name_of_function = table[name].split(":")
    function = getattr(importlib.import_module(module), name_of_function)
    (config_type, *_) = get_type_hints(function).values()
    config = tyro.cli(
        config_type,
        prog=f"fasthmr {command} {name}",
        args=[argument for argument in rest if argument != "--debug"],
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    function(config)


def _help() -> str:
    lines = [(name, (function.__doc__ or "").splitlines()[0]) for name, function in _COMMANDS.items()]
    lines += [(name, text.format(known=", ".join(table))) for name, (table, text) in _GROUPS.items()]
    listed = "\n".join(f"  {name:10} {text}" for name, text in lines)
    return (
        "usage: fasthmr COMMAND [OPTIONS]\n\nPictures and videos of people to 3D body meshes.\n\n"
        f"{listed}\n\n'fasthmr COMMAND --help' shows the options of a command.\n"
    )


def _fail(error: BaseException, message: str, code: int, arguments: list[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exception(error)
    _say(f"fasthmr: {_printable(message)}")
    return code


def _describe(report: ItemReport) -> str:
    name = _printable(report.source)
    if report.status == "failed":
        text = str(report.error)
        if not isinstance(report.error, FastHMRError):
            text = f"{report.source}: unexpected {type(report.error).__name__}: {text}"
        return _printable(text)
    if report.status == "skipped":
        return f"{name}: done before"
    count = {0: "nobody found", 1: "1 person"}.get(report.persons, f"{report.persons} people")
    if report.frames == 1:
        return f"{name}: {count}, {1000 * report.seconds:.0f} ms"
    frames = report.frames or 0
    latency = "" if report.latency is None else f", {report.latency}"
    warning = f"; {report.warning}" if report.warning else ""
    return f"{name}: {count} in {frames} frames, {frames / report.seconds:.1f} frames/s{latency}{warning}"


def _as_json(report: ItemReport) -> dict[str, Any]:
    return {
        "source": str(report.source),
        "status": report.status,
        "persons": report.persons,
        "frames": report.frames,
        "seconds": report.seconds,
        "outputs": [str(path) for path in report.outputs],
        "timings": dict(report.timings),
        "latency": None if report.latency is None else dataclasses.asdict(report.latency),
        "warning": report.warning or None,
        "error": None if report.error is None else str(report.error),
    }


def _write_json(content: object) -> None:
    sys.stdout.write(json_module.dumps(content, indent=2) + "\n")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in _split(text)]
    except ValueError as error:
        raise UsageError(f"--{option} {text}: whole numbers separated by commas, such as 1,8") from error


def _say(line: str) -> None:
    """Progress and errors go to the standard error stream."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _printable(text: object) -> str:
    """Control characters of file names as escapes, so that they cannot act on a terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(text)
    )
