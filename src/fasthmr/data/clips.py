"""A store of rendered clips: one file per clip with its crops as JPEG, its masks, and labels for every frame.

`DIR/00000.clip.npz` appears complete or not at all, so rendering goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fasthmr.data.augment import RawBatch
from fasthmr.data.clip_file import read_labels, read_pictures, save_clip
from fasthmr.data.clip_scene import SyntheticClips
from fasthmr.data.framing import FILL
from fasthmr.data.motion import SPLITS_VERSION, Split
from fasthmr.data.recordings import FRAME_RATE
from fasthmr.data.shards import add_people_arguments, spread
from fasthmr.data.synthetic import SyntheticPeople
from fasthmr.errors import InputError
from fasthmr.geometry.crops import normalize
from fasthmr.io.atomic import write_bytes
from fasthmr.types import BodyParams, Crop, MotionTrack

_LOG = logging.getLogger(__name__)
_ENDING = ".clip.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticClip:
    """One person through consecutive frames; pictures are decoded when they are asked for.

    Camera axes: x right, y down, z forward, metres. World: y up, floor at y = 0. Pixel centres lie at
    integers. A stored crop is a square of 1.25 times the box square (`FILL`), centred on it.

    Attributes:
        index: Place in the split.
        action: Action class of the movement it begins with.
        camera: "still", "pan" or "follow".
        hand_held: Whether the camera sways.
        rotations: Root rotation in the camera frame, then each joint relative to its parent.
        transl: `BodyParams.transl` in the camera frame.
        joints_3d: `records.POINT_NAMES` in the camera frame.
        points_2d: Their pixels in the stored crop.
        points_inside: Whether each lies in the stored crop and in the full picture.
        coco17: Pixels of the COCO keypoints in the full picture.
        K: Intrinsics of the full picture.
        K_crop: Intrinsics of the stored crops.
        image_size: Width and height of the full picture.
        boxes_xyxy: What a tracker reports, pixels of the full picture.
        scores: Detector confidence; 0 where the detector did not look.
        person_xyxy: True tight box of the whole body; may leave the picture.
        box_center, box_size: Square around `boxes_xyxy` as `geometry.crops.crop_pictures` takes it.
        R_camera_world, t_camera_world: World to camera.
    """

    path: Path
    index: int
    action: str
    camera: str
    hand_held: bool
    betas: Float[np.ndarray, "betas"]
    rotations: Float[np.ndarray, "frames 24 3 3"]
    transl: Float[np.ndarray, "frames 3"]
    joints_3d: Float[np.ndarray, "frames 35 3"]
    points_2d: Float[np.ndarray, "frames 35 2"]
    points_inside: Bool[np.ndarray, "frames 35"]
    coco17: Float[np.ndarray, "frames 17 2"]
    K: Float[np.ndarray, "3 3"]
    K_crop: Float[np.ndarray, "frames 3 3"]
    image_size: Float[np.ndarray, "2"]
    boxes_xyxy: Float[np.ndarray, "frames 4"]
    scores: Float[np.ndarray, "frames"]
    person_xyxy: Float[np.ndarray, "frames 4"]
    box_center: Float[np.ndarray, "frames 2"]
    box_size: Float[np.ndarray, "frames"]
    R_camera_world: Float[np.ndarray, "frames 3 3"]
    t_camera_world: Float[np.ndarray, "frames 3"]

    def __len__(self) -> int:
        return len(self.transl)

    def pictures(self, frames: Sequence[int] | None = None) -> UInt8[np.ndarray, "frames side side 4"]:
        """Stored crops of some frames, or of all: RGB, and the person's visible part as 0 or 255.

        Raises:
            InputError: The file has been damaged.
        """
        return read_pictures(self.path, range(len(self)) if frames is None else frames)

    def crops(self, frames: Sequence[int] | None = None, size: int = 256) -> tuple[Crop, Tensor]:
        """What `geometry.crops.crop_pictures` would cut for a network, and the mask in the same squares.

        Returns:
            Crops, and coverage 0..1, (frames, size, size).
        """
        import cv2

        pictures = self.pictures(frames)
        side = pictures.shape[1]
        step = side * FILL / size
        start = side / 2 - step * size / 2
        matrix = np.array([[step, 0, start], [0, step, start]])
        way = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cut = np.stack([cv2.warpAffine(picture, matrix, (size, size), flags=way) for picture in pictures])
        pixels = torch.from_numpy(cut).permute(0, 3, 1, 2).float()
        rows = slice(None) if frames is None else list(frames)
        crop = Crop(
            pixels=normalize(pixels[:, :3]),
            box_center=torch.from_numpy(self.box_center[rows]),
            box_size=torch.from_numpy(self.box_size[rows]),
            image_size=torch.from_numpy(self.image_size).expand(len(cut), 2),
        )
        return crop, pixels[:, 3] / 255

    def batch(self, frames: Sequence[int] | None = None) -> RawBatch:
        """Frames as stored, for `augment.make_batch`."""
        rows = slice(None) if frames is None else list(frames)
        pictures = self.pictures(frames)
        return RawBatch(
            rgbm=torch.from_numpy(pictures),
            rotations=torch.from_numpy(self.rotations[rows]),
            betas=torch.from_numpy(self.betas).expand(len(pictures), -1),
            points=torch.from_numpy(self.points_2d[rows]),
            points_3d=torch.from_numpy(self.joints_3d[rows]),
            inside=torch.from_numpy(self.points_inside[rows]),
        )

    def track(self) -> MotionTrack:
        """The true motion in the camera frame, with the boxes of the tracker."""
        rotations = torch.from_numpy(self.rotations)
        return MotionTrack(
            params=BodyParams(
                global_orient=rotations[:, :1],
                body_pose=rotations[:, 1:],
                betas=torch.from_numpy(self.betas).expand(len(self), -1),
                transl=torch.from_numpy(self.transl),
            ),
            times=torch.arange(len(self)) / FRAME_RATE,
            boxes_xyxy=torch.from_numpy(self.boxes_xyxy),
            scores=torch.from_numpy(self.scores),
        )


class ClipStore(Sequence[SyntheticClip]):
    """All complete clips of a folder, in order; labels are read when a clip is asked for.

    Raises:
        InputError: There is none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.paths = sorted(Path(folder).glob(f"[0-9]*{_ENDING}"))
        if not self.paths:
            raise InputError(f"{folder}: no rendered clip")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> SyntheticClip:  # pyright: ignore[reportIncompatibleMethodOverride]
        return SyntheticClip(path=self.paths[index], **read_labels(self.paths[index]))


def render_clips(
    folder: str | Path,
    split: Split,
    count: int,
    processes: int = 1,
    *,
    frames: int = 243,
    start: int = 0,
    seed: int = 0,
    size: int = 160,
    wardrobe: str | Path | None = None,
    environments: str | Path | None = None,
    motion: str | Path | None = None,
    share_alike: bool = False,
    renderer: Literal["auto", "gl", "software"] = "auto",
) -> int:
    """Render clips start .. start + count into a folder, leaving those that are there as they are.

    Args:
        processes: 1 renders in this process.
        frames: Length of every clip, at 30 frames per second.
        size: Side of the stored crops in pixels.
        wardrobe, environments, motion, share_alike, renderer: As for `SyntheticPeople`.

    Returns:
        Number of clips rendered now.

    Raises:
        InputError: The folder holds clips with other settings.
    """
    folder = Path(folder)
    people = {
        "split": split,
        "seed": seed,
        "size": (size, size),
        "wardrobe": wardrobe,
        "environments": environments,
        "motion": motion,
        "share_alike": share_alike,
    }
    note = {key: str(value) for key, value in people.items()}
    note |= {"frames": str(frames), "version": str(SPLITS_VERSION)}
    _agree(folder, note)
    jobs = [index for index in range(start, start + count) if not _clip_path(folder, index).is_file()]
    spread(partial(_render_jobs, {**people, "renderer": renderer}, frames, folder), jobs, processes)
    return len(jobs)


def _agree(folder: Path, note: dict[str, str]) -> None:
    """Note the settings of a folder, or compare with those that are noted."""
    path = folder / "clips.json"
    if not path.is_file():
        write_bytes(path, json.dumps(note, indent=1).encode())
        return
    known = json.loads(path.read_text(encoding="utf-8"))
    other = [key for key, value in note.items() if known.get(key) != value]
    if other:
        was = ", ".join(f"{key}={known.get(key)}" for key in other)
        raise InputError(f"{folder} holds clips rendered with {was}; choose another folder or those settings")


def _clip_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}{_ENDING}"


def _render_jobs(people: dict[str, Any], frames: int, folder: Path, jobs: Iterator[int]) -> None:
    source: SyntheticClips | None = None
    for index in jobs:
        source = source or SyntheticClips(SyntheticPeople(**people), frames=frames)
        save_clip(source, index, _clip_path(folder, index))
        _LOG.info("clip %05d", index)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Render clips of synthetic people into a folder.")
    parser.add_argument("--out", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--frames", type=int, default=243)
    parser.add_argument("--processes", type=int, default=1)
    add_people_arguments(parser)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = {key: value for key, value in vars(args).items() if key not in ("out", "split", "count")}
    render_clips(args.out, args.split, args.count, **options)


if __name__ == "__main__":
    _main()
