"""Many pictures and videos to many files, where a bad one does not stop the others."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import UInt8
from torch import nn

from fasthmr import __version__
from fasthmr.errors import FastHMRError, ResourceError, UsageError, did_you_mean
from fasthmr.evaluation.coco import read_results, write_results
from fasthmr.io.images import read_image, write_image
from fasthmr.results import Clip, PoseClip
from fasthmr.runtime.draw import draw
from fasthmr.runtime.loading import Task
from fasthmr.runtime.manifest import Manifest, module_digest
from fasthmr.runtime.sources import Live, Source, image_ids, is_video, output_stems
from fasthmr.runtime.stream import Latency
from fasthmr.runtime.timing import Stopwatch
from fasthmr.runtime.video import Progress, save_video

if TYPE_CHECKING:
    from fasthmr.runtime.pipeline import Pipeline

_log = logging.getLogger(__name__)

FORMATS: dict[Task, dict[str, str]] = {
    "mesh": {
        "overlay": ".overlay.png",
        "glb": ".glb",
        "npz": ".npz",
        "bvh": ".bvh",
        "obj": ".obj",
        "json": ".json",
    },
    "pose": {"overlay": ".overlay.png", "json": ".keypoints.json", "npz": ".npz"},
}
"""What can be saved for each task, and how the file names end."""

VIDEO_OVERLAY = ".overlay.mp4"
"""How the name of a video with its people drawn over it ends."""

DEFAULT_FORMATS: dict[Task, tuple[str, ...]] = {
    "mesh": ("overlay", "glb", "npz"),
    "pose": ("overlay", "json", "npz"),
}
JOINED_KEYPOINTS = "keypoints.json"
"""The keypoints of all pictures of a run in one file."""


@dataclass(frozen=True, kw_only=True)
class ItemReport:
    """How it went with one picture or video.

    Attributes:
        status: "partial" where a video was damaged or interrupted; the results are for what was read.
        frames: That were read; 1 for a picture, None for what was done before.
        outputs: Files written, or found complete from a former run.
        timings: Seconds of each stage; those of a video overlap.
        seconds: All in all.
        warning: What is missing.
        error: What went wrong, and the exception itself.
        latency: Of a camera or stream, from the arrival of a frame to its result.
    """

    source: Source
    status: Literal["ok", "partial", "skipped", "failed"]
    persons: int = 0
    frames: int | None = None
    outputs: tuple[Path, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    warning: str = ""
    error: Exception | None = None
    latency: Latency | None = None


def check_formats(save: Sequence[str] | None, task: Task = "mesh") -> tuple[str, ...]:
    """The formats to save, each once; those of `DEFAULT_FORMATS` for None.

    Raises:
        UsageError: One is unknown.
    """
    if save is None:
        return DEFAULT_FORMATS[task]
    known = FORMATS[task]
    for name in save:
        if name not in known:
            raise UsageError(
                f"cannot save '{name}' for the task '{task}'{did_you_mean(name, list(known))}; "
                f"known: {', '.join(known)}"
            )
    if not save:
        raise UsageError(f"nothing to save; name some of {', '.join(known)}")
    return tuple(dict.fromkeys(save))


def predict_many(
    pipeline: Pipeline,
    sources: Sequence[Source],
    out: Path,
    save: Sequence[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Iterator[ItemReport]:
    """Runs the pipeline on each picture and video and writes its results; see `Pipeline.predict_many`.

    Args:
        progress: Told how far a video is.

    Raises:
        ResourceError: Disk or memory is used up; what was finished stays.
        KeyboardInterrupt: After Ctrl-C; a video that was being read is finished first.
    """
    formats = check_formats(save, pipeline.task)
    pipeline.prepare()
    paths = [Path(source.name) if isinstance(source, Live) else source for source in sources]
    stems, numbers = output_stems(paths), image_ids(paths)
    finished: list[Path] = []
    manifest = Manifest(out, _settings(pipeline, formats), resume=resume)
    for source, path in zip(sources, paths, strict=True):
        done = manifest.finished(path) if resume and not isinstance(source, Live) else None
        if done is not None:
            report = ItemReport(source=source, status="skipped", outputs=tuple(out / name for name in done))
            finished += report.outputs
            yield report
            continue
        interrupted, start = False, time.perf_counter()
        try:
            if is_video(source):
                report, interrupted = _predict_video(pipeline, source, out / stems[path], formats, progress)
            else:
                report = _predict_one(pipeline, path, out / stems[path], numbers[path], formats)
        except (ResourceError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever one picture does, the others are finished
            if not isinstance(error, FastHMRError):
                _log.debug("unexpected error", exc_info=True)
            report = ItemReport(source=source, status="failed", error=error)
        report = dataclasses.replace(report, seconds=time.perf_counter() - start)
        names = [output.name for output in report.outputs]
        problem = report.warning or (None if report.error is None else str(report.error))
        manifest.add(path, report.status, names, problem)
        finished += report.outputs
        yield report
        if interrupted:
            raise KeyboardInterrupt
    if pipeline.task == "pose" and "json" in formats and len(sources) > 1:
        parts = [path for path in finished if path.name.endswith(FORMATS["pose"]["json"])]
        write_results([row for part in parts for row in read_results(part)], out / JOINED_KEYPOINTS)


def save_formats(
    clip: Clip | PoseClip,
    rgb: UInt8[np.ndarray, "height width 3"],
    base: Path,
    formats: Sequence[str],
    watch: Stopwatch,
) -> tuple[Path, ...]:
    """Writes the results beside each other as `base` with different endings."""
    outputs = []
    endings = FORMATS["pose" if isinstance(clip, PoseClip) else "mesh"]
    for name in formats:
        path = base.with_name(base.name + endings[name])
        if name == "overlay":
            with watch("render"):
                drawn = draw(clip, rgb)
            with watch("write"):
                outputs.append(write_image(path, drawn))
        else:
            with watch("write"):
                outputs.append(clip.save(path))
    return tuple(outputs)


def _predict_one(
    pipeline: Pipeline, picture: Path, base: Path, image_id: int, formats: Sequence[str]
) -> ItemReport:
    watch = Stopwatch()
    with watch("read"):
        rgb = read_image(picture)
    clip = pipeline.recover(rgb, path=picture, image_id=image_id, watch=watch)
    outputs = save_formats(clip, rgb, base, formats, watch)
    return ItemReport(
        source=picture,
        status="ok",
        persons=len(clip.persons),
        frames=1,
        outputs=outputs,
        timings=watch.seconds,
    )


def _predict_video(
    pipeline: Pipeline, source: Source, base: Path, formats: Sequence[str], progress: Progress | None
) -> tuple[ItemReport, bool]:
    watch = Stopwatch()
    endings = {name: FORMATS[pipeline.task][name] for name in formats}
    if "overlay" in endings:
        endings["overlay"] = VIDEO_OVERLAY
    outcome = save_video(pipeline, source, base, endings, pipeline.video, watch, progress)
    report = ItemReport(
        source=source,
        status="partial" if outcome.warning else "ok",
        persons=outcome.persons,
        frames=outcome.frames,
        outputs=outcome.outputs,
        timings=watch.seconds,
        warning=outcome.warning,
        latency=outcome.latency,
    )
    return report, outcome.interrupted


def _settings(pipeline: Pipeline, formats: Sequence[str]) -> str:
    """Digest of everything beside the picture that shapes its results."""
    network = pipeline.cameras.network
    parts = {
        "version": __version__,
        "model": [pipeline.model_name, module_digest(pipeline.model)],
        "body": [pipeline.body.name, module_digest(pipeline.body)],
        "detector": pipeline.detector_name,
        "boxes": None if pipeline.boxes_file is None else pipeline.boxes_file.digest,
        "hand": pipeline.left,
        "task": pipeline.task,
        "camera": [
            *pipeline.cameras.settings(),
            module_digest(network) if isinstance(network, nn.Module) else None,
        ],
        "max_persons": pipeline.max_persons,
        "formats": sorted(formats),
        "video": repr(pipeline.video),
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
