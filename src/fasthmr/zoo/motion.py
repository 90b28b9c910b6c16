"""Models of motion: VAE, latent denoiser and diffusion decoder of FastHMR (arXiv 2510.10868).

Table 15 gives 9 layers to the VAE. The counts of table 12 need 5 in its decoder (`docs/design/018`).
"""

from __future__ import annotations

from functools import partial

from fasthmr.checkpoints.mld import MLD_DENOISER_TABLE, MLD_VAE_TABLE
from fasthmr.models.motion_decoder import MotionDecoderConfig
from fasthmr.models.motion_prior import MotionPriorConfig
from fasthmr.temporal.diffusion_decoder import DiffusionDecoderConfig
from fasthmr.temporal.latent_denoiser import LatentDenoiserConfig
from fasthmr.temporal.motion_vae import MotionVAEConfig
from fasthmr.temporal.patch_denoiser import PatchDenoiserConfig
from fasthmr.temporal.patch_vae import PatchVAEConfig
from fasthmr.zoo.registry import Preset, PublishedCount, register_preset


def _ours() -> MotionDecoderConfig:
    """As the recipes `motion_vae` and `diffusion_decoder` make it."""
    vae = PatchVAEConfig(width=256, layers=1, mlp_dim=512)
    return MotionDecoderConfig(
        prior=MotionPriorConfig(vae=vae),
        denoiser=PatchDenoiserConfig(dropout=0.1, condition_dim=415),
        limbs=0.3,
    )


def _decoder(layers: int) -> DiffusionDecoderConfig:
    return DiffusionDecoderConfig(vae=MotionVAEConfig(layers=layers), denoiser=LatentDenoiserConfig())


register_preset(
    Preset(
        name="fasthmr_motion",
        config=_ours,
        description="Motion decoder for fasthmr_m_fast: corrects the poses of 243 frames in one step",
        task="motion",
    ),
    Preset(
        name="motion_vae_table12",
        config=MotionVAEConfig,
        description="Motion VAE of FastHMR with 5 layers: clips of 243 frames as 27 latents",
        task="motion",
        layout=MLD_VAE_TABLE,
    ),
    Preset(
        name="motion_vae_table15",
        config=partial(MotionVAEConfig, layers=9),
        description="Motion VAE of FastHMR with 9 layers: clips of 243 frames as 27 latents",
        task="motion",
        layout=MLD_VAE_TABLE,
    ),
    Preset(
        name="latent_denoiser_table14",
        config=LatentDenoiserConfig,
        description="Latent denoiser of FastHMR on 1024 numbers for each of 243 frames",
        task="motion",
        layout=MLD_DENOISER_TABLE,
    ),
    Preset(
        name="diffusion_decoder_table12",
        config=partial(_decoder, 5),
        description="Diffusion decoder of FastHMR: 1024 numbers a frame to motion, VAE decoder of 5 layers",
        task="motion",
        published=(PublishedCount(source="FastHMR, Table 12", params=29.5, gmacs=6.8, convention="tables"),),
    ),
    Preset(
        name="diffusion_decoder_table15",
        config=partial(_decoder, 9),
        description="Diffusion decoder of FastHMR: 1024 numbers a frame to motion, VAE decoder of 9 layers",
        task="motion",
    ),
)
