from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fasthmr.body.default_body import load_default_body
from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import save_weights
from fasthmr.data.clips import SyntheticClip
from fasthmr.errors import UsageError
from fasthmr.models.motion_decoder import MotionDecoder
from fasthmr.models.motion_filter import DecoderFilter
from fasthmr.models.motion_prior import MotionPriorConfig
from fasthmr.temporal.patch_vae import PatchVAEConfig
from fasthmr.training import clip_features, diffusion_decoder
from fasthmr.training.clip_features import PairedClip, cache_features, load_pairs
from fasthmr.training.diffusion_decoder import DiffusionDecoderTraining, train
from fasthmr.training.loop import LoopConfig
from fasthmr.training.motion_errors import motion_errors
from fasthmr.training.motion_pairs import MotionPairs
from fasthmr.training.motion_windows import MotionWindows
from fasthmr.types import BodyParams, Crop, HMROutput
from fasthmr.zoo import load_model

FEATURES = 5


@pytest.fixture(scope="module")
def paired(motion_track):
    """Makes a still pose that is read with errors."""

    def make(frames: int = 36, seed: int = 0, strength: float = 0.1) -> PairedClip:
        true = motion_track(frames, seed=seed)
        return PairedClip(read=motion_track(frames, seed=seed, jitter=strength), true=true)

    return make


@pytest.fixture(scope="module")
def prior_file(tmp_path_factory, paired):
    torch.manual_seed(0)
    vae = PatchVAEConfig(latents=4, max_tokens=4, width=16, layers=1, mlp_dim=8)
    prior = MotionPriorConfig(vae=vae).build()
    prior.take_skeleton(load_default_body())
    params = [paired(seed=seed, strength=0.3).read.params for seed in range(6)]
    prior.fit(torch.stack([prior.representation.encode(one) for one in params]))
    path = tmp_path_factory.mktemp("prior") / "prior.safetensors"
    save_weights(prior, path, metadata={"config": config_to_json(prior.config)})
    return path


def settings(out, prior, **more) -> DiffusionDecoderTraining:
    loop = LoopConfig(steps=2, learning_rate=1e-3, checkpoint_every=2, report_every=2, bf16=False)
    given = {"clips": out, "features": out, "val_clips": out, "val_features": out}
    small = {"width": 16, "layers": 1, "mlp_dim": 8, "frame_dim": 4, "rendered": 3, "disturbed": 0}
    return DiffusionDecoderTraining(out=out, prior=prior, loop=loop, **{**given, **small, **more})


@pytest.fixture
def clips(monkeypatch, paired):
    made = [paired(seed=seed) for seed in range(3)]
    monkeypatch.setattr(diffusion_decoder, "load_pairs", lambda clips, features: made)
    return made


@pytest.mark.parametrize(
    "more", [{}, {"form": "features"}, {"prediction": "noise"}], ids=["ours", "paper", "noise"]
)
def test_recipe_writes_a_decoder_that_loads(tmp_path, prior_file, clips, caplog, more):
    caplog.set_level(logging.INFO)
    decoder = load_model(train(settings(tmp_path, prior_file, **more)))
    assert isinstance(decoder, MotionDecoder)
    assert "acceleration error" in caplog.text
    smooth = DecoderFilter(decoder=decoder)(clips[0].read)
    assert smooth.params.body_pose.shape == (36, 23, 3, 3)
    assert load_model(prior_file).state_dict().keys() == decoder.prior.state_dict().keys()


def test_other_prior_is_refused(tmp_path, prior_file, clips):
    with pytest.raises(UsageError, match="motion prior"):
        decoder = train(settings(tmp_path / "a", prior_file))
        train(settings(tmp_path / "b", decoder))


def test_disturbed_motion_has_errors_of_clips_and_no_features(prior_file, clips):
    prior = load_model(prior_file)
    config = settings(prior_file.parent, prior_file, disturbed=2)
    decoder = config.decoder(prior, FEATURES).build()
    decoder.prior.load_state_dict(prior.state_dict())

    class Still(MotionWindows):
        def __init__(self) -> None:
            pass

        def batch(self, count, seed):
            params = clips[0].true.params
            spread = {name: value.expand(count, *value.shape) for name, value in vars(params).items()}
            return BodyParams(**{**spread, "transl": None})

    pairs = MotionPairs(decoder, clips, Still())
    batch = pairs.disturbed(2, (0,))
    assert batch.read.shape == (2, 36, 133 + 14 + FEATURES)
    assert batch.read[..., -FEATURES:].isnan().all() and not batch.read[..., :-FEATURES].isnan().any()
    assert (batch.read[..., :87] - batch.true[..., :87]).abs().max() > 0.01
    poses = batch.read[..., :133]
    decoder.fit_settling([(poses, batch.true)])
    with torch.no_grad():
        true, given = decoder.prior.vae.encode(batch.true).mean, decoder.prior.vae.encode(poses).mean
        settled = decoder.known(batch.read).settled
    assert (settled - true).square().mean() < 0.5 * (given - true).square().mean()
    rendered = pairs.rendered(4, (1,))
    assert not rendered.read.isnan().any() and rendered.true.shape == (4, 36, 133)


def test_errors_of_the_truth_are_zero(prior_file, clips):
    prior = load_model(prior_file)
    true = {id(clip.read): clip.true for clip in clips}
    found = motion_errors(prior, clips, lambda track: true[id(track)])
    assert found.mpjpe_mm == pytest.approx(0, abs=1e-3) and found.acceleration == pytest.approx(0, abs=1e-3)


class Reader(torch.nn.Module):
    """Gives the same pose for every crop."""

    def forward(self, pixels):
        eye = torch.eye(3).expand(len(pixels), 24, 3, 3)
        params = BodyParams(
            global_orient=eye[:, :1], body_pose=eye[:, 1:], betas=torch.zeros(len(pixels), 10)
        )
        camera = torch.tensor([0.9, 0.0, 0.0]).expand(len(pixels), 3)
        return HMROutput(params=params, camera=camera, features=torch.ones(len(pixels), FEATURES))


def test_features_are_cached_once(tmp_path, monkeypatch, paired):
    true = paired(frames=7).true

    class Seven(SyntheticClip):
        def __init__(self) -> None:
            object.__setattr__(self, "K", np.array([[600.0, 0, 320], [0, 600, 320], [0, 0, 1]]))

        def __len__(self) -> int:
            return 7

        def crops(self, frames=None, size=256):
            count = len(frames or ())
            crop = Crop(
                pixels=torch.zeros(count, 3, 8, 8),
                box_center=torch.full((count, 2), 320.0),
                box_size=torch.full((count,), 200.0),
                image_size=torch.full((count, 2), 640.0),
            )
            return crop, torch.zeros(count, 8, 8)

        def track(self):
            return true

    class Store:
        paths = (tmp_path / "00000.clip.npz", tmp_path / "00001.clip.npz")

        def __init__(self, folder) -> None:
            pass

        def __getitem__(self, index):
            return Seven()

    monkeypatch.setattr(clip_features, "ClipStore", Store)
    out = tmp_path / "features"
    assert cache_features(Reader(), tmp_path, out) == 2
    assert cache_features(Reader(), tmp_path, out) == 0
    pairs = load_pairs(tmp_path, out)
    assert len(pairs) == 2
    read = pairs[0].read
    assert read.features is not None and read.features.shape == (7, FEATURES)
    assert read.params.transl is not None and (read.params.transl[:, 2] > 1).all()
    (out / "00001.features.safetensors").unlink()
    assert len(load_pairs(tmp_path, out)) == 1
    save_file({"x": torch.zeros(1)}, out / "unrelated.safetensors")
    assert len(load_pairs(tmp_path, out)) == 1
