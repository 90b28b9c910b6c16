"""Skeletons in motion as Biovision hierarchy (.bvh), which every animation program reads.

y is up; lengths are in centimetres, the usual unit; angles in degrees. The rest pose is the body's (T-pose,
facing +z). The root has its place and three turns in each frame, every other joint the three turns, in the
order z, x, y (R = Rz Rx Ry). Frames are evenly spaced in time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from fasthmr.body.chain import bone_vectors, joint_positions, world_rotations
from fasthmr.body.unpose import leaf_ends
from fasthmr.geometry.euler import continuous_euler, rotmat_to_euler
from fasthmr.geometry.interpolation import sample_rotations, sample_values
from fasthmr.io.atomic import write_bytes
from fasthmr.io.clip_schema import to_viewer_axes
from fasthmr.io.rest_track import rest_skeleton, rest_track
from fasthmr.results import DEFAULT_FPS, Clip, Person

METRES_PER_UNIT = 0.01

_AXES = "zxy"
_ROTATIONS = " ".join(f"{axis.upper()}rotation" for axis in _AXES)
_POSITIONS = "Xposition Yposition Zposition"
_UNEVEN = 0.25  # of a frame; a clock that strays less is a rounded even one


@dataclass(frozen=True, kw_only=True)
class BvhMotion:
    """One skeleton through evenly spaced frames; metres.

    Attributes:
        joint_names: In the order of the file: parents before children.
        parents: Parent of each joint, -1 for the root, which is the first.
        offsets: Place of each joint in the frame of its parent, at rest.
        ends: Where the bones of joints without children end, in the frame of the joint.
        rotations: Of each joint relative to its parent.
        translations: Place of each joint in the frame of its parent; of the root in the world.
        frame_time: Seconds.
    """

    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Float[np.ndarray, "joints 3"]
    ends: Mapping[int, Float[np.ndarray, "3"]]
    rotations: Float[np.ndarray, "frames joints 3 3"]
    translations: Float[np.ndarray, "frames joints 3"]
    frame_time: float

    def joints(self) -> Float[np.ndarray, "frames joints 3"]:
        """Where the joints are in each frame."""
        world = world_rotations(torch.from_numpy(self.rotations), self.parents)
        return joint_positions(world, torch.from_numpy(self.translations), self.parents).numpy()


def write_bvh(clip: Clip, path: Path) -> Path:
    """Writes one file per person, each with all frames of the clip, so that they play side by side.

    A clip of one person gives `path`, of several `name_track3.bvh` and so on, named by their tracks. Where a
    person was not seen the pose is interpolated, before and after it holds. A variable frame rate is sampled
    evenly. Nobody gives a skeleton without size and frames.

    Returns:
        The path of the (first) file.
    """
    people = [person for person in clip.persons if len(person.frames)]
    if not people:
        return write_motion(_empty(clip), path)
    if len(people) == 1:
        return write_motion(track_motion(people[0], clip), path)
    files = [path.with_name(f"{path.stem}_track{person.track_id}{path.suffix}") for person in people]
    for person, file in zip(people, files, strict=True):
        write_motion(track_motion(person, clip), file)
    return files[0]


def write_motion(motion: BvhMotion, path: Path) -> Path:
    """Writes a skeleton in motion, complete or not at all; `bvh_reader.read_bvh` gives it back."""
    order = _depth_first(motion.parents)
    moving = [
        motion.parents[joint] < 0 or not np.allclose(motion.translations[:, joint], motion.offsets[joint])
        for joint in range(len(motion.parents))
    ]
    angles = continuous_euler(rotmat_to_euler(torch.from_numpy(motion.rotations), _AXES)).rad2deg().numpy()
    columns, formats = [], []
    for joint, _ in order:
        if moving[joint]:
            columns.append(motion.translations[:, joint] / METRES_PER_UNIT)
            formats.append("%.4f %.4f %.4f")
        columns.append(angles[:, joint])
        formats.append("%.5f %.5f %.5f")
    rows = np.concatenate(columns, axis=1)
    row = " ".join(formats) + "\n"
    text = "".join(_hierarchy(motion, order, moving))
    text += f"MOTION\nFrames: {len(rows)}\nFrame Time: {motion.frame_time:.8f}\n"
    text += "".join(row % tuple(values) for values in rows.tolist())
    return write_bytes(path, text.encode())


def track_motion(person: Person, clip: Clip) -> BvhMotion:
    """The skeleton of a person, seen in at least one frame, through all frames of the clip; y up."""
    parents = clip.parents.tolist()
    if clip.lbs_weights is None:
        rotations, skeleton = rest_skeleton(person, clip)
        ends = leaf_ends(skeleton.rest, parents)
    else:
        track = rest_track(person, clip)
        rotations, skeleton = track.rotations, track.skeleton
        ends = leaf_ends(skeleton.rest, parents, track.vertices, track.lbs_weights)
    seen = torch.from_numpy(clip.frame_times[person.frames])
    times, frame_time = _even_times(clip)
    at = torch.from_numpy(times)
    turned = sample_rotations(rotations, seen, at).numpy()
    turned[:, 0] = to_viewer_axes(turned[:, 0].swapaxes(-1, -2)).swapaxes(-1, -2)
    offsets = bone_vectors(skeleton.rest, parents).numpy()
    offsets[0] = 0
    translations = np.tile(offsets, (len(times), 1, 1))
    translations[:, 0] = to_viewer_axes(sample_values(skeleton.joints[:, 0], seen, at).numpy())
    return BvhMotion(
        joint_names=clip.joint_names,
        parents=tuple(parents),
        offsets=offsets,
        ends={joint: end.numpy() for joint, end in ends.items()},
        rotations=turned,
        translations=translations,
        frame_time=frame_time,
    )


def _even_times(clip: Clip) -> tuple[Float[np.ndarray, "samples"], float]:
    """Evenly spaced moments of the clip and the seconds between them: its frames where they are even."""
    times = clip.frame_times
    count = len(times)
    if count < 2:
        return times, 1 / (clip.fps or DEFAULT_FPS)
    step = float(times[-1]) / (count - 1)
    if np.abs(times - step * np.arange(count)).max() < _UNEVEN * step:
        return times, step
    step = 1 / clip.fps if clip.fps else float(np.median(np.diff(times)))
    return np.arange(int(times[-1] / step + 1e-6) + 1) * step, step


def _empty(clip: Clip) -> BvhMotion:
    joints = len(clip.parents)
    parents = tuple(clip.parents.tolist())
    return BvhMotion(
        joint_names=clip.joint_names,
        parents=parents,
        offsets=np.zeros((joints, 3)),
        ends={joint: np.zeros(3) for joint in sorted(set(range(joints)) - set(parents))},
        rotations=np.zeros((0, joints, 3, 3)),
        translations=np.zeros((0, joints, 3)),
        frame_time=1 / (clip.fps or DEFAULT_FPS),
    )


def _depth_first(parents: Sequence[int]) -> list[tuple[int, int]]:
    """Every joint with its depth, each followed by all that hangs on it."""
    order: list[tuple[int, int]] = []
    waiting = [(0, 0)]
    while waiting:
        joint, depth = waiting.pop()
        order.append((joint, depth))
        children = [child for child, parent in enumerate(parents) if parent == joint]
        waiting += [(child, depth + 1) for child in reversed(children)]
    return order


def _hierarchy(motion: BvhMotion, order: Sequence[tuple[int, int]], moving: Sequence[bool]) -> Iterator[str]:
    yield "HIERARCHY\n"
    for place, (joint, depth) in enumerate(order):
        tabs, word = "\t" * depth, "JOINT" if depth else "ROOT"
        name = re.sub(r"[\s{}]+", "_", motion.joint_names[joint]) or f"joint_{joint}"
        channels = f"6 {_POSITIONS} {_ROTATIONS}" if moving[joint] else f"3 {_ROTATIONS}"
        yield f"{tabs}{word} {name}\n{tabs}{{\n{tabs}\tOFFSET {_vector(motion.offsets[joint])}\n"
        yield f"{tabs}\tCHANNELS {channels}\n"
        if joint in motion.ends:
            end = _vector(motion.ends[joint])
            yield f"{tabs}\tEnd Site\n{tabs}\t{{\n{tabs}\t\tOFFSET {end}\n{tabs}\t}}\n"
        next_depth = order[place + 1][1] if place + 1 < len(order) else 0
        for closed in range(depth, next_depth - 1, -1):
            yield "\t" * closed + "}\n"


def _vector(metres: Float[np.ndarray, "3"]) -> str:
    return " ".join(f"{value:.6f}" for value in metres / METRES_PER_UNIT)
