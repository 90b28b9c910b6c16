from __future__ import annotations

import dataclasses

import pytest
import torch

from fasthmr.body.default_body import load_default_body
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.models.live_decoder import LiveDecoder
from fasthmr.models.motion_decoder import MotionDecoder, MotionDecoderConfig
from fasthmr.models.motion_filter import DecoderFilter
from fasthmr.models.motion_prior import MotionPriorConfig
from fasthmr.temporal.live import join_tracks
from fasthmr.temporal.patch_denoiser import PatchDenoiserConfig
from fasthmr.temporal.patch_vae import PatchVAEConfig
from fasthmr.types import BodyParams, MotionTrack

FRAMES = 36


@pytest.fixture(scope="module")
def decoder(motion_track) -> MotionDecoder:
    """Knows motion by its principal components alone."""
    torch.manual_seed(0)
    vae = PatchVAEConfig(latents=4, max_tokens=4, width=64, layers=1, mlp_dim=8)
    denoiser = PatchDenoiserConfig(
        latents=4, latent_dim=64, condition_dim=152, frame_dim=4, width=16, layers=1, mlp_dim=8, max_tokens=5
    )
    config = MotionDecoderConfig(prior=MotionPriorConfig(vae=vae), denoiser=denoiser, features=5)
    made = config.build()
    made.prior.take_skeleton(load_default_body())
    motion = [made.prior.representation.encode(motion_track(FRAMES, seed=seed).params) for seed in range(20)]
    made.prior.fit(torch.stack(motion))
    return made.eval()


def frames_of(track: MotionTrack) -> list[MotionTrack]:
    def part(row: slice) -> MotionTrack:
        values = {f.name: getattr(track.params, f.name)[row] for f in dataclasses.fields(BodyParams)}
        return MotionTrack(
            params=BodyParams(**values),
            times=track.times[row].double(),
            boxes_xyxy=track.boxes_xyxy[row],
            scores=track.scores[row],
            features=None,
        )

    return [part(slice(row, row + 1)) for row in range(len(track.times))]


def live(decoder: MotionDecoder, frames: list[MotionTrack], delay: int) -> MotionTrack:
    """What comes out when every frame is taken so many frames later."""
    smooth = LiveDecoder(decoder, delay / 30)
    out = []
    for number, frame in enumerate(frames):
        smooth.push(frame)
        if number >= delay:
            out.append(smooth.take())
    out += [smooth.take() for _ in range(min(delay, len(frames)))]
    return join_tracks(
        [dataclasses.replace(frame, params=params) for frame, params in zip(frames, out, strict=True)]
    )


def away(decoder: MotionDecoder, one: MotionTrack, other: MotionTrack) -> torch.Tensor:
    """Mean distance of joints in each frame, metres."""
    joints = [
        decoder.prior.joints(torch.cat([t.params.global_orient, t.params.body_pose], dim=1), t.params.betas)
        for t in (one, other)
    ]
    return (joints[0] - joints[1]).norm(dim=-1).mean(-1)


@pytest.mark.parametrize(("frames", "delay"), [(1, 4), (5, 0), (12, 0), (24, 9)])
def test_a_known_motion_comes_back_in_order(decoder, motion_track, frames, delay):
    track = motion_track(frames, seed=3)
    found = live(decoder, frames_of(track), delay)
    assert len(found.times) == frames and found.params.body_pose.isfinite().all()
    assert away(decoder, found, track).mean() < 0.1
    assert (found.params.transl - track.params.transl).norm(dim=-1).mean() < 0.1


def test_the_future_helps(decoder, motion_track):
    """With a delay the result nears that of the whole track."""
    true = motion_track(30, seed=3)
    shake = axis_angle_to_rotmat(0.08 * torch.randn(30, 23, 3, generator=torch.Generator().manual_seed(5)))
    read = dataclasses.replace(
        true, params=dataclasses.replace(true.params, body_pose=true.params.body_pose @ shake)
    )
    whole = DecoderFilter(decoder=decoder)(read)
    gaps = [float(away(decoder, live(decoder, frames_of(read), delay), whole).mean()) for delay in (0, 6)]
    assert gaps[1] < gaps[0]


def test_past_and_future_end_where_they_should(decoder, motion_track):
    """A frame is the same whatever comes after its delay."""
    track = motion_track(20, seed=4)
    for delay in (0, 4):
        short = live(decoder, frames_of(track)[:12], delay).params.body_pose
        long = live(decoder, frames_of(track), delay).params.body_pose
        torch.testing.assert_close(short[: 12 - delay], long[: 12 - delay])


@pytest.mark.parametrize("fps", [8.0, 60.0])
def test_frames_that_come_seldom_often_or_unevenly(decoder, motion_track, fps):
    track = motion_track(15, seed=3, fps=fps)
    uneven = torch.rand(15, generator=torch.Generator().manual_seed(0)) / fps / 3
    found = live(decoder, frames_of(dataclasses.replace(track, times=track.times + uneven)), 0)
    assert away(decoder, found, track).mean() < 0.12


def test_memory_stays(decoder, motion_track):
    """A window of four stretches, and the delay."""
    smooth = LiveDecoder(decoder, 0.1)
    for frame in frames_of(motion_track(60, seed=1)):
        smooth.push(frame)
    assert 39 <= len(smooth._numbers) <= 41
