"""Recall, precision, average precision and time of the person detectors on marked pictures.

Run: python scripts/evaluate_detectors.py MEDIA_FOLDER [--draw FOLDER]

MEDIA_FOLDER holds the photos named in `annotations.json` (beside them) and in
`tests/data/media_boxes.json`, and the rendered clips with their `*_gt.npz`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from fasthmr.evaluation.detections import DetectionTally
from fasthmr.geometry.boxes import nms
from fasthmr.runtime.person_detector import load_person_detector
from fasthmr.types import Detections

Detector = Callable[[np.ndarray], Detections]
MARKS = Path(__file__).resolve().parents[1] / "tests" / "data" / "media_boxes.json"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture with the people marked in it; `small` is the height below which extras count apart."""

    group: str
    name: str
    rgb: np.ndarray
    boxes: np.ndarray
    ignore: np.ndarray
    small: float = 0.0


def video_frames(path: Path, wanted: set[int] | None, step: int = 1) -> dict[int, np.ndarray]:
    """Frames of a clip by number: the wanted ones, or every `step`-th."""
    capture = cv2.VideoCapture(str(path))
    frames: dict[int, np.ndarray] = {}
    index = 0
    while True:
        ok, frame = capture.read()
        if not ok:
            return frames
        if index in wanted if wanted is not None else index % step == 0:
            frames[index] = np.ascontiguousarray(frame[..., ::-1])
        index += 1


def read_rgb(path: Path) -> np.ndarray:
    """Picture as RGB bytes."""
    picture = cv2.imread(str(path))
    if picture is None:
        raise SystemExit(f"cannot read {path}")
    return np.ascontiguousarray(picture[..., ::-1])


def load_samples(media: Path) -> list[Sample]:
    """All marked pictures and every tenth frame of the rendered clips."""
    none = np.zeros((0, 4), np.float32)
    samples = []
    for image in json.loads((media / "annotations.json").read_text())["images"]:
        boxes = np.array([person["bbox_xyxy"] for person in image["persons"]], np.float32)
        rgb = read_rgb(media / image["file"])
        samples.append(Sample(group="photos", name=image["file"], rgb=rgb, boxes=boxes, ignore=none))
    marks = json.loads(MARKS.read_text())["images"]
    clips: dict[str, dict[int, np.ndarray]] = {}
    for file in {mark["file"] for mark in marks if "frame" in mark}:
        clips[file] = video_frames(media / file, {m["frame"] for m in marks if m["file"] == file})
    for mark in marks:
        is_frame = "frame" in mark
        samples.append(
            Sample(
                group="street clip" if is_frame else "photos",
                name=f"{mark['file']}:{mark['frame']}" if is_frame else mark["file"],
                rgb=clips[mark["file"]][mark["frame"]] if is_frame else read_rgb(media / mark["file"]),
                boxes=np.array(mark["boxes"], np.float32),
                ignore=np.array(mark.get("ignore", []), np.float32).reshape(-1, 4),
                small=mark.get("small", 0.0),
            )
        )
    for clip in ("render_walk", "render_dance"):
        truth = np.load(media / f"{clip}_gt.npz")["bbox_xyxy"]
        for index, rgb in video_frames(media / f"{clip}.mp4", None, 10).items():
            boxes = truth[index : index + 1].astype(np.float32)
            samples.append(Sample(group="renders", name=f"{clip}:{index}", rgb=rgb, boxes=boxes, ignore=none))
    return samples


HOG_THRESHOLD = 0.5


def hog_detector(side: int) -> Detector:
    """OpenCV's people detector; the 64x128 window has 16 px of margin, which is cut off its boxes."""
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())

    def detect(rgb: np.ndarray) -> Detections:
        scale = side / max(rgb.shape[:2])
        picture = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found, weights = hog.detectMultiScale(
            picture, hitThreshold=0.0, winStride=(8, 8), padding=(16, 16), scale=1.05, groupThreshold=0
        )
        if len(found) == 0:
            return Detections(boxes_xyxy=torch.zeros(0, 4), scores=torch.zeros(0))
        x, y, w, h = np.asarray(found, np.float32).T
        boxes = np.stack([x + 0.16 * w, y + 0.09 * h, x + 0.84 * w, y + 0.91 * h], 1) / scale
        boxes = boxes.clip(0, np.array([rgb.shape[1], rgb.shape[0]] * 2, np.float32))
        scores = torch.from_numpy(np.asarray(weights, np.float32).ravel())
        kept = nms(torch.from_numpy(boxes.astype(np.float32)), scores, 0.4)
        return Detections(boxes_xyxy=torch.from_numpy(boxes.astype(np.float32))[kept], scores=scores[kept])

    return detect


def draw(sample: Sample, boxes: np.ndarray, verdicts: list[bool | None], path: Path) -> None:
    """Marked people white, hits green, false boxes red, boxes set apart blue."""
    picture = sample.rgb.copy()
    for box in sample.boxes:
        cv2.rectangle(picture, box[:2].astype(int), box[2:].astype(int), (255, 255, 255), 1)
    colors = {True: (0, 255, 0), False: (255, 0, 0), None: (0, 128, 255)}
    for box, verdict in zip(boxes, verdicts, strict=True):
        cv2.rectangle(picture, box[:2].astype(int), box[2:].astype(int), colors[verdict], 2)
    cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1]))


def evaluate(
    name: str, detector: Detector, threshold: float, samples: list[Sample], folder: Path | None
) -> str:
    """Rows of a Markdown table, one for each group of pictures and one for all.

    Recall, precision and IoU are those at the threshold; AP runs over all scores.
    """
    tallies: dict[str, tuple[DetectionTally, DetectionTally, list[float]]] = {}
    detector(samples[0].rgb)
    for sample in samples:
        begin = time.process_time()
        found = detector(sample.rgb)
        seconds = time.process_time() - begin
        keep = found.scores >= threshold
        truth, ignored = torch.from_numpy(sample.boxes), torch.from_numpy(sample.ignore)
        verdicts: list[bool | None] = []
        for group in (sample.group, "all"):
            at, over_all, times = tallies.setdefault(group, (DetectionTally(), DetectionTally(), []))
            verdicts = at.add(found.boxes_xyxy[keep], found.scores[keep], truth, ignored, sample.small)
            over_all.add(found.boxes_xyxy, found.scores, truth, ignored, sample.small)
            times.append(seconds)
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            file = f"{name}_{sample.name}.jpg".replace(":", "_").replace(" ", "_")
            draw(sample, found.boxes_xyxy[keep].numpy(), verdicts, folder / file)
    rows = []
    for group, (at, over_all, times) in sorted(tallies.items(), key=lambda item: item[0] == "all"):
        iou = float(np.mean(at.ious)) if at.ious else 0.0
        rows.append(
            f"| {name} | {group} | {at.people} | {100 * at.recall():.0f} | {100 * at.precision():.0f} "
            f"| {100 * over_all.average_precision():.0f} | {iou:.2f} | {at.apart} "
            f"| {1000 * float(np.median(times)):.0f} |"
        )
    return "\n".join(rows)


HEADER = (
    "| detector | pictures | people | recall % | precision % | AP % | IoU of hits | set apart | CPU ms |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def main() -> None:
    """Measure HOG at three input sizes and the built-in network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("media", type=Path)
    parser.add_argument("--draw", type=Path, help="folder for pictures with the boxes drawn")
    parser.add_argument("--only", default="", help="measure only detectors whose name contains this")
    parser.add_argument("--weights", type=Path, help="other weights of the network")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    detectors: dict[str, tuple[Detector, float]] = {}
    for side in (480, 800, 1280):
        detectors[f"HOG {side}"] = hog_detector(side), HOG_THRESHOLD
    for sides in ((384,), (512,), (320, 640)):
        network = load_person_detector(args.weights, sides=sides, score_threshold=0.02)
        stored = load_person_detector(args.weights).score_threshold
        detectors[f"network {'+'.join(map(str, sides))}"] = network, stored
    samples = load_samples(args.media)
    sys.stdout.write(HEADER)
    for name, (detector, threshold) in detectors.items():
        if args.only in name:
            sys.stdout.write(evaluate(name, detector, threshold, samples, args.draw) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
