from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasthmr.benchmark.counters import count
from fasthmr.body.default_body import load_default_body
from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.geometry.rotations import geodesic_angle
from fasthmr.models.motion_decoder import MotionDecoder, MotionDecoderConfig
from fasthmr.models.motion_filter import DecoderFilter
from fasthmr.models.motion_prior import MotionPriorConfig
from fasthmr.temporal.patch_denoiser import PatchDenoiserConfig
from fasthmr.temporal.patch_vae import PatchVAEConfig

FEATURES, FRAMES = 5, 36


def tiny(form: str = "correction") -> MotionDecoderConfig:
    vae = PatchVAEConfig(latents=4, max_tokens=4, width=64, layers=1, mlp_dim=8)
    size = FEATURES if form == "features" else 133 + 14 + FEATURES
    denoiser = PatchDenoiserConfig(
        latents=4, latent_dim=64, condition_dim=size, frame_dim=4, width=16, layers=1, mlp_dim=8, max_tokens=5
    )
    return MotionDecoderConfig(
        prior=MotionPriorConfig(vae=vae),
        denoiser=denoiser,
        features=FEATURES,
        form=form,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def decoder(motion_track) -> MotionDecoder:
    torch.manual_seed(0)
    made = tiny().build()
    made.prior.take_skeleton(load_default_body())
    motion = [made.prior.representation.encode(motion_track(FRAMES, seed=seed).params) for seed in range(20)]
    made.prior.fit(torch.stack(motion))
    return made.eval()


def away(decoder, one, other) -> float:
    """Mean distance of joints in metres."""
    joints = [
        decoder.prior.joints(torch.cat([t.params.global_orient, t.params.body_pose], dim=1), t.params.betas)
        for t in (one, other)
    ]
    return float((joints[0] - joints[1]).norm(dim=-1).mean())


@pytest.mark.parametrize("frames", [2, 20, FRAMES, 50, 90])
def test_without_training_a_known_motion_comes_back(decoder, motion_track, frames):
    track = motion_track(frames, seed=3)
    smooth = DecoderFilter(decoder=decoder)(track)
    assert away(decoder, smooth, track) < 0.08
    assert smooth.params.transl is not None and track.params.transl is not None
    assert torch.allclose(smooth.params.transl, track.params.transl, atol=1e-3)
    assert smooth.times is track.times and smooth.features is track.features


def test_one_frame_stays(decoder, motion_track):
    track = motion_track(1)
    assert DecoderFilter(decoder=decoder)(track) is track


def test_other_frame_rates(decoder, motion_track):
    for fps in (60.0, 12.0):
        track = motion_track(60, seed=3, fps=fps)
        smooth = DecoderFilter(decoder=decoder)(track)
        assert away(decoder, smooth, track) < 0.08


def test_frames_with_gaps_in_time(decoder, motion_track):
    track = motion_track(40, seed=3)
    times = torch.cat([track.times[:20], track.times[20:] + 0.4])
    smooth = DecoderFilter(decoder=decoder)(replace(track, times=times))
    assert smooth.params.body_pose.isfinite().all() and len(smooth.params.betas) == 40


def test_tracks_without_features(decoder, motion_track):
    numbers = decoder.frame_numbers(replace(motion_track(FRAMES), features=None))
    assert numbers[:, -FEATURES:].isnan().all()
    assert (
        DecoderFilter(decoder=decoder)(replace(motion_track(FRAMES), features=None))
        .params.body_pose.isfinite()
        .all()
    )


def test_hidden_frames_and_features_are_read_or_not(decoder, motion_track):
    torch.nn.init.normal_(decoder.denoiser.readout.weight, generator=torch.Generator().manual_seed(0))
    track = motion_track(FRAMES)
    numbers = decoder.frame_numbers(track)[None]
    mask = (torch.arange(FRAMES) < 20)[None]
    other = numbers.clone()
    other[:, 20:, -FEATURES:] += 1
    same = decoder.denoise(numbers, mask), decoder.denoise(other, mask)
    assert torch.allclose(*same)
    assert not torch.allclose(decoder.denoise(numbers), decoder.denoise(other))
    torch.nn.init.zeros_(decoder.denoiser.readout.weight)


def test_limbs_go_a_share_of_the_way(decoder, motion_track):
    torch.nn.init.normal_(decoder.denoiser.readout.weight, generator=torch.Generator().manual_seed(0))
    track = motion_track(FRAMES, seed=3)
    found = {}
    for share in (0.0, 0.4, 1.0):
        one = replace(decoder.config, limbs=share).build().eval()
        one.load_state_dict(decoder.state_dict())
        found[share] = DecoderFilter(decoder=one)(track).params
    torch.nn.init.zeros_(decoder.denoiser.readout.weight)
    settled = DecoderFilter(decoder=decoder)(track).params
    torch.testing.assert_close(found[0.0].body_pose, settled.body_pose, atol=1e-4, rtol=0)
    whole = geodesic_angle(settled.body_pose, found[1.0].body_pose)
    part = geodesic_angle(settled.body_pose, found[0.4].body_pose)
    assert float(whole.max()) > 0.05
    torch.testing.assert_close(part, 0.4 * whole, atol=2e-3, rtol=0)
    torch.testing.assert_close(found[0.0].global_orient, found[1.0].global_orient)


def test_targets_come_back(decoder):
    true, given = torch.randn(2, 1, 4, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(decoder.latents(decoder.targets(true, given), given), true, atol=1e-5)
    paper = tiny("features").build()
    assert torch.equal(paper.targets(true, given), true)


def test_counts_on_its_example(decoder):
    found = count(decoder)
    assert found.params == sum(p.numel() for p in decoder.parameters()) and found.macs > 0


def test_configuration(decoder):
    config = decoder.config
    assert config_from_json(config_to_json(config)) == config
    with pytest.raises(ValueError, match="known about a frame"):
        replace(config, features=7)
    with pytest.raises(ValueError, match="share"):
        replace(config, limbs=1.5)
    with pytest.raises(ValueError, match="latents"):
        replace(config, denoiser=replace(config.denoiser, latents=3))
