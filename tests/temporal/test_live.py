from __future__ import annotations

import dataclasses

import pytest
import torch

from fasthmr.temporal.live import LiveFilter, LiveStep, LiveWindow, join_tracks, pick_frame
from fasthmr.temporal.smoothing import OneEuroFilter, SavitzkyGolay
from fasthmr.temporal.windows import frame_places
from fasthmr.types import BodyParams, MotionTrack

FRAMES = 40


def frame(number: int, features: bool = False) -> MotionTrack:
    """Somebody at rest who walks to the right."""
    return MotionTrack(
        params=BodyParams(
            global_orient=torch.eye(3).expand(1, 1, 3, 3),
            body_pose=torch.eye(3).expand(1, 23, 3, 3),
            betas=torch.zeros(1, 10),
            transl=torch.tensor([[0.01 * number, 0.0, 3.0]]),
        ),
        times=torch.tensor([1e5 + number / 30], dtype=torch.float64),
        boxes_xyxy=torch.tensor([[0.0, 0.0, 10.0, 20.0]]),
        scores=torch.ones(1),
        features=torch.full((1, 4), float(number)) if features else None,
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: LiveStep(None),
        lambda: LiveStep(OneEuroFilter().stepper()),
        lambda: LiveWindow(SavitzkyGolay()),
    ],
)
@pytest.mark.parametrize("delay", [0, 1, 7])
def test_frames_come_out_in_order(make, delay):
    live = make()
    assert isinstance(live, LiveFilter)
    places = []
    for number in range(FRAMES):
        live.push(frame(number))
        if number >= delay:
            places.append(live.take().transl)
    places += [live.take().transl for _ in range(delay)]
    walked = torch.cat(places)[:, 0]
    assert len(walked) == FRAMES
    late = 0.06  # One-Euro lags
    assert (walked - 0.01 * torch.arange(FRAMES)).abs().max() < late


def test_a_window_with_enough_future_is_the_filter_itself():
    smooth = SavitzkyGolay(window=9)
    live = LiveWindow(smooth, frames=30)
    noise = 0.1 * torch.randn(FRAMES, generator=torch.Generator().manual_seed(0))
    frames = [frame(number) for number in range(FRAMES)]
    for one, shake in zip(frames, noise, strict=True):
        one.params.transl[:, 0] += shake
    found = []
    for number, one in enumerate(frames):
        live.push(one)
        if number >= 4:
            found.append(live.take().transl)
    track = join_tracks(frames)
    whole = smooth(dataclasses.replace(track, times=(track.times - 1e5).float())).params.transl
    torch.testing.assert_close(torch.cat(found)[4:], whole[4:-4], atol=1e-4, rtol=0)


def test_a_window_sees_so_many_frames():
    seen = []

    def note(track: MotionTrack) -> MotionTrack:
        seen.append(len(track.times))
        assert track.times[0] == 0 and track.times.dtype == torch.float32
        return track

    live = LiveWindow(note, frames=10)
    for number in range(30):
        live.push(frame(number))
        live.take()
    assert max(seen) == 11 and seen[0] == 1


def test_tracks_are_joined_and_taken_apart():
    joined = join_tracks([frame(0, features=True), frame(1, features=True)])
    assert joined.features.tolist() == [[0.0] * 4, [1.0] * 4]
    assert pick_frame(joined.params, 1).transl.tolist() == frame(1).params.transl.tolist()
    assert join_tracks([frame(0)]).features is None


def test_places_of_moments():
    times = torch.tensor([0.0, 0.1, 0.4], dtype=torch.float64)
    moments = torch.tensor([-1.0, 0.0, 0.05, 0.25, 0.4, 9.0], dtype=torch.float64)
    torch.testing.assert_close(
        frame_places(times, moments), torch.tensor([0, 0, 0.5, 1.5, 2, 2], dtype=torch.float64)
    )
    assert frame_places(times[:1], moments).tolist() == [0.0] * 6
