"""What an image model reads from rendered clips, computed once and kept beside them.

A temporal model learns from the frozen image model's answers on consecutive frames. Running the image model
is by far the larger part of the work, so that it is done once for each clip, whenever clips appear.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fasthmr.data.clips import ClipStore, SyntheticClip
from fasthmr.geometry.cameras import crop_camera_to_full
from fasthmr.io.atomic import atomic_path
from fasthmr.types import BodyParams, MotionTrack
from fasthmr.zoo import create_model

_LOG = logging.getLogger(__name__)
_LEAST_SCALE = 0.05
_BATCH = 81


@dataclass(frozen=True, kw_only=True)
class PairedClip:
    """The true motion of a person, and what an image model saw of it.

    Attributes:
        read: With features.
        true: The same times and boxes.
    """

    read: MotionTrack
    true: MotionTrack

    def part(self, start: int, frames: int) -> PairedClip:
        """Some consecutive frames."""
        return PairedClip(read=_part(self.read, start, frames), true=_part(self.true, start, frames))


@torch.inference_mode()
def read_clip(model: nn.Module, clip: SyntheticClip, batch: int = _BATCH) -> dict[str, Tensor]:
    """An image model's answers in every frame of a clip, as they are stored.

    Returns:
        `rotations` (frames, 24, 3, 3), `betas`, `transl` (metres, in the camera of the clip) and `features`.

    Raises:
        ValueError: The model gives no features.
    """
    focal = torch.tensor([clip.K[0, 0]])
    principal = torch.from_numpy(clip.K[None, :2, 2])
    parts: dict[str, list[Tensor]] = {"rotations": [], "betas": [], "transl": [], "features": []}
    for start in range(0, len(clip), batch):
        crop, _ = clip.crops(range(start, min(start + batch, len(clip))))
        output = model(crop.pixels)
        if output.features is None:
            raise ValueError("the image model gives no features")
        camera = output.camera.double()
        camera = torch.cat([camera[:, :1].clamp(min=_LEAST_SCALE), camera[:, 1:]], dim=1)
        count = len(camera)
        place = crop_camera_to_full(
            camera,
            crop.box_center.double(),
            crop.box_size.double(),
            crop.image_size.double(),
            focal.double().expand(count),
            principal.double().expand(count, 2),
        )
        given = output.params
        parts["rotations"].append(given.rotmats)
        parts["betas"].append(given.betas)
        parts["transl"].append(place)
        parts["features"].append(output.features)
    return {name: torch.cat(part).float().contiguous() for name, part in parts.items()}


def cache_features(model: nn.Module, clips: str | Path, out: str | Path, first: int = 0) -> int:
    """Run an image model on all clips of a folder that have not been run yet.

    Args:
        out: Folder for a file of each clip; it appears complete or not at all.
        first: Leave out clips before this one.

    Returns:
        Number of clips run now.
    """
    done = 0
    Path(out).mkdir(parents=True, exist_ok=True)
    store = ClipStore(clips)
    for place, path in enumerate(store.paths):
        target = _cached(out, path)
        if place < first or target.is_file():
            continue
        tensors = read_clip(model, store[place])
        with atomic_path(target) as temporary:
            save_file(tensors, temporary)
        done += 1
        _LOG.info("%s", target.name)
    return done


def load_pairs(clips: str | Path, features: str | Path) -> list[PairedClip]:
    """All clips of a folder whose features are known.

    Raises:
        FileNotFoundError: There are none.
    """
    store = ClipStore(clips)
    pairs = [
        _pair(store[place].track(), load_file(_cached(features, path)))
        for place, path in enumerate(store.paths)
        if _cached(features, path).is_file()
    ]
    if not pairs:
        raise FileNotFoundError(f"{features}: no features of the clips in {clips}; see cache_features")
    return pairs


def _pair(true: MotionTrack, read: dict[str, Tensor]) -> PairedClip:
    params = BodyParams(
        global_orient=read["rotations"][:, :1],
        body_pose=read["rotations"][:, 1:],
        betas=read["betas"],
        transl=read["transl"],
    )
    return PairedClip(read=replace(true, params=params, features=read["features"]), true=true)


def _cached(folder: str | Path, clip: Path) -> Path:
    return Path(folder) / f"{clip.name.split('.')[0]}.features.safetensors"


def _part(track: MotionTrack, start: int, frames: int) -> MotionTrack:
    rows, params = slice(start, start + frames), track.params
    assert params.transl is not None
    return MotionTrack(
        params=BodyParams(
            global_orient=params.global_orient[rows],
            body_pose=params.body_pose[rows],
            betas=params.betas[rows],
            transl=params.transl[rows],
        ),
        times=track.times[rows],
        boxes_xyxy=track.boxes_xyxy[rows],
        scores=track.scores[rows],
        features=None if track.features is None else track.features[rows],
    )


def _main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Run an image model on the clips of a folder.")
    parser.add_argument("--clips", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", default="fasthmr_m_fast")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    cache_features(create_model(args.model, pretrained=True), args.clips, args.out)


if __name__ == "__main__":
    _main()
