"""Kinds of FastHMR's diffusion decoder: `fasthmr.motion_vae`, `denoiser` and `diffusion`."""

from __future__ import annotations

import re
from typing import Any

import torch
from parity_lib import Case, Pair, Result, checker
from torch import Tensor

from fasthmr.checkpoints.keymap import load_into
from fasthmr.checkpoints.mld import MLD_DENOISER_TABLE, MLD_VAE_TABLE
from fasthmr.temporal.diffusion import DiffusionSchedule
from fasthmr.temporal.latent_denoiser import LatentDenoiserConfig, sinusoid
from fasthmr.temporal.motion_vae import MotionVAEConfig
from fasthmr.training.motion_losses import kl_loss, squared_error

EXACT = {"exact": True}
COVERED = {
    "activation": "gelu",
    "normalize_before": False,
    "MLP_DIST": False,
    "PE_TYPE": "mld",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "eta": 0.0,
}
"""Options of the published code, and the only value of each that we build."""


def _covered(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in COVERED.items():
        if options.get(name, value) != value:
            raise ValueError(f"{name}={options[name]} is not covered")
    return options


def _sizes(options: dict[str, Any]) -> dict[str, int]:
    latents, width = options["latent_dim"]
    return {
        "latents": latents,
        "width": width,
        "layers": options["num_layers"],
        "heads": options["num_heads"],
        "mlp_dim": options["ff_size"],
        "max_tokens": options["pe_max_len"],
    }


@checker("fasthmr.motion_vae")
@torch.no_grad()
def check_motion_vae(case: Case) -> Result:
    options, motion = _covered(case.meta["config"]), case.tensors["input/x"]
    config = MotionVAEConfig(
        channels=options["nfeats"], frames=motion.shape[1], decoder=options["arch"], **_sizes(options)
    )
    model = config.build().eval()
    load_into(model, case.under("weight"), MLD_VAE_TABLE, case.case)
    lengths, frames = case.tensors["input/lengths"], motion.shape[1]
    if bool((lengths == frames).all()):
        lengths = None  # as clips without padding are computed
    latent = model.encode(motion, lengths)
    return {
        "output/mu": latent.mean.transpose(0, 1),
        "output/std": latent.std.transpose(0, 1),
        "output/decoded_z": model.decode(case.tensors["input/z"].transpose(0, 1), frames, lengths),
        "output/reconstruction_from_mu": model(motion, lengths)[0],
        "output/kl": kl_loss(latent).view(1),
    }


@checker("fasthmr.denoiser")
@torch.no_grad()
def check_denoiser(case: Case) -> Result:
    options, weights = _covered(case.meta["config"]), case.under("weight")
    sample, condition = case.tensors["input/sample"], case.tensors["input/cond"]
    sizes = _sizes(options)
    config = LatentDenoiserConfig(
        condition_dim=options["condition_dim"],
        condition="none" if options["condition_dim"] == sizes["width"] else "relu_linear",
        frames=condition.shape[1],
        time_dim=weights["time_embedding.linear_1.weight"].shape[1],
        **sizes,
    )
    model = config.build().eval()
    load_into(model, weights, MLD_DENOISER_TABLE, case.case)
    result: dict[str, Tensor] = {"mid/cond_proj": model.condition_tokens(condition)}
    for step in case.tensors["input/timesteps"].tolist():
        lone = torch.tensor([step])
        result |= {
            f"mid/time_proj_t{step}": sinusoid(lone, config.time_numbers),
            f"mid/time_emb_t{step}": model.time(lone),
            f"output/t{step}": model(sample, lone.expand(len(sample)), condition),
        }
    return result


@checker("fasthmr.diffusion")
def check_diffusion(case: Case) -> Result:
    options, given = _covered(case.meta["config"]), case.under("input")
    if options["prediction_type"] != "v_prediction" or not options["rescale_betas_zero_snr"]:
        raise ValueError("only v-prediction with zero terminal SNR is covered")
    sizes = {"steps": options["num_train_timesteps"]}
    sizes |= {name: options[name] for name in ("beta_start", "beta_end")}
    plain = DiffusionSchedule(zero_terminal_snr=False, **sizes)
    schedule = DiffusionSchedule(**sizes)
    clean, noise, predicted, steps = (given[name] for name in ("z0", "eps", "v_pred", "t"))
    noisy = schedule.add_noise(clean, noise, steps)
    target = schedule.target(clean, noise, steps)
    clean_again, noise_again = schedule.estimate(noisy, predicted, steps)
    each = (1, *range(2, clean.dim()))
    result: dict[str, Tensor | Pair] = {
        "output/betas": plain.betas,
        "output/alphas_cumprod": plain.alphas_cumprod,
        "output/betas_zero_snr": schedule.betas,
        "output/alphas_cumprod_zero_snr": schedule.alphas_cumprod,
        "output/z_t": noisy,
        "output/v_target": target,
        "output/z0_from_v": clean_again,
        "output/eps_from_v": noise_again,
        "output/one_step": schedule.one_step(lambda *_: predicted[:1], noise[:1]),
        "output/loss_v": (predicted - target).square().mean(each),
        "output/loss_eps": (noise_again - noise).square().mean(each),
        "output/loss_hybrid": squared_error(schedule, predicted, target, steps),
    }
    for name in case.tensors:
        found = re.fullmatch(r"output/ddim_(\d+)_(timesteps|final)", name)
        if found is None:
            continue
        count = int(found[1])
        if found[2] == "timesteps":
            visited = torch.tensor(schedule.timesteps(count))
            result[name] = Pair(actual=visited, expected=case.tensors[name], tolerance=EXACT)
        else:
            answers = iter(predicted[k % len(steps)][None] for k in range(count))
            result[name] = schedule.ddim(lambda *_, answers=answers: next(answers), noise[:1], count)
    return result
