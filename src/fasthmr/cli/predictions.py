"""`fasthmr predict`."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fasthmr.cli.telling import printable, say, split, write_json
from fasthmr.errors import FastHMRError, PartialFailure

if TYPE_CHECKING:
    from fasthmr.runtime.batch import ItemReport


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

    formats = check_formats(None if save is None else split(save), check_task(task))
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
            say(f"[{len(reports)}/{total}] {_describe(report)}")
            if debug and report.error is not None:
                traceback.print_exception(report.error)
    timings = summarise([report.timings for report in reports], [report.frames or 1 for report in reports])
    for stage, seconds in timings.items():
        say(f"{stage:>10} {1000 * seconds['median']:9.1f} ms median {seconds['total']:9.2f} s total")
    say(f"{'engine':>10} {pipeline.engine}")
    failed = [report for report in reports if report.status == "failed"]
    partial = [report for report in reports if report.status == "partial"]
    if json:
        write_json(
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


def _describe(report: ItemReport) -> str:
    name = printable(report.source)
    if report.status == "failed":
        text = str(report.error)
        if not isinstance(report.error, FastHMRError):
            text = f"{report.source}: unexpected {type(report.error).__name__}: {text}"
        return printable(text)
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
