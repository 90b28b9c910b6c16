"""Long sequences as overlapping windows of one length, and back with cross-fading.

For models that read clips of a fixed number of frames (FastHMR: 243). Shorter sequences are resampled to that
length and the result back; the last window ends with the sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.temporal.representation import resample

CLIP_FRAMES = 243
OVERLAP = 61


def window_starts(frames: int, size: int = CLIP_FRAMES, overlap: int = OVERLAP) -> tuple[int, ...]:
    """First frame of each window. The last window ends with the sequence, and may overlap by more.

    Raises:
        ValueError: No frames, or an overlap that leaves no way forward.
    """
    if frames < 1 or not 0 <= overlap < size:
        raise ValueError(f"window_starts: {frames} frames in windows of {size} that overlap by {overlap}")
    last = max(frames - size, 0)
    return (*range(0, last, size - overlap), last)


def split_windows(
    sequence: Float[Tensor, "frames channels"], size: int = CLIP_FRAMES, overlap: int = OVERLAP
) -> Float[Tensor, "windows size channels"]:
    """The windows that begin at `window_starts`; one window, resampled, of a shorter sequence.

    Raises:
        ValueError: As `window_starts`.
    """
    starts = window_starts(len(sequence), size, overlap)
    if len(sequence) < size:
        return resample(sequence, size)[None]
    return torch.stack([sequence[start : start + size] for start in starts])


def fade_weights(size: int) -> Float[Tensor, "size"]:
    """Share of each frame of a window where windows overlap, before they are made to sum to 1: a triangle."""
    ramp = torch.arange(1, size + 1)
    return torch.minimum(ramp, ramp.flip(0)).float()


def join_windows(
    windows: Float[Tensor, "windows size channels"], frames: int, overlap: int = OVERLAP
) -> Float[Tensor, "frames channels"]:
    """The sequence whose windows these are; where they overlap, their mean with triangular weights.

    For poses before inverse kinematics, which minds no pairs of cosine and sine shorter than 1.

    Args:
        frames: Length of the sequence that was split.
        overlap: As it was split.

    Raises:
        ValueError: Another number of windows than `split_windows` makes.
    """
    count, size, channels = windows.shape
    starts: Sequence[int] = window_starts(frames, size, overlap)
    if len(starts) != count:
        raise ValueError(f"join_windows: {count} windows, {frames} frames make {len(starts)} of size {size}")
    if frames < size:
        return resample(windows[0], frames)
    weight = fade_weights(size).to(windows)[:, None]
    total, shares = windows.new_zeros(frames, channels), windows.new_zeros(frames, 1)
    for start, window in zip(starts, windows, strict=True):
        total[start : start + size] += weight * window
        shares[start : start + size] += weight
    return total / shares


def frame_places(
    times: Float[Tensor, "frames"], moments: Float[Tensor, "moments"]
) -> Float[Tensor, "moments"]:
    """Where moments lie among frames, as `representation.sample_frames` takes it; within the first and last.

    Args:
        times: Of the frames, rising.
    """
    if len(times) < 2:
        return torch.zeros_like(moments)
    moments = moments.clamp(times[0], times[-1])
    right = torch.searchsorted(times, moments).clamp(1, len(times) - 1)
    return right - 1 + (moments - times[right - 1]) / (times[right] - times[right - 1])
