"""Reads .bvh files, also those of strangers: any order of channels, places of every joint."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from fasthmr.errors import InputError
from fasthmr.geometry.euler import euler_to_rotmat
from fasthmr.io.bvh import METRES_PER_UNIT, BvhMotion

_MAX_BYTES = 128 * 1024**2
_MAX_HEADER = 2 * 1024**2
_MAX_JOINTS, _MAX_DEPTH = 1000, 100
_MAX_POSES = 5_000_000  # joints times frames
_CHANNEL = re.compile(r"([xyz])(position|rotation)")
_START_OF_MOTION = re.compile(rb"^[ \t]*MOTION[ \t\r]*$", re.MULTILINE)
_TIMING = re.compile(rb"\s*Frames:\s*(\d{1,9})\s+Frame\s+Time:\s*(\S{1,40})", re.IGNORECASE)


@dataclass
class _Joint:
    name: str
    parent: int
    offset: list[float] = field(default_factory=list)
    channels: list[tuple[str, str]] = field(default_factory=list)  # axis and kind


def read_bvh(path: str | Path, *, metres_per_unit: float = METRES_PER_UNIT) -> BvhMotion:
    """A skeleton in motion, in metres.

    Places of a joint, where the file has such channels, stand for its offset, as programs write them.

    Args:
        metres_per_unit: Length of the file's unit; centimetres are usual.

    Raises:
        InputError: The file is missing, damaged, too large, or no .bvh with one skeleton.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: larger than {_MAX_BYTES >> 20} MiB")
    try:
        return _parse(path.read_bytes(), metres_per_unit)
    except (ValueError, OSError) as problem:
        reason = "".join(c if c.isprintable() else " " for c in str(problem)[:200])
        raise InputError(f"{path}: not a usable BVH file ({reason})") from None


def _parse(data: bytes, metres_per_unit: float) -> BvhMotion:
    start = _START_OF_MOTION.search(data[:_MAX_HEADER])
    if start is None:
        raise ValueError("no line MOTION")
    joints, ends = _Hierarchy(data[: start.start()].decode("utf-8", errors="replace")).parse()
    timing = _TIMING.match(data, start.end())
    if timing is None:
        raise ValueError("no lines 'Frames:' and 'Frame Time:' after MOTION")
    frames, frame_time = int(timing[1]), _number(timing[2].decode("ascii", errors="replace"))
    if frame_time <= 0:
        raise ValueError(f"a frame time of {frame_time}")
    if frames * len(joints) > _MAX_POSES:
        raise ValueError(f"{frames} frames of {len(joints)} joints are too many")
    width = sum(len(joint.channels) for joint in joints)
    rows = _numbers(data[timing.end() :], frames, width)
    offsets = np.array([joint.offset for joint in joints]) * metres_per_unit
    translations = np.tile(offsets, (frames, 1, 1))
    rotations = np.empty((frames, len(joints), 3, 3))
    column = 0
    for index, joint in enumerate(joints):
        own = rows[:, column : column + len(joint.channels)]
        column += len(joint.channels)
        turns = [place for place, (_, kind) in enumerate(joint.channels) if kind == "rotation"]
        axes = "".join(joint.channels[place][0] for place in turns)
        rotations[:, index] = euler_to_rotmat(torch.from_numpy(own[:, turns]).deg2rad(), axes).numpy()
        for place, (axis, kind) in enumerate(joint.channels):
            if kind == "position":
                translations[:, index, "xyz".index(axis)] = own[:, place] * metres_per_unit
    return BvhMotion(
        joint_names=tuple(joint.name for joint in joints),
        parents=tuple(joint.parent for joint in joints),
        offsets=offsets,
        ends={joint: np.array(end) * metres_per_unit for joint, end in ends.items()},
        rotations=rotations,
        translations=translations,
        frame_time=frame_time,
    )


def _numbers(text: bytes, frames: int, width: int) -> np.ndarray:
    with warnings.catch_warnings():
        # What is no number ends the reading with a ValueError, in early versions of NumPy with a warning.
        warnings.simplefilter("error", DeprecationWarning)
        try:
            values = np.fromstring(text.decode("ascii"), sep=" ") if text.strip() else np.zeros(0)
        except (DeprecationWarning, ValueError):
            raise ValueError("something else than numbers in the frames") from None
    if len(values) != frames * width:
        raise ValueError(f"{len(values)} numbers where {frames} frames of {width} are declared")
    if not np.isfinite(values).all():
        raise ValueError("numbers that are not finite")
    return values.reshape(frames, width)


class _Hierarchy:
    """Recursive structure of the header, read with a list of open braces."""

    def __init__(self, text: str) -> None:
        self._tokens = iter(text.split())
        self._joints: list[_Joint] = []
        self._ends: dict[int, list[float]] = {}

    def parse(self) -> tuple[list[_Joint], dict[int, list[float]]]:
        self._expect("HIERARCHY")
        open_joints = [self._open("ROOT")]
        while open_joints:
            joint, token = open_joints[-1], self._next()
            word = token.upper()
            if word == "OFFSET":
                self._joints[joint].offset = self._vector()
            elif word == "CHANNELS":
                self._joints[joint].channels = self._channels()
            elif word == "JOINT":
                open_joints.append(self._open(None, parent=joint))
                if len(open_joints) > _MAX_DEPTH or len(self._joints) > _MAX_JOINTS:
                    raise ValueError(f"more than {_MAX_JOINTS} joints, or {_MAX_DEPTH} below one another")
            elif word == "END":
                for part in ("Site", "{", "OFFSET"):
                    self._expect(part)
                self._ends[joint] = self._vector()
                self._expect("}")
            elif word == "}":
                open_joints.pop()
            else:
                raise ValueError(f"'{token}' where JOINT, OFFSET, CHANNELS or End Site is expected")
        if next(self._tokens, None) is not None:
            raise ValueError("more than one skeleton")
        for joint in self._joints:
            if not joint.offset:
                raise ValueError(f"joint '{joint.name}' has no OFFSET")
        return self._joints, self._ends

    def _open(self, keyword: str | None, parent: int = -1) -> int:
        if keyword is not None:
            self._expect(keyword)
        words = []
        while (token := self._next()) != "{":
            words.append(token)
            if len(words) > 20:
                raise ValueError("a joint without {")
        self._joints.append(_Joint(name=" ".join(words), parent=parent))
        return len(self._joints) - 1

    def _channels(self) -> list[tuple[str, str]]:
        count = self._next()
        if not re.fullmatch(r"\d", count):
            raise ValueError(f"'{count}' channels")
        channels = []
        for _ in range(int(count)):
            name = self._next()
            match = _CHANNEL.fullmatch(name.lower())
            if match is None:
                raise ValueError(f"unknown channel '{name}'")
            channels.append((match[1], match[2]))
        return channels

    def _vector(self) -> list[float]:
        return [_number(self._next()) for _ in range(3)]

    def _expect(self, word: str) -> None:
        token = self._next()
        if token.upper() != word.upper():
            raise ValueError(f"'{token}' where {word} is expected")

    def _next(self) -> str:
        token = next(self._tokens, None)
        if token is None:
            raise ValueError("the hierarchy breaks off")
        return token


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"'{text}' is not finite")
    return value
