"""Recall, precision and average precision of person boxes at an overlap of one half."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.geometry.boxes import box_iou

MATCH_IOU = 0.5


@dataclass(kw_only=True)
class DetectionTally:
    """Detections gathered over pictures, each a hit, false, or set apart.

    Attributes:
        people: How many should be found.
        scores, hits: Of the detections that count.
        ious: Overlap of each hit with its person.
        apart: Detections that neither count for nor against.
    """

    people: int = 0
    scores: list[float] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    apart: int = 0

    def add(
        self,
        boxes_xyxy: Float[Tensor, "found 4"],
        scores: Float[Tensor, "found"],
        people_xyxy: Float[Tensor, "people 4"],
        ignored_xyxy: Float[Tensor, "ignored 4"],
        smallest: float = 0.0,
    ) -> list[bool | None]:
        """Match the boxes of one picture, best score first, each person once.

        Args:
            ignored_xyxy: A box that finds nobody is set apart where over half of it lies in one of these.
            smallest: A box that finds nobody is set apart where it is lower than this, pixels.

        Returns:
            For each box: hit, false, or None where set apart.
        """
        self.people += len(people_xyxy)
        verdicts: list[bool | None] = [False] * len(boxes_xyxy)
        overlaps = box_iou(boxes_xyxy, people_xyxy)
        low = torch.maximum(boxes_xyxy[:, None, :2], ignored_xyxy[None, :, :2])
        high = torch.minimum(boxes_xyxy[:, None, 2:], ignored_xyxy[None, :, 2:])
        area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(-1)
        in_ignored = ((high - low).clamp(min=0).prod(-1) > 0.5 * area[:, None]).any(-1)
        for row in scores.argsort(descending=True, stable=True).tolist():
            best = int(overlaps[row].argmax()) if len(people_xyxy) else -1
            if best >= 0 and overlaps[row, best] >= MATCH_IOU:
                verdicts[row] = True
                self.ious.append(float(overlaps[row, best]))
                overlaps[:, best] = 0.0
            elif in_ignored[row] or boxes_xyxy[row, 3] - boxes_xyxy[row, 1] < smallest:
                verdicts[row] = None
                self.apart += 1
                continue
            self.scores.append(float(scores[row]))
            self.hits.append(verdicts[row] is True)
        return verdicts

    def recall(self, threshold: float = -torch.inf) -> float:
        """Share of the people found at or above a score, 0..1."""
        found = sum(hit for hit, score in zip(self.hits, self.scores, strict=True) if score >= threshold)
        return found / max(self.people, 1)

    def precision(self, threshold: float = -torch.inf) -> float:
        """Share of the boxes at or above a score that show a person, 0..1; 1 where there is no box."""
        kept = [hit for hit, score in zip(self.hits, self.scores, strict=True) if score >= threshold]
        return sum(kept) / len(kept) if kept else 1.0

    def average_precision(self) -> float:
        """Area under the precision envelope, 0..1."""
        if not self.hits:
            return 0.0
        hits = torch.tensor(self.hits)[torch.tensor(self.scores).argsort(descending=True, stable=True)]
        precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
        envelope = precision.flip(0).cummax(0).values.flip(0)
        return float(envelope[hits].sum()) / max(self.people, 1)

    def best_threshold(self) -> float:
        """The score at which the harmonic mean of recall and precision is highest."""
        if not self.hits:
            return 0.5
        scores, order = torch.tensor(self.scores).sort(descending=True, stable=True)
        found = torch.tensor(self.hits)[order].cumsum(0)
        f1 = 2 * found / (self.people + torch.arange(1, len(scores) + 1))
        return float(scores[int(f1.argmax())])
