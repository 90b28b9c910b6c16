"""Pre-training of the pose decoder as a lifter: noisy 2.5D points to pose, without pictures.

Motion capture gives unlimited pairs of body points and poses; only the noise of a heat-map network has to be
imitated. The picture model then starts from a decoder that already knows bodies.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.keypoints import KeypointBody
from fasthmr.data.augment import TrainBatch
from fasthmr.data.motion import MotionLibrary
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.heads.keypoint_smpl import BodyPoints, PoseDecoder
from fasthmr.training.losses import LossWeights, pose_losses
from fasthmr.types import BodyParams

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LifterConfig:
    """Length of the pre-training and strength of the noise on its input.

    Attributes:
        xy_noise: Largest standard deviation of the position noise in crop units; each sample draws its own.
        z_noise: The same for depth, metres.
        wrong: Share of points moved to a random place.
        hidden: Share of points with a low score.
    """

    steps: int = 900
    batch_size: int = 128
    learning_rate: float = 1e-3
    poses: int = 100_000
    xy_noise: float = 0.03
    z_noise: float = 0.15
    wrong: float = 0.04
    hidden: float = 0.1
    seed: int = 0


def draw_poses(library: MotionLibrary, count: int, seed: int) -> Float[Tensor, "count 24 3"]:
    """Axis-angle poses as the picture engine draws them."""
    rng = np.random.default_rng((seed, 71))
    return torch.from_numpy(np.stack([library.sample(rng).axis_angle for _ in range(count)])).float()


def camera_rotations(count: int, generator: torch.Generator) -> Float[Tensor, "count 3 3"]:
    """World (y up) to camera (y down): any heading, pitch mostly level, small roll."""
    heading = torch.rand(count, generator=generator) * 2 * torch.pi
    pitch = 0.2 * torch.randn(count, generator=generator)
    roll = 0.12 * torch.randn(count, generator=generator)

    def about(axis: int, angle: Tensor) -> Tensor:
        vector = torch.zeros(count, 3)
        vector[:, axis] = angle
        return axis_angle_to_rotmat(vector)

    down = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    return about(2, roll) @ about(0, pitch) @ down @ about(1, heading)


def lifter_batches(
    poses: Float[Tensor, "poses 24 3"], keypoint_body: KeypointBody, config: LifterConfig
) -> Iterator[tuple[BodyPoints, TrainBatch]]:
    """Noisy points and the pose behind them, endlessly; a function of the seed."""
    generator = torch.Generator().manual_seed(config.seed)
    count = config.batch_size

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    while True:
        rotations = axis_angle_to_rotmat(poses[torch.randint(len(poses), (count,), generator=generator)])
        betas = torch.randn(count, keypoint_body.num_betas, generator=generator).clamp(-2.5, 2.5)
        root = camera_rotations(count, generator) @ rotations[:, :1].squeeze(1)
        rotations = torch.cat((root[:, None], rotations[:, 1:]), dim=1)
        points_3d = keypoint_body(BodyParams.of_rotmats(rotations, betas))
        distance = 2.5 + 10 * uniform(1).square()
        seen = points_3d[..., :2] / (points_3d[..., 2:] + distance[..., None]).clamp(min=0.3)
        low, high = seen.amin(dim=1), seen.amax(dim=1)
        # The box grown to 3:4 as the crop is cut, jittered; skin reaches a little beyond the points.
        size = torch.maximum((high - low)[:, 1], (high - low)[:, 0] * 4 / 3) * 1.12
        zoom = torch.exp(0.25 * (uniform() * 2 - 1)) * torch.where(
            uniform() < 0.3, 0.4 + 0.4 * uniform(), 1.0
        )
        center = (low + high) / 2 + (uniform(2) - 0.5) * (0.2 + 0.8 * (1 - zoom).clamp(min=0))[
            :, None
        ] * size[:, None]
        xy = (seen - center[:, None]) / (size * zoom)[:, None, None]
        inside = (xy[..., 0].abs() < 0.375) & (xy[..., 1].abs() < 0.5)
        yield (
            _noisy(xy, points_3d[..., 2] - points_3d[:, :1, 2], inside, config, generator),
            TrainBatch(
                pixels=torch.zeros(count, 3, 1, 1),
                mask=torch.zeros(count, 1, 1),
                rotations=rotations,
                betas=betas,
                points=xy,
                points_3d=points_3d - points_3d[:, :1],
                inside=inside,
            ),
        )


def _noisy(
    xy: Tensor, z: Tensor, inside: Tensor, config: LifterConfig, generator: torch.Generator
) -> BodyPoints:
    count, points = z.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    noise = torch.randn(count, points, 3, generator=generator)
    xy = xy + noise[..., :2] * config.xy_noise * uniform(1, 1)
    z = z * (0.3 + 0.7 * uniform(1)) + noise[..., 2] * config.z_noise * uniform(1)
    wrong = uniform(points) < config.wrong
    xy = torch.where(wrong[..., None], (uniform(points, 2) - 0.5) * torch.tensor([0.75, 1.0]), xy)
    hidden = (uniform(points) < config.hidden) | ~inside
    score = torch.where(hidden, 0.3 * uniform(points).square(), 1 - 0.3 * uniform(points).square())
    xy = torch.where(inside[..., None], xy, xy.clamp(-0.5, 0.5))
    return BodyPoints(xy=xy, z=torch.where(inside, z, torch.zeros(())), score=score)


def pretrain_lifter(
    decoder: PoseDecoder, library: MotionLibrary, keypoint_body: KeypointBody, config: LifterConfig
) -> None:
    """Train the decoder in place on positions alone."""
    poses = draw_poses(library, config.poses, config.seed)
    decoder.start_from(axis_angle_to_rotmat(poses[:10_000]).mean(dim=0))
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=config.learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.05
    )
    weights = LossWeights()
    decoder.train()
    batches = lifter_batches(poses, keypoint_body, config)
    for step in range(config.steps):
        points, batch = next(batches)
        terms = pose_losses(decoder(points), batch, keypoint_body)
        total = torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == config.steps - 1:
            shown = " ".join(f"{name} {value.item():.4f}" for name, value in terms.items())
            _LOG.info("lifter step %d: %s", step, shown)
