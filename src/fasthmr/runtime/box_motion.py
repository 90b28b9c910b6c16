"""How boxes of people move: a Kalman filter for centre, aspect and height, in seconds rather than frames.

The four numbers move on their own, each with a velocity that fades (a damped constant-velocity model), so
the covariance is four 2x2 blocks. Noise is in heights of the box: a person of 1.7 m who speeds up by 3 m/s²
does so by 1.8 heights/s², near or far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

# Of centre x, centre y, aspect (width / height) and height.
_FADE_S = np.array([3.0, 2.0, 0.3, 0.5])  # seconds until a velocity is down to 1/e
_ACCELERATION = np.array([1.2, 1.0, 0.5, 0.4])  # per second to the power 1.5
_MEASURED = np.array([0.04, 0.04, 0.08, 0.04])  # standard deviation of a detection
_FIRST_VELOCITY = np.array([1.5, 0.7, 0.2, 0.3])  # standard deviation, per second
_MIN_HEIGHT = 1.0


@dataclass(frozen=True, kw_only=True)
class BoxStates:
    """Boxes (centre x, centre y, width / height, height), their velocities per second and uncertainties."""

    position: Float[np.ndarray, "boxes 4"]
    velocity: Float[np.ndarray, "boxes 4"]
    covariance: Float[np.ndarray, "boxes 4 2 2"]

    def __len__(self) -> int:
        return len(self.position)

    def take(self, index: Shaped[np.ndarray, "picked"]) -> BoxStates:
        """Some of the boxes, by indices or a mask."""
        return BoxStates(
            position=self.position[index], velocity=self.velocity[index], covariance=self.covariance[index]
        )

    def join(self, other: BoxStates) -> BoxStates:
        """These boxes and then the others."""
        return BoxStates(
            position=np.concatenate([self.position, other.position]),
            velocity=np.concatenate([self.velocity, other.velocity]),
            covariance=np.concatenate([self.covariance, other.covariance]),
        )


def start(measured: Float[np.ndarray, "boxes 4"]) -> BoxStates:
    """Boxes seen for the first time."""
    covariance = np.zeros((len(measured), 4, 2, 2))
    scale = _scale(measured)
    covariance[..., 0, 0] = (_MEASURED * scale) ** 2
    covariance[..., 1, 1] = (_FIRST_VELOCITY * scale) ** 2
    return BoxStates(position=measured.copy(), velocity=np.zeros_like(measured), covariance=covariance)


def predict(states: BoxStates, seconds: Float[np.ndarray, "boxes"]) -> BoxStates:
    """Where the boxes are after a while."""
    dt = seconds[:, None]
    decay = np.exp(-dt / _FADE_S)
    reach = _FADE_S * (1 - decay)
    position = states.position + reach * states.velocity
    position[:, 2:] = np.maximum(position[:, 2:], [0.05, _MIN_HEIGHT])
    step = np.zeros_like(states.covariance)
    step[..., 0, 0], step[..., 0, 1], step[..., 1, 1] = 1, reach, decay
    growth = np.stack([dt**3 / 3, dt**2 / 2, dt**2 / 2, dt], axis=-1).reshape(-1, 1, 2, 2)
    noise = (_ACCELERATION * _scale(states.position)) ** 2
    covariance = step @ states.covariance @ step.swapaxes(-1, -2) + noise[..., None, None] * growth
    return BoxStates(position=position, velocity=decay * states.velocity, covariance=covariance)


def correct(states: BoxStates, measured: Float[np.ndarray, "boxes 4"]) -> BoxStates:
    """The boxes after they were seen."""
    variance = states.covariance[..., 0, 0] + (_MEASURED * _scale(states.position)) ** 2
    gain = states.covariance[..., :, 0] / variance[..., None]
    error = measured - states.position
    return BoxStates(
        position=states.position + gain[..., 0] * error,
        velocity=states.velocity + gain[..., 1] * error,
        covariance=states.covariance - gain[..., :, None] * states.covariance[..., :1, :],
    )


def follow(
    states: BoxStates,
    last: Float[np.ndarray, "boxes 4"],
    measured: Float[np.ndarray, "boxes 4"],
    seconds: Float[np.ndarray, "boxes"],
    steps: Int[np.ndarray, "boxes"],
) -> BoxStates:
    """Boxes that are seen again, from where they were seen last.

    Where steps were missed, the box is taken to have moved straight from one sighting to the next, instead of
    keeping the velocity it had before (observation-centric re-update of OC-SORT, arXiv 2203.14360, sec. 4.1).

    Args:
        states: At the last sighting.
        last: What was measured then.
        seconds: Since then.
        steps: One more than were missed.
    """
    position, velocity, covariance = (a.copy() for a in (states.position, states.velocity, states.covariance))
    for step in range(1, int(steps.max(initial=0)) + 1):
        moving = np.flatnonzero(steps >= step)
        share = (step / steps[moving])[:, None]
        now = BoxStates(position=position, velocity=velocity, covariance=covariance).take(moving)
        seen = last[moving] + share * (measured[moving] - last[moving])
        now = correct(predict(now, seconds[moving] / steps[moving]), seen)
        position[moving], velocity[moving], covariance[moving] = now.position, now.velocity, now.covariance
    return BoxStates(position=position, velocity=velocity, covariance=covariance)


def from_xyxy(boxes: Float[np.ndarray, "boxes 4"]) -> Float[np.ndarray, "boxes 4"]:
    """Corners to (centre x, centre y, width / height, height)."""
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)
    return np.column_stack([(boxes[:, :2] + boxes[:, 2:]) / 2, size[:, 0] / size[:, 1], size[:, 1]])


def to_xyxy(position: Float[np.ndarray, "boxes 4"]) -> Float[np.ndarray, "boxes 4"]:
    """The inverse of `from_xyxy`."""
    half = np.column_stack([position[:, 2] * position[:, 3], position[:, 3]]) / 2
    return np.hstack([position[:, :2] - half, position[:, :2] + half])


def _scale(position: Float[np.ndarray, "boxes 4"]) -> Float[np.ndarray, "boxes 4"]:
    """The unit of each number: heights, but for the aspect."""
    height = np.maximum(position[:, 3], _MIN_HEIGHT)
    return np.column_stack([height, height, np.ones_like(height), height])
