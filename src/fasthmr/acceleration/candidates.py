"""What a joint search tries, and one way to merge with what was measured of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fasthmr.acceleration.judge import Change
from fasthmr.acceleration.speed import Ratio
from fasthmr.errors import UsageError
from fasthmr.reduction.eclm import EQ4, LayerMergePlan, MergeRule
from fasthmr.reduction.merge_search import Trial
from fasthmr.reduction.tome_schedule import TokenMergePlan, tome_schedule

THRESHOLDS_MM = (0.5, 1.0, 2.0, 4.0, 8.0)
KEPT_SHARES = (1.0, 0.75, 0.585, 0.47, 0.375)
"""Tokens kept, of all; the third is the paper's 112 of 192 and the fourth its 90."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What is searched.

    Attributes:
        max_error_mm: Allowed rise of the mean error, all merges together.
        target_speedup: Where no error is given: least measured speed-up, reached with the smallest error.
        keep: Tokens to keep; None tries `KEPT_SHARES` of all.
        thresholds_mm: Thresholds of the layer search where `max_error_mm` gives none.
        per_block: Tokens that may merge in one block; None for the paper's share, 40 of 192.
        guided: Protect the person; False is plain token merging.
        rules: Merge rules to try for each range.
        batch_size: Crops at once in timings.
        time_s: Seconds of timing for each candidate that is worth it.
        measure: Choose by measured time; False takes multiply-accumulates for it, which repeats exactly.
    """

    max_error_mm: float | None = None
    target_speedup: float = 2.2
    keep: tuple[int, ...] | None = None
    thresholds_mm: tuple[float, ...] = THRESHOLDS_MM
    per_block: int | None = None
    guided: bool = True
    rules: tuple[MergeRule, ...] = (EQ4,)
    batch_size: int = 8
    time_s: float = 1.5
    measure: bool = True

    def __post_init__(self) -> None:
        if self.max_error_mm is not None and not self.max_error_mm > 0:
            raise UsageError(f"max_error_mm={self.max_error_mm}; the allowed rise of the error is above 0")
        if not self.thresholds_mm or min(self.thresholds_mm) <= 0:
            raise UsageError(f"thresholds_mm={self.thresholds_mm}; all must be above 0")
        if not self.target_speedup > 1:
            raise UsageError(f"target_speedup={self.target_speedup}; it must be above 1")
        if self.batch_size < 1 or not self.time_s > 0:
            raise UsageError(f"batch_size={self.batch_size} or time_s={self.time_s} is too small")

    @staticmethod
    def asked(
        *, max_error_mm: float | None, target_speedup: float, tokens: int | None, masks: str
    ) -> SearchOptions:
        """What the arguments of `accelerate.accelerate` ask for."""
        return SearchOptions(
            max_error_mm=max_error_mm,
            target_speedup=target_speedup,
            keep=None if tokens is None else (tokens,),
            guided=masks != "none",
        )

    def token_plans(self, tokens: int, depth: int, first: int = 0) -> tuple[TokenMergePlan | None, ...]:
        """Schedules to try for a model; None stands for no token merging.

        Args:
            first: Block in which merging may begin.

        Raises:
            UsageError: More tokens to keep than there are, or fewer than 1.
        """
        keep = self.keep or tuple(round(share * tokens) for share in KEPT_SHARES)
        for kept in keep:
            if not 1 <= kept <= tokens:
                raise UsageError(
                    f"cannot keep {kept} tokens: the model has {tokens}; give a number from 1 to {tokens}"
                )
        per_block = self.per_block or max(1, round(40 / 192 * tokens))
        plans = {
            kept: None
            if kept == tokens
            else TokenMergePlan(
                counts=(0,) * first + tome_schedule(tokens, per_block, kept), guided=self.guided
            )
            for kept in keep
        }
        for kept, plan in plans.items():
            if plan is not None and len(plan.counts) > depth:
                raise UsageError(
                    f"keeping {kept} of {tokens} tokens takes {len(plan.counts)} blocks at {per_block} a "
                    f"block, the model has {depth}; let more merge in a block"
                )
        return tuple(plans.values())


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to merge, measured on the calibration part.

    Attributes:
        threshold_mm: Of the layer search that found it; None where no layers were searched.
        errors: Of each person.
        rise: Over the unmerged model.
        macs: Of one crop.
        macs_ratio: Multiply-accumulates of the unmerged model over these.
        speed: Measured, where the candidate was worth it.
        trials: Of the layer search.
    """

    layers: LayerMergePlan | None
    tokens: TokenMergePlan | None
    threshold_mm: float | None
    errors: Float[Tensor, "people"]
    rise: Change
    macs: int
    macs_ratio: float
    depth: int
    kept_tokens: int
    speed: Ratio | None = None
    trials: tuple[Trial, ...] = ()

    @property
    def gain(self) -> float:
        """How many times as fast, measured or, where nothing was, by multiply-accumulates."""
        return self.speed.value if self.speed else self.macs_ratio

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for candidates that are the same model."""
        return self.layers.groups if self.layers else None, self.tokens

    @property
    def name(self) -> str:
        """For logs and tables."""
        return f"{self.depth} blocks, {self.kept_tokens} tokens"


def pareto(candidates: Sequence[Candidate], cost: Callable[[Candidate], float]) -> list[Candidate]:
    """Those that no other beats in mean error and cost, smallest error first."""
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.rise.mean, cost(c))):
        if not front or cost(candidate) < cost(front[-1]):
            front.append(candidate)
    return front


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Each model once, as it was first found."""
    seen: dict[tuple[object, ...], Candidate] = {}
    for candidate in candidates:
        seen.setdefault(candidate.key, candidate)
    return list(seen.values())
