"""What goes into an evaluation and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fasthmr.evaluation.protocols import Protocol


@dataclass(frozen=True, kw_only=True)
class Bodies:
    """Bodies or hands as meshes, points or both, metres, one row a sample.

    Attributes:
        vertices: Of the full mesh.
        points: The point set of the protocol before any choice of joints (`PointSet.count` points); may be
            left out where vertices and a regressor are given.
    """

    vertices: Float[Tensor, "samples vertices 3"] | None = None
    points: Float[Tensor, "samples points 3"] | None = None


@dataclass(frozen=True, kw_only=True)
class Keypoints:
    """2D keypoints in any unit that is the same for predictions and truth, one row a sample.

    Attributes:
        confidence: Of the truth; None on predictions.
        size: Of the truth: longer side of the annotated (not grown) box in the same unit; for points in crop
            units that is its pixels over those of the crop's square. None on predictions.
    """

    xy: Float[Tensor, "samples points 2"]
    confidence: Float[Tensor, "samples points"] | None = None
    size: Float[Tensor, "samples"] | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric over a data set.

    Attributes:
        value: What the protocol reports.
        interval: 95 % bootstrap interval of `value` over samples; the same number twice where it has none.
        samples: Value of each sample, in the order given (of each inner frame for accelerations; NaN where a
            sample has no point that counts).
    """

    name: str
    unit: str
    value: float
    interval: tuple[float, float]
    samples: Float[Tensor, "samples"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of one run under one protocol, by name (`mpjpe`, `f@5mm`, `pck@0.05`, ...)."""

    protocol: Protocol
    count: int
    scores: dict[str, Score]

    def __getitem__(self, name: str) -> float:
        return self.scores[name].value

    def as_dict(self) -> dict[str, object]:
        """Values, intervals and the protocol as plain data, without the samples."""
        return {
            "protocol": self.protocol.name,
            "samples": self.count,
            **{
                name: {"value": s.value, "unit": s.unit, "interval": list(s.interval)}
                for name, s in self.scores.items()
            },
        }
