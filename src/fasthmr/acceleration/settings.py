"""Settings of an acceleration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fasthmr.acceleration.candidates import SearchOptions
from fasthmr.acceleration.frames import Labels, is_records
from fasthmr.acceleration.plan import MergePlan
from fasthmr.errors import UsageError
from fasthmr.runtime.detect import Detector


@dataclass(frozen=True, kw_only=True)
class AccelerateConfig:
    """Settings of `accelerate.accelerate_model`.

    Attributes:
        search: What is searched, and what is asked for.
        plan: Merge by this plan instead of searching.
        masks: See `frames.load_frames`. With "self", a small head on the model's own tokens learns to find
            the person, from the masks of records or from the meshes that the model recovers.
        labels: See `frames.load_frames`.
        detector: Finds people in pictures.
        held_out: Share of the pictures that only judges.
        people: Crops that layers are searched on.
        limit: Crops to read at most.
        heal_steps: Steps of distillation after merging (`training.heal`); 0 for none.
        heal_batch: Crops of a step.
        heal_data: Folder of rendered records to heal (and teach the self-mask head) on; None for the
            calibration part of the data.
        self_mask_steps: Steps of teaching the head that finds the person.
        time_s: Seconds of each throughput measurement.
    """

    search: SearchOptions = field(default_factory=SearchOptions)
    plan: MergePlan | None = None
    masks: str = "self"
    labels: Labels = "auto"
    detector: str | Path | Detector = "auto"
    held_out: float = 0.3
    people: int = 256
    limit: int = 2048
    heal_steps: int = 300
    heal_batch: int = 32
    heal_data: Path | None = None
    self_mask_steps: int = 200
    time_s: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.labels not in ("auto", "none"):
            raise UsageError(f"labels={self.labels}; use 'auto' or 'none'")
        if self.heal_steps < 0 or self.heal_batch < 1:
            raise UsageError(f"heal_steps={self.heal_steps} or heal_batch={self.heal_batch} is too small")
        if not 0 < self.held_out < 1:
            raise UsageError(f"held_out={self.held_out}; a share of the pictures between 0 and 1")
        if self.self_mask_steps < 1:
            raise UsageError(f"self_mask_steps={self.self_mask_steps}; at least 1")
        if self.people < 2:
            raise UsageError(f"people={self.people} crops are too few to search on")
        if self.heal_data is not None and not is_records(self.heal_data):
            raise UsageError(f"heal_data={self.heal_data}: no folder of rendered records")
