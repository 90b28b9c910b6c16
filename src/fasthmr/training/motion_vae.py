"""Recipe `motion_vae`: the motion prior from recorded motion alone.

Windows of recordings, joined and warped, of random bodies seen by random cameras. Nothing is rendered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.body.default_body import load_default_body
from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import save_weights
from fasthmr.data.motion import MotionLibrary, Split
from fasthmr.data.synthetic import package_assets
from fasthmr.evaluation.metrics import acceleration_error, mpjpe_mm
from fasthmr.models.motion_prior import CHANNELS, MotionPrior, MotionPriorConfig, Representation
from fasthmr.temporal.motion_vae import MotionVAEConfig
from fasthmr.temporal.patch_vae import PatchVAEConfig
from fasthmr.training.loop import LoopConfig, run_loop
from fasthmr.training.motion_losses import MotionVAELossWeights, motion_vae_losses
from fasthmr.training.motion_windows import MotionWindows
from fasthmr.types import BodyParams

_LOG = logging.getLogger(__name__)

_FIT, _TRAIN, _JUDGE = 0, 1, 2  # first number of seeds


@dataclass(frozen=True, kw_only=True)
class MotionVAETraining:
    """Settings of the recipe.

    Attributes:
        out: Folder for the checkpoint and, at the end, `motion_vae.safetensors`.
        motion: Folder with motion clips; None for the package's.
        form: "patches" for our VAE of 9 frames a latent, "frames" for FastHMR's, which takes twenty times as
            long for a step.
        representation: What describes a pose.
        latents: Of 243 frames.
        fit_windows: Windows that scale and linear parts are computed from.
        judged_windows: Windows of unseen subjects that the reconstruction is measured on.
        weights: Of the terms of the loss. Joints and velocities count for points alone, and are in metres.
    """

    out: Path
    motion: Path | None = None
    form: Literal["patches", "frames"] = "patches"
    representation: Representation = "points"
    latents: int = 27
    width: int = 256
    layers: int = 1
    mlp_dim: int = 512
    batch_size: int = 32
    fit_windows: int = 1500
    judged_windows: int = 64
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1200, learning_rate=1e-4))
    weights: MotionVAELossWeights = field(
        default_factory=lambda: MotionVAELossWeights(reconstruction=10.0, joints=1.0, velocity=2.0)
    )
    seed: int = 0

    def prior(self) -> MotionPriorConfig:
        """What is to be trained."""
        channels = CHANNELS[self.representation]
        if self.form == "patches":
            vae = PatchVAEConfig(channels=channels, latents=self.latents, max_tokens=self.latents)
        else:
            vae = MotionVAEConfig(channels=channels, latents=self.latents)
        vae = replace(vae, width=self.width, layers=self.layers, mlp_dim=self.mlp_dim)
        return MotionPriorConfig(vae=vae, representation=self.representation)


def train(config: MotionVAETraining) -> Path:
    """Run or continue the recipe.

    Returns:
        The file with the averaged weights of a `MotionPrior`.
    """
    torch.manual_seed(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    prior = config.prior().build()
    prior.take_skeleton(load_default_body())
    windows = _windows(config, "train")
    fitting = windows.batch(config.fit_windows, (config.seed, _FIT))
    prior.fit(prior.representation.encode(fitting))
    judged = _windows(config, "val").batch(config.judged_windows, (config.seed, _JUDGE))

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch = windows.batch(config.batch_size, (config.seed, _TRAIN, step))
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        return vae_loss(prior, prior.numbers(batch), config.weights, generator)

    average = run_loop(
        prior,
        loss,
        config.loop,
        config.out / "motion_vae.ckpt",
        settings=str(replace(config, out=Path())),
        judge=judge_reconstruction(judged),
    )
    target = config.out / "motion_vae.safetensors"
    note = {"config": config_to_json(prior.config), "recipe": "motion_vae", "step": str(config.loop.steps)}
    save_weights(average, target, metadata=note)
    _LOG.info("%s; settings %s", target, asdict(config))
    return target


def _windows(config: MotionVAETraining, split: Split) -> MotionWindows:
    library = MotionLibrary.load(config.motion or package_assets("motion"), split)
    return MotionWindows(library, config.prior().vae.frames)


def vae_loss(
    prior: MotionPrior,
    numbers: Float[Tensor, "batch frames channels"],
    weights: MotionVAELossWeights,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted loss of clips, and its terms before they are weighted."""
    latent = prior.vae.encode(numbers)
    predicted = prior.vae.decode(latent.sample(generator), numbers.shape[1])
    std = prior.standardiser.std if prior.config.representation == "points" else None
    terms = motion_vae_losses(predicted, numbers, latent, std=std)
    total = torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
    return total, terms


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """How well a prior describes motion it has not seen.

    Attributes:
        mpjpe_mm: Joints after inverse kinematics, pelvis aligned.
        acceleration: Error of their accelerations, mm a frame squared.
        true_acceleration: Mean size of the true ones, to compare with.
    """

    mpjpe_mm: float
    acceleration: float
    true_acceleration: float


@torch.no_grad()
def reconstruct(prior: MotionPrior, clips: BodyParams) -> Reconstruction:
    """Measure a prior on clips, through its mean latents and inverse kinematics."""
    numbers, _ = prior(prior.numbers(clips))
    turned = prior.rotations(numbers, clips.betas)
    true = prior.joints(clips.rotmats, clips.betas)
    found = prior.joints(turned, clips.betas)
    accelerations = [acceleration_error(a, b).mean() for a, b in zip(found, true, strict=True)]
    sizes = [acceleration_error(torch.zeros_like(b), b).mean() for b in true]
    return Reconstruction(
        mpjpe_mm=float(mpjpe_mm(found.flatten(0, 1), true.flatten(0, 1)).mean()),
        acceleration=float(torch.stack(accelerations).mean()),
        true_acceleration=float(torch.stack(sizes).mean()),
    )


def judge_reconstruction(clips: BodyParams) -> Callable[[nn.Module], str]:
    """Says in a line how well a prior does on clips."""

    def judge(model: nn.Module) -> str:
        found = reconstruct(cast(MotionPrior, model), clips)
        return (
            f"unseen subjects MPJPE {found.mpjpe_mm:.2f} mm, acceleration error {found.acceleration:.2f} "
            f"of {found.true_acceleration:.2f} mm/frame²"
        )

    return judge
