"""Many pictures to many files, where one bad picture does not stop the others."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from fasthmr import __version__
from fasthmr.errors import FastHMRError, ResourceError, UsageError, did_you_mean
from fasthmr.evaluation.coco import read_results, write_results
from fasthmr.io.images import read_image, write_image
from fasthmr.render.overlay import overlay
from fasthmr.render.skeleton import draw_keypoints
from fasthmr.results import Clip, PoseClip
from fasthmr.runtime.loading import Task
from fasthmr.runtime.manifest import Manifest, module_digest
from fasthmr.runtime.sources import image_ids, output_stems
from fasthmr.runtime.timing import Stopwatch
from fasthmr.types import Mesh

if TYPE_CHECKING:
    from fasthmr.runtime.pipeline import Pipeline

_log = logging.getLogger(__name__)

FORMATS: dict[Task, dict[str, str]] = {
    "mesh": {"overlay": ".overlay.png", "glb": ".glb", "npz": ".npz", "obj": ".obj", "json": ".json"},
    "pose": {"overlay": ".overlay.png", "json": ".keypoints.json", "npz": ".npz"},
}
"""What can be saved for each task, and how the file names end."""

DEFAULT_FORMATS: dict[Task, tuple[str, ...]] = {
    "mesh": ("overlay", "glb", "npz"),
    "pose": ("overlay", "json", "npz"),
}
JOINED_KEYPOINTS = "keypoints.json"
"""The keypoints of all pictures of a run in one file."""


@dataclass(frozen=True, kw_only=True)
class ItemReport:
    """How it went with one picture.

    Attributes:
        outputs: Files written, or found complete from a former run.
        timings: Seconds of each stage.
        error: What went wrong, and the exception itself.
    """

    source: Path
    status: Literal["ok", "skipped", "failed"]
    persons: int = 0
    outputs: tuple[Path, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    error: Exception | None = None


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
    pictures: Sequence[Path],
    out: Path,
    save: Sequence[str] | None = None,
    resume: bool = False,
) -> Iterator[ItemReport]:
    """Runs the pipeline on each picture and writes its results; see `Pipeline.predict_many`.

    Raises:
        ResourceError: Disk or memory is used up; what was finished stays.
    """
    formats = check_formats(save, pipeline.task)
    pipeline.prepare()
    stems, numbers = output_stems(pictures), image_ids(pictures)
    finished: list[Path] = []
    manifest = Manifest(out, _settings(pipeline, formats), resume=resume)
    for picture in pictures:
        done = manifest.finished(picture) if resume else None
        if done is not None:
            report = ItemReport(source=picture, status="skipped", outputs=tuple(out / name for name in done))
            finished += report.outputs
            yield report
            continue
        try:
            report = _predict_one(pipeline, picture, out / stems[picture], numbers[picture], formats)
        except (ResourceError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever one picture does, the others are finished
            if not isinstance(error, FastHMRError):
                _log.debug("unexpected error", exc_info=True)
            report = ItemReport(source=picture, status="failed", error=error)
        names = [path.name for path in report.outputs]
        manifest.add(picture, report.status, names, None if report.error is None else str(report.error))
        finished += report.outputs
        yield report
    if pipeline.task == "pose" and "json" in formats and len(pictures) > 1:
        parts = [path for path in finished if path.name.endswith(FORMATS["pose"]["json"])]
        write_results([row for part in parts for row in read_results(part)], out / JOINED_KEYPOINTS)


def draw(
    clip: Clip | PoseClip, rgb: UInt8[np.ndarray, "height width 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The people of a picture drawn over it, as meshes or as skeletons."""
    if isinstance(clip, PoseClip):
        points = [person.keypoints_2d[0] for person in clip.persons]
        return draw_keypoints(rgb, points, [person.boxes_xyxy[0] for person in clip.persons])
    faces = torch.from_numpy(np.asarray(clip.faces))
    meshes = [Mesh(vertices=torch.from_numpy(person.vertices[0]), faces=faces) for person in clip.persons]
    return overlay(rgb, meshes, torch.from_numpy(clip.intrinsics[0]))


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
        source=picture, status="ok", persons=len(clip.persons), outputs=outputs, timings=watch.seconds
    )


def _settings(pipeline: Pipeline, formats: Sequence[str]) -> str:
    """Digest of everything beside the picture that shapes its results."""
    network = pipeline.cameras.network
    parts = {
        "version": __version__,
        "model": [pipeline.model_name, module_digest(pipeline.model)],
        "body": [pipeline.body.name, module_digest(pipeline.body)],
        "detector": pipeline.detector_name,
        "boxes": None if pipeline.boxes_file is None else pipeline.boxes_file.digest,
        "task": pipeline.task,
        "camera": [
            *pipeline.cameras.settings(),
            module_digest(network) if isinstance(network, nn.Module) else None,
        ],
        "max_persons": pipeline.max_persons,
        "formats": sorted(formats),
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
