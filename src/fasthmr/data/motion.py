"""Poses for synthetic people: clips of SMPL-24 joint rotations, split by subject.

A motion directory holds `index.json` (one entry per clip: clip, subject, split, type, file, licence) and
one `.npz` per file with `<clip>/pose`, (T, 24, 3) axis-angle relative to the parent, y up, facing +z, and
`<clip>/root`, (T, 3) place of the pelvis in metres of the source's own body.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from fasthmr.body.skeletons import SMPL_FLIP
from fasthmr.errors import InputError

Split = Literal["train", "val", "test"]

SPLITS_VERSION = 1
"""Raised whenever a clip moves between splits or the sampling changes."""

CLASS_WEIGHTS = {
    "walk": 1.2, "run": 0.9, "jump": 0.8, "dance": 1.2, "sport": 2.0, "fight": 1.0, "sit": 1.6,
    "lie": 0.6, "crouch": 1.2, "climb": 0.6, "reach/carry": 1.7, "gesture": 0.9, "idle": 0.6, "other": 0.3,
}  # fmt: skip
"""Share of each action class in the poses drawn, before normalisation."""

_UPPER_BODY = np.array([12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23])
_WRISTS = np.array([20, 21])
_NOISE_DEG = np.array(
    [5, 9, 9, 5, 9, 9, 4, 7, 7, 4, 5, 5, 6, 4, 4, 8, 10, 10, 10, 10, 12, 12, 5, 5], dtype=np.float64
) / 12  # fmt: skip
_SHARE_ALIKE = "BY-SA"


@dataclass(frozen=True, kw_only=True, eq=False)
class Pose:
    """One pose: axis-angle per joint (joint 0: world, y up) and the action class it came from."""

    axis_angle: Float[np.ndarray, "24 3"]
    action: str


@dataclass(frozen=True, kw_only=True, eq=False)
class MotionLibrary:
    """All frames of one split.

    Attributes:
        poses: Frames of all clips in a row, axis-angle.
        roots: Place of the pelvis in the same frames, y up; None where a file has none.
        rates: Frames per second of each clip.
        starts: First frame of each clip, and the total as last entry.
        actions: Action class per clip.
        trusted_wrists: Whether the clip's wrists were recorded rightly.
        limits: Smallest and largest component seen per joint, for noise (rad).
    """

    poses: Float[np.ndarray, "frames 24 3"]
    roots: Float[np.ndarray, "frames 3"] | None
    rates: Float[np.ndarray, "clips"]
    starts: Int[np.ndarray, "clips_1"]
    actions: tuple[str, ...]
    trusted_wrists: np.ndarray
    limits: Float[np.ndarray, "2 24 3"]
    split: Split
    _cumulative: np.ndarray = field(init=False, repr=False)
    _wrist_clips: np.ndarray = field(init=False, repr=False)

    @classmethod
    def load(cls, directory: Path, split: Split, *, share_alike: bool = False) -> MotionLibrary:
        """Read the clips of a split.

        Clips under a share-alike licence are left out of train and val unless `share_alike`.

        Raises:
            InputError: No index, or no clip of the split.
        """
        entries = read_index(directory)
        chosen = [
            entry
            for entry in entries
            if entry["split"] == split
            and (share_alike or split == "test" or _SHARE_ALIKE not in entry["licence"])
        ]
        if not chosen:
            raise InputError(f"{directory}: no motion clip for split '{split}'")
        clips: list[np.ndarray] = []
        roots: list[np.ndarray] = []
        for file in sorted({entry["file"] for entry in chosen}):
            with np.load(directory / file, allow_pickle=False) as data:
                wanted = [entry for entry in chosen if entry["file"] == file]
                clips += [data[f"{entry['clip']}/pose"] for entry in wanted]
                names = [f"{entry['clip']}/root" for entry in wanted]
                roots += [data[name] for name in names if name in data]
        order = sorted(chosen, key=lambda entry: entry["file"])
        poses = np.concatenate(clips).astype(np.float16)
        low, high = np.quantile(poses.astype(np.float32), [0.002, 0.998], axis=0)
        wrists = [
            not entry["subject"].startswith(("cmux", "idle")) or entry["subject"] == "cmux2"
            for entry in order
        ]
        return cls(
            poses=poses,
            roots=np.concatenate(roots) if len(roots) == len(clips) else None,
            rates=np.array([float(entry.get("fps", 30)) for entry in order]),
            starts=np.concatenate([[0], np.cumsum([len(clip) for clip in clips])]),
            actions=tuple(entry["type"] for entry in order),
            trusted_wrists=np.array(wrists),
            limits=np.stack([np.minimum(low, -0.09), np.maximum(high, 0.09)]),
            split=split,
        )

    def __post_init__(self) -> None:
        names = sorted(set(self.actions))
        clip_class = np.array([names.index(action) for action in self.actions])
        # Within a class a clip counts by the root of its length: long clips vary more, but not linearly.
        length = np.sqrt(np.diff(self.starts))
        per_class = np.bincount(clip_class, weights=length)
        class_weight = np.array([CLASS_WEIGHTS.get(name, CLASS_WEIGHTS["other"]) for name in names])
        probability = length / per_class[clip_class] * class_weight[clip_class]
        object.__setattr__(self, "_cumulative", np.cumsum(probability / probability.sum()))
        object.__setattr__(self, "_wrist_clips", np.flatnonzero(self.trusted_wrists))

    def draw_clip(self, rng: np.random.Generator) -> int:
        """Draw the number of a clip by action class and length."""
        return min(int(np.searchsorted(self._cumulative, rng.random())), len(self.actions) - 1)

    def _frame(self, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        clip = self.draw_clip(rng)
        frame = int(rng.integers(self.starts[clip], self.starts[clip + 1]))
        return clip, self.poses[frame].astype(np.float64)

    def sample(self, rng: np.random.Generator) -> Pose:
        """Draw a pose by action class: mirrored half of the time; mixed and perturbed for training."""
        clip, pose = self._frame(rng)
        if not self.trusted_wrists[clip] and len(self._wrist_clips):
            other = int(rng.choice(self._wrist_clips))
            frame = int(rng.integers(self.starts[other], self.starts[other + 1]))
            pose[_WRISTS] = self.poses[frame, _WRISTS]
        mix, noisy = rng.random(2)
        if self.split == "train" and mix < 0.15:
            pose[_UPPER_BODY] = self._frame(rng)[1][_UPPER_BODY]
        if self.split == "train" and noisy < 0.5:
            sigma = np.deg2rad(rng.uniform(2.0, 12.0)) * _NOISE_DEG[:, None]
            noise = rng.normal(size=(24, 3)) * sigma
            # Noise may not push a joint beyond the range seen, but leaves what is beyond it already.
            low, high = np.minimum(self.limits[0], pose), np.maximum(self.limits[1], pose)
            moved = pose + noise
            moved[1:] = np.clip(moved, low, high)[1:]
            pose = moved
        if rng.random() < 0.5:
            pose = mirror_pose(pose)
        return Pose(axis_angle=pose, action=self.actions[clip])


def mirror_pose(axis_angle: Float[np.ndarray, "*n 24 3"]) -> Float[np.ndarray, "*n 24 3"]:
    """Reflect poses at the plane x = 0: swap sides, negate the y and z parts of each rotation vector."""
    return axis_angle[..., list(SMPL_FLIP), :] * np.array([1.0, -1.0, -1.0])


def read_index(directory: Path) -> list[dict[str, str]]:
    """Read the clip list of a motion directory.

    Raises:
        InputError: The list is missing or is not valid JSON.
    """
    try:
        return json.loads((directory / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{directory}/index.json: {error}; a motion directory needs this list") from error
