"""Stretches of recorded motion at one frame rate, without the jumps that some recordings have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from fasthmr.data.motion import MotionLibrary
from fasthmr.geometry.interpolation import mix_quaternions
from fasthmr.geometry.quaternions import quat_to_vector
from fasthmr.geometry.rotations import axis_angle_to_rotmat, rotmat_to_quat_wxyz

FRAME_RATE = 30.0
"""Frames per second of all clips."""

_WRISTS = [20, 21]
_TRUNK_AND_LIMBS = [*range(10), *range(12, 20)]
_JERK, _ROOT_JERK = np.deg2rad(80.0), np.deg2rad(40.0)
"""Changes of a rotation's speed from one frame to the next (rad per frame) that only faults show."""
_ROOT_STEP = 0.6
_CHECKED_RATE = 20.0


@dataclass(frozen=True)
class Run:
    """Frames `first` to `last` of a library, both included, of clip `clip`, without a jump."""

    clip: int
    first: int
    last: int


class Recordings:
    """The recordings of a library, cut where they jump.

    Raises:
        ValueError: The library has no roots.
    """

    def __init__(self, library: MotionLibrary) -> None:
        if library.roots is None:
            raise ValueError("these motion files hold no '<clip>/root': clips need the way of the pelvis")
        self.library = library
        self._roots = library.roots
        self._trusted = np.flatnonzero(library.trusted_wrists)
        self._runs: dict[int, list[Run]] = {}
        vectors = torch.from_numpy(library.poses.astype(np.float32))
        self._quats = rotmat_to_quat_wxyz(axis_angle_to_rotmat(vectors))

    def length(self, run: Run) -> int:
        """Frames of a run at `FRAME_RATE`."""
        return int((run.last - run.first) * FRAME_RATE / self.library.rates[run.clip]) + 1

    def action(self, run: Run) -> str:
        """Action class of the recording."""
        return self.library.actions[run.clip]

    def draw(self, shortest: int, rng: np.random.Generator) -> Run:
        """Draw a run of at least `shortest` frames by action class and length.

        Raises:
            ValueError: There is none.
        """
        for _ in range(1000):
            runs = [run for run in self.runs(self.library.draw_clip(rng)) if self.length(run) >= shortest]
            if runs:
                lengths = np.array([self.length(run) for run in runs])
                return runs[int(rng.choice(len(runs), p=lengths / lengths.sum()))]
        raise ValueError(f"no recording has {shortest} frames without a jump")

    def runs(self, clip: int) -> list[Run]:
        """The parts of a clip between its jumps."""
        if clip not in self._runs:
            first, last = int(self.library.starts[clip]), int(self.library.starts[clip + 1]) - 1
            jumps = np.zeros(last - first, dtype=bool)
            if self.library.rates[clip] >= _CHECKED_RATE and last - first >= 2:
                quats = self._quats[first : last + 1]
                speed = quat_to_vector(quats[:-1], quats[1:])
                jerk = torch.linalg.vector_norm(speed[1:] - speed[:-1], dim=-1).numpy()
                faulty = (jerk[:, _TRUNK_AND_LIMBS] > _JERK).any(axis=1) | (jerk[:, 0] > _ROOT_JERK)
                jumps[:-1] |= faulty
                jumps[1:] |= faulty
                jumps |= np.linalg.norm(np.diff(self._roots[first : last + 1], axis=0), axis=1) > _ROOT_STEP
            edges = np.flatnonzero(np.diff(np.concatenate([[1], jumps, [1]])))
            self._runs[clip] = [
                Run(clip, first + int(start), first + int(end)) for start, end in edges.reshape(-1, 2)
            ]
        return self._runs[clip]

    def read(
        self, run: Run, frames: np.ndarray, rng: np.random.Generator
    ) -> tuple[Float[np.ndarray, "frames 24 4"], Float[np.ndarray, "frames 3"]]:
        """Rotations (w, x, y, z) and places of the pelvis at frames of a run, counted at `FRAME_RATE`.

        Wrists that were not recorded rightly come from another recording.
        """
        time = self._time(run, frames)
        quats = self.rotations(run, frames)
        if not self.library.trusted_wrists[run.clip] and len(self._trusted):
            other = int(rng.choice(self._trusted))
            first, last = int(self.library.starts[other]), int(self.library.starts[other + 1]) - 1
            way, steps = last - first + 1, frames * self.library.rates[other] / FRAME_RATE
            to_and_fro = np.abs((steps + rng.uniform(0, way)) % (2 * way) - way)
            quats[:, _WRISTS] = self._rotations(first + np.minimum(to_and_fro, last - first), last)[
                :, _WRISTS
            ]
        below = np.floor(time).astype(int)
        part = (time - below)[:, None]
        above = np.minimum(below + 1, run.last)
        return quats, (1 - part) * self._roots[below] + part * self._roots[above]

    def rotations(self, run: Run, frames: np.ndarray) -> Float[np.ndarray, "frames 24 4"]:
        """Rotations (w, x, y, z) as they were recorded, at frames of a run, counted at `FRAME_RATE`."""
        return self._rotations(self._time(run, frames), run.last)

    def _time(self, run: Run, frames: np.ndarray) -> Float[np.ndarray, "frames"]:
        """Frames of a run, counted at `FRAME_RATE`, as frames of the library."""
        return run.first + frames * self.library.rates[run.clip] / FRAME_RATE

    def _rotations(self, time: np.ndarray, last: int) -> Float[np.ndarray, "frames 24 4"]:
        """Rotations at fractional frames of the library, not beyond frame `last`."""
        below = np.floor(time).astype(int)
        low, high = (self._quats[frames] for frames in (below, np.minimum(below + 1, last)))
        share = torch.from_numpy(time - below)[:, None, None]
        return mix_quaternions(low.double(), high.double(), share).numpy()
