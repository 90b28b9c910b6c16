"""How far a merged model's joints are off: from the truth, or from those of the unmerged model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.acceleration.frames import Frames
from fasthmr.acceleration.parts import ModelParts
from fasthmr.errors import UsageError
from fasthmr.evaluation.metrics import bootstrap_interval, mpjpe_mm
from fasthmr.layers.tokens import TokenState
from fasthmr.reduction.eclm_search import CalibrationBatch
from fasthmr.reduction.mask_tokens import person_patches
from fasthmr.reduction.self_mask import SelfMaskHead
from fasthmr.reduction.tome_schedule import TokenMergePlan, run_blocks

Metric = Callable[
    [Float[Tensor, "people joints 3"], Float[Tensor, "people joints 3"]], Float[Tensor, "people"]
]
"""Error of each person from predicted and wanted joints; any of `evaluation.metrics`."""

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Change:
    """Mean of paired differences, after minus before, with its 95 % bootstrap interval."""

    mean: float
    interval: tuple[float, float]

    @staticmethod
    def of(after: Float[Tensor, "people"], before: Float[Tensor, "people"]) -> Change:
        """The same people under two models."""
        difference = (after - before).double()
        return Change(mean=float(difference.mean()), interval=bootstrap_interval(difference))


@torch.no_grad()
def predict_joints(
    parts: ModelParts, frames: Frames, model: nn.Module | None = None
) -> Float[Tensor, "people joints 3"]:
    """Joints of everybody by the model of `parts`, or a merged copy of it."""
    used = parts if model is None else parts.with_model(model)
    joints = torch.cat(
        [
            parts.joints(used.predict(some.pictures, some.masks, some.bbox_info)[0])
            for some in frames.batches(BATCH)
        ]
    )
    if not bool(joints.isfinite().all()):
        raise UsageError("the model gives joints that are not finite; its weights are damaged")
    return joints


class Judge:
    """Errors on a set of people, one number for each, in millimetres.

    Label-free, the unmerged model is the judge: by the triangle inequality, the mean distance to its joints
    bounds what the merged model's MPJPE can rise by (FastHMR spec: calibration without ground truth).

    Args:
        parts: Of the unmerged model.
        metric: `mpjpe_mm` about the root joint, or another error of `evaluation.metrics`.
        teacher: Judge by the unmerged model although the truth is known.
    """

    def __init__(
        self, parts: ModelParts, frames: Frames, *, metric: Metric = mpjpe_mm, teacher: bool = False
    ) -> None:
        self.parts, self.frames, self.metric = parts, frames, metric
        self.labelled = frames.joints is not None and not teacher
        before = predict_joints(parts, frames)
        wanted = frames.joints if self.labelled else before
        assert wanted is not None
        self.wanted: Float[Tensor, "people joints 3"] = wanted
        self.before: Float[Tensor, "people"] = metric(before, wanted).double()
        self._maps: list[list[Tensor]] = []

    def errors(self, model: nn.Module) -> Float[Tensor, "people"]:
        """Error of everybody under a merged copy."""
        return self.metric(predict_joints(self.parts, self.frames, model), self.wanted).double()

    @torch.no_grad()
    def batches(
        self, plan: TokenMergePlan | None, self_mask: SelfMaskHead | None = None
    ) -> Iterator[CalibrationBatch]:
        """What `select_merges` searches on; fine maps are kept for `error`."""
        encoder = self.parts.model.encoder
        self._maps = []
        for some in self.frames.batches(BATCH):
            finer, state = encoder.before_blocks(some.pictures)
            self._maps.append(finer)
            yield CalibrationBatch(state=state, person=_person(self.parts, some, state, plan, self_mask))

    def error(self, state: TokenState, rows: slice) -> Float[Tensor, "people"]:
        """Errors of one batch of `batches`, from what leaves the last norm."""
        info = self.frames.bbox_info
        maps = self.parts.maps(self._maps[rows.start // BATCH], state)
        params, _ = self.parts.params(maps, None if info is None else info[rows])
        return self.metric(self.parts.joints(params), self.wanted[rows])


def _person(
    parts: ModelParts,
    frames: Frames,
    state: TokenState,
    plan: TokenMergePlan | None,
    self_mask: SelfMaskHead | None,
) -> Tensor | None:
    if plan is None or not plan.guided:
        return None
    encoder = parts.model.encoder
    if self_mask is not None:
        read = run_blocks(encoder.blocks[: self_mask.config.after], state)
        return self_mask.person(read.tokens)
    assert frames.masks is not None, "a guided plan needs masks"
    return person_patches(
        frames.masks,
        patch_size=encoder.strides[-1],
        padding=encoder.patch_padding,
        min_share=plan.min_share,
        dilate=plan.dilate,
    )
