"""Recipe `diffusion_decoder`: the motion decoder, on a frozen image model and a frozen motion prior."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import save_weights
from fasthmr.data.motion import MotionLibrary
from fasthmr.data.synthetic import package_assets
from fasthmr.errors import UsageError
from fasthmr.models.motion_decoder import MotionDecoder, MotionDecoderConfig
from fasthmr.models.motion_prior import CHANNELS, MotionPrior
from fasthmr.temporal.diffusion import DiffusionSchedule
from fasthmr.temporal.patch_denoiser import PatchDenoiserConfig
from fasthmr.temporal.patch_vae import PatchVAEConfig
from fasthmr.temporal.representation import POINT_CHANNELS
from fasthmr.training.clip_features import PairedClip, load_pairs
from fasthmr.training.loop import LoopConfig, run_loop
from fasthmr.training.motion_errors import judge_motion
from fasthmr.training.motion_losses import future_mask, mean_length, squared_error
from fasthmr.training.motion_pairs import MotionPairs, PairBatch
from fasthmr.training.motion_windows import MotionWindows
from fasthmr.zoo import load_model

_LOG = logging.getLogger(__name__)

_RENDERED, _DISTURBED, _FIT = 0, 1, 2  # second number of seeds
_FIT_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class DecoderLossWeights:
    """Weight of each term; points and accelerations are in metres."""

    latents: float = 1.0
    points: float = 10.0
    acceleration: float = 30.0


@dataclass(frozen=True, kw_only=True)
class DiffusionDecoderTraining:
    """Settings of the recipe.

    Attributes:
        out: Folder for the checkpoint and, at the end, `motion_decoder.safetensors`.
        prior: File that the recipe `motion_vae` wrote.
        clips, features: Rendered training clips, and the image model's answers (`training.clip_features`).
        val_clips, val_features: Those that progress is measured on.
        motion: Folder with recorded motion; None for the package's.
        form: "correction" (ours) or "features" (the paper's condition).
        limbs: Share of the correction that limbs make.
        prediction: "velocity", or "noise", which cannot work in one step.
        rendered, disturbed: Clips of a batch with features, and without pictures.
        terminal: Share of a batch at the last time step, from zeros, where the result is that of one step and
            its points are compared with the true ones, too.
        hidden: Share of a batch that ends early.
        lead: Whether a linear part is fitted to features.
        fit_windows: Disturbed clips that the linear part without features is fitted to.
        no_features: Share of rendered clips whose features are taken away.
    """

    out: Path
    prior: Path
    clips: Path
    features: Path
    val_clips: Path
    val_features: Path
    motion: Path | None = None
    form: Literal["correction", "features"] = "correction"
    limbs: float = 0.3
    prediction: Literal["velocity", "noise"] = "velocity"
    width: int = 256
    layers: int = 3
    mlp_dim: int = 512
    frame_dim: int = 96
    dropout: float = 0.1
    rendered: int = 16
    disturbed: int = 8
    terminal: float = 0.5
    hidden: float = 0.25
    no_features: float = 0.1
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=1500, learning_rate=2e-4, weight_decay=0.05, ema=0.995, bf16=False
        )
    )
    weights: DecoderLossWeights = field(default_factory=DecoderLossWeights)
    lead: bool = True
    fit_windows: int = 640
    seed: int = 0

    def decoder(self, prior: MotionPrior, features: int) -> MotionDecoderConfig:
        """What is to be trained.

        Raises:
            UsageError: The prior is of FastHMR's form, whose latents stand for no stretches.
        """
        vae = prior.config.vae
        if not isinstance(vae, PatchVAEConfig):
            raise UsageError(f"{self.prior}: the recipe needs a prior of the form 'patches'")
        pose = CHANNELS[prior.config.representation]
        side = prior.config.num_betas + 4 + features
        return MotionDecoderConfig(
            prior=prior.config,
            denoiser=PatchDenoiserConfig(
                latents=vae.latents,
                patch=vae.patch,
                latent_dim=vae.width,
                condition_dim=features if self.form == "features" else pose + side,
                frame_dim=self.frame_dim,
                width=self.width,
                layers=self.layers,
                mlp_dim=self.mlp_dim,
                max_tokens=vae.latents + 1,
                dropout=self.dropout,
            ),
            schedule=DiffusionSchedule(
                prediction=self.prediction, zero_terminal_snr=self.prediction == "velocity"
            ),
            features=features,
            form=self.form,
            limbs=self.limbs if self.form == "correction" else 1.0,
        )


def train(config: DiffusionDecoderTraining) -> Path:
    """Run or continue the recipe.

    Returns:
        The file with the averaged weights of a `MotionDecoder`.
    """
    torch.manual_seed(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    prior = load_model(config.prior)
    if not isinstance(prior, MotionPrior):
        raise UsageError(f"{config.prior} holds no motion prior")
    clips = load_pairs(config.clips, config.features)
    judged = load_pairs(config.val_clips, config.val_features)
    pairs, decoder = _prepared(config, prior, clips)
    _LOG.info("%d rendered clips, %d to measure on", len(clips), len(judged))

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        parts = []
        if config.rendered:
            parts.append(pairs.rendered(config.rendered, (config.seed, _RENDERED, step)))
        if config.disturbed:
            parts.append(pairs.disturbed(config.disturbed, (config.seed, _DISTURBED, step)))
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        return decoder_loss(decoder, parts, config, generator)

    average = run_loop(
        decoder,
        loss,
        config.loop,
        config.out / "motion_decoder.ckpt",
        settings=str(replace(config, out=Path())) + f" {len(clips)}",
        judge=judge_motion(judged),
    )
    target = config.out / "motion_decoder.safetensors"
    note = {"config": config_to_json(decoder.config), "recipe": "diffusion_decoder"}
    save_weights(average, target, metadata=note)
    _LOG.info("%s; settings %s", target, asdict(config))
    return target


@torch.no_grad()
def _prepared(
    config: DiffusionDecoderTraining, prior: MotionPrior, clips: Sequence[PairedClip]
) -> tuple[MotionPairs, MotionDecoder]:
    """Pairs, and a decoder with its scales."""
    features = clips[0].read.features
    assert features is not None
    decoder = config.decoder(prior, features.shape[1]).build()
    decoder.prior.load_state_dict(prior.state_dict())
    decoder.prior.requires_grad_(False)
    raw = [decoder.frame_numbers(clip.read)[:, decoder.channels :] for clip in clips]
    decoder.side.fit(raw)
    library = MotionLibrary.load(config.motion or package_assets("motion"), "train")
    windows = MotionWindows(library, decoder.config.denoiser.frames) if config.disturbed else None
    pairs = MotionPairs(decoder, clips, windows)
    if config.form == "correction" and windows is not None:
        decoder.fit_settling(_drawn(pairs, decoder.channels, config))
    if config.form == "correction" and config.lead:
        there_and_back = (torch.cat([clips, clips.flip(1)]) for clips in (pairs.read, pairs.true))
        decoder.fit_lead(*there_and_back)
    for linear in (decoder.settle, decoder.lead):
        linear.requires_grad_(False)
    true, given = decoder.prior.vae.encode(pairs.true).mean, decoder.known(pairs.read).given
    wanted = decoder.targets(true, given).flatten(0, 1)
    if config.form == "features":  # a correction that knows nothing is to be zero
        decoder.target_mean.copy_(wanted.mean(0))
    decoder.target_std.copy_((wanted - decoder.target_mean).square().mean().sqrt())
    return pairs, decoder


def _drawn(
    pairs: MotionPairs, channels: int, config: DiffusionDecoderTraining
) -> Iterator[tuple[Tensor, Tensor]]:
    """Disturbed motion to fit the linear part to."""
    for start in range(0, config.fit_windows, _FIT_BATCH):
        count = min(_FIT_BATCH, config.fit_windows - start)
        batch = pairs.disturbed(count, (config.seed, _FIT, start))
        yield batch.read[..., :channels], batch.true


def decoder_loss(
    decoder: MotionDecoder,
    parts: Sequence[PairBatch],
    config: DiffusionDecoderTraining,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted loss of some pairs, and its terms before they are weighted."""
    read = torch.cat([part.read for part in parts])
    true = torch.cat([part.true for part in parts])
    count, frames, _ = true.shape
    mask = future_mask(count, frames, share=config.hidden, generator=generator)
    read = _held(_without_features(read, decoder, config.no_features, generator), mask)
    schedule = decoder.config.schedule
    latents = decoder.prior.vae.encode(true).mean
    known = decoder.known(read, mask)
    clean = decoder.targets(latents, known.given)
    noise = torch.randn(clean.shape, generator=generator)
    times = torch.randint(schedule.steps, (count,), generator=generator)
    last = torch.rand(count, generator=generator) < config.terminal
    last &= schedule.zero_terminal_snr
    times = torch.where(last, schedule.steps - 1, times)
    noise = torch.where(last[:, None, None], 0.0, noise)
    predicted = decoder.denoiser.predict(schedule.add_noise(clean, noise, times), times, known.tokens).float()
    target = schedule.target(clean, noise, times)
    terms = {"latents": squared_error(schedule, predicted, target, times).mean()}
    if bool(last.any()) and decoder.config.prior.representation == "points":
        made = decoder.prior.vae.decode(decoder.latents(-predicted[last], known.given[last]), frames)
        terms |= _point_terms(decoder, made.float(), true[last], mask[last])
    weights = config.weights
    return torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum(), terms


def _without_features(
    read: Float[Tensor, "batch frames numbers"],
    decoder: MotionDecoder,
    share: float,
    generator: torch.Generator,
) -> Float[Tensor, "batch frames numbers"]:
    taken = torch.rand(len(read), 1, 1, generator=generator) < share
    features = decoder.config.features
    kept = torch.where(taken, torch.nan, read[..., -features:])
    return torch.cat([read[..., :-features], kept], dim=-1)


def _held(
    read: Float[Tensor, "batch frames numbers"], mask: Bool[Tensor, "batch frames"]
) -> Float[Tensor, "batch frames numbers"]:
    """Clips that end early go on with their last frame."""
    last = mask.sum(1) - 1
    rows = torch.minimum(torch.arange(mask.shape[1]), last[:, None])
    return read.gather(1, rows[..., None].expand_as(read))


def _point_terms(
    decoder: MotionDecoder,
    made: Float[Tensor, "batch frames channels"],
    true: Float[Tensor, "batch frames channels"],
    mask: Bool[Tensor, "batch frames"],
) -> dict[str, Tensor]:
    """Mean distance of points, and of their accelerations, over the frames that were to be read."""
    off = (made - true)[..., :POINT_CHANNELS] * decoder.prior.standardiser.std[:POINT_CHANNELS]
    off = off.unflatten(-1, (-1, 3))
    return {
        "points": mean_length(off, mask),
        "acceleration": mean_length(off.diff(n=2, dim=1), mask[:, 2:]),
    }
