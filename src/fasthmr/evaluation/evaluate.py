"""Predictions against the truth under a named protocol."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasthmr.errors import UsageError
from fasthmr.evaluation.metrics import (
    acceleration_error,
    auc,
    bootstrap_interval,
    centred,
    f_scores,
    interval_of,
    mpjpe_mm,
    pa_mpjpe_mm,
    pck_curve,
    pve_mm,
)
from fasthmr.evaluation.protocols import UNITS, PointSet, protocol
from fasthmr.evaluation.samples import Bodies, Evaluation, Keypoints, Score
from fasthmr.geometry.alignment import similarity_align

F_THRESHOLDS_MM = (5.0, 15.0)
AUC_THRESHOLDS_M = torch.linspace(0, 0.05, 100, dtype=torch.float64)
"""FreiHAND's curve: 0 to 5 cm in 100 steps."""

_DRAWS = 2000


class Evaluator:
    """Collects batches and reports over all of them.

    Args:
        name: Protocol, by name (`protocols.PROTOCOLS`).
        regressor: Takes vertices to the protocol's points; `io.body_files.load_regressor_file` reads one.

    Raises:
        UsageError: No such protocol, or the regressor gives another number of points.
    """

    def __init__(self, name: str, regressor: Float[Tensor, "points vertices"] | None = None) -> None:
        self.protocol = protocol(name)
        if regressor is not None and len(regressor) != self.protocol.points.count:
            raise UsageError(
                f"the regressor gives {len(regressor)} points; {name} needs {self.protocol.points.count}: "
                f"{self.protocol.regressor}"
            )
        self._regressor = regressor
        self._values: dict[str, list[Tensor]] = {}
        self._joints: list[tuple[Tensor, Tensor]] = []
        self._sequences: list[Tensor] = []
        self._hits: list[Tensor] = []
        self._valid: list[Tensor] = []
        self._count = 0

    def add(
        self,
        predicted: Bodies | Keypoints,
        true: Bodies | Keypoints,
        sequences: Int[Tensor, "samples"] | None = None,
    ) -> None:
        """Add samples.

        Args:
            sequences: Number of the unbroken sequence of frames each sample belongs to; samples of a sequence
                follow each other. Given for all batches or none; without it there is no acceleration error.

        Raises:
            UsageError: The samples do not fit the protocol.
        """
        if self.protocol.is_2d:
            if not (isinstance(predicted, Keypoints) and isinstance(true, Keypoints)):
                raise UsageError(f"{self.protocol.name} is a 2D protocol; give Keypoints on both sides")
            self._add_2d(predicted, true)
        else:
            if not (isinstance(predicted, Bodies) and isinstance(true, Bodies)):
                raise UsageError(f"{self.protocol.name} is a 3D protocol; give Bodies on both sides")
            self._add_3d(predicted, true)
            if sequences is not None and "accel" in self.protocol.metrics:
                self._sequences.append(sequences)

    def _add_2d(self, predicted: Keypoints, true: Keypoints) -> None:
        wanted = self.protocol.points
        if true.confidence is None or true.size is None:
            raise UsageError(f"{self.protocol.name} needs confidence and size with the true keypoints")
        if predicted.xy.shape != true.xy.shape or predicted.xy.shape[1] != wanted.count:
            raise UsageError(
                f"keypoints {tuple(predicted.xy.shape)} and {tuple(true.xy.shape)}; {self.protocol.name} "
                f"takes (samples, {wanted.count}, 2): {wanted.name}"
            )
        if not (predicted.xy.isfinite().all() and bool((true.size > 0).all())):
            raise UsageError("predicted keypoints must be finite and box sizes above zero")
        joints = list(wanted.joints)
        error = (predicted.xy - true.xy)[:, joints].norm(dim=-1)
        valid = true.confidence[:, joints] > self.protocol.min_confidence
        thresholds = torch.tensor(self.protocol.pck_thresholds, dtype=error.dtype)
        self._hits.append((error[..., None] < thresholds * true.size[:, None, None]) & valid[..., None])
        self._valid.append(valid)
        self._count += len(error)

    def _add_3d(self, predicted: Bodies, true: Bodies) -> None:
        rule = self.protocol
        annotated = rule.annotated is not None and true.points is not None
        true_set = rule.annotated if annotated and rule.annotated is not None else rule.points
        found, wanted = self._points(predicted, rule.points), self._points(true, true_set)
        if len(found) != len(wanted):
            raise UsageError(f"{len(found)} predictions for {len(wanted)} true samples")
        joints = centred(found, rule.points.root or None)[:, list(rule.points.joints)]
        true_joints = centred(wanted, true_set.root or None)[:, list(true_set.joints)]
        values: dict[str, Tensor] = {}
        if "mpjpe" in rule.metrics:
            values["mpjpe"] = mpjpe_mm(joints, true_joints, root=None)
        if "pa_mpjpe" in rule.metrics:
            values["pa_mpjpe"] = pa_mpjpe_mm(joints, true_joints, reflection=rule.reflection)
        if "auc" in rule.metrics:
            aligned = similarity_align(joints.double(), true_joints.double(), reflection=rule.reflection)
            distance = (aligned - true_joints).norm(dim=-1)
            values["auc"] = torch.tensor(
                [auc(pck_curve(row[None], AUC_THRESHOLDS_M), AUC_THRESHOLDS_M) for row in distance]
            )
        if predicted.vertices is not None and true.vertices is not None:
            if predicted.vertices.shape != true.vertices.shape:
                raise UsageError(
                    f"meshes of {predicted.vertices.shape[1]} and {true.vertices.shape[1]} vertices; "
                    "both sides need the same topology"
                )
            # The mesh root of a truth with annotated joints comes from its mesh.
            from_mesh = wanted if true_set is rule.points else self._regress(true.vertices, rule.points)
            values |= self._vertex_values(predicted.vertices, true.vertices, found, from_mesh)
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.double().cpu())
        if "accel" in rule.metrics:
            self._joints.append((joints.double().cpu(), true_joints.double().cpu()))
        self._count += len(found)

    def _vertex_values(
        self, predicted: Tensor, true: Tensor, found: Tensor, wanted: Tensor
    ) -> dict[str, Tensor]:
        rule, values = self.protocol, {}
        if "pve" in rule.metrics:
            root = list(rule.points.mesh_root)
            values["pve"] = pve_mm(
                predicted - found[:, root].mean(dim=1, keepdim=True),
                true - wanted[:, root].mean(dim=1, keepdim=True),
            )
        if "pa_pve" in rule.metrics or "f_score" in rule.metrics:
            aligned = similarity_align(predicted.double(), true.double(), reflection=rule.reflection)
            values["pa_pve"] = pve_mm(aligned, true.double())
            scores = f_scores(aligned, true, F_THRESHOLDS_MM)
            values |= {f"f@{t:g}mm": scores[:, i] for i, t in enumerate(F_THRESHOLDS_MM)}
        return values

    def _points(self, bodies: Bodies, wanted: PointSet) -> Float[Tensor, "samples points 3"]:
        """The point set of one side, given or regressed from its mesh."""
        points = bodies.points
        if points is None:
            if bodies.vertices is None:
                raise UsageError("samples without vertices and without points")
            points = self._regress(bodies.vertices, wanted)
        elif points.shape[1] != wanted.count:
            raise UsageError(
                f"{points.shape[1]} points a sample; {self.protocol.name} takes {wanted.count}: {wanted.name}"
            )
        if not bool(points.isfinite().all()):
            row = int((~points.isfinite()).flatten(1).any(dim=1).nonzero()[0])
            raise UsageError(f"sample {row} has points that are not finite")
        return points

    def _regress(
        self, vertices: Float[Tensor, "samples vertices 3"], wanted: PointSet
    ) -> Float[Tensor, "samples points 3"]:
        regressor = self._regressor
        if regressor is None or regressor.shape[1] != vertices.shape[1]:
            has = "none" if regressor is None else f"one for {regressor.shape[1]} vertices"
            raise UsageError(
                f"{self.protocol.name} takes {wanted.count} points or meshes with a regressor "
                f"({self.protocol.regressor}); got meshes of {vertices.shape[1]} vertices and {has}"
            )
        return regressor.to(vertices) @ vertices

    def result(self, seed: int = 0) -> Evaluation:
        """Scores over all samples added so far.

        Raises:
            UsageError: There are none, none is labelled, or only some batches came with sequences.
        """
        if self._count == 0:
            raise UsageError(f"{self.protocol.name}: no samples")
        values = {name: torch.cat(parts) for name, parts in self._values.items()}
        if self._sequences:
            values |= self._accelerations()
        scores = {
            name: Score(
                name=name,
                unit=UNITS[name],
                value=float(samples.mean()),
                interval=bootstrap_interval(samples, draws=_DRAWS, seed=seed),
                samples=samples,
            )
            for name, samples in values.items()
            if len(samples)
        }
        if self._hits:
            scores |= self._pck(seed)
        return Evaluation(protocol=self.protocol, count=self._count, scores=scores)

    def _accelerations(self) -> dict[str, Tensor]:
        """Of the joints that count, relative to the root; differences stay within a sequence."""
        sequences = torch.cat(self._sequences).cpu()
        if len(sequences) != self._count:
            raise UsageError("sequences were given for some batches only")
        joints, true = (torch.cat(side) for side in zip(*self._joints, strict=True))
        lengths = torch.unique_consecutive(sequences, return_counts=True)[1].tolist()
        errors = torch.cat(
            [
                acceleration_error(a, b)
                for a, b in zip(joints.split(lengths), true.split(lengths), strict=True)
                if len(a) > 2
            ]
            or [joints.new_zeros(0)]
        )
        per_second = (self.protocol.fps or 0) ** 2 / 1000
        return {"accel_mm": errors, **({"accel_m_s2": errors * per_second} if per_second else {})}

    def _pck(self, seed: int) -> dict[str, Score]:
        """PCK as the mean over points of the share of valid samples; samples are redrawn for the interval."""
        hits, valid = torch.cat(self._hits).double(), torch.cat(self._valid).double()
        if not valid.any():
            raise UsageError(f"no true keypoint has a confidence above {self.protocol.min_confidence}")
        generator = torch.Generator().manual_seed(seed)
        columns = torch.cat([valid, hits.flatten(1)], dim=1)
        drawn = torch.stack([_redrawn(columns, generator) @ columns for _ in range(_DRAWS)])
        drawn_valid = drawn[:, : valid.shape[1]]
        drawn_hits = drawn[:, valid.shape[1] :].unflatten(1, hits.shape[1:])
        scores = {}
        for i, threshold in enumerate(self.protocol.pck_thresholds):
            per_sample = 100 * hits[..., i].sum(dim=1) / valid.sum(dim=1)
            draws = _mean_share(drawn_hits[..., i], drawn_valid)
            name = f"pck@{threshold:g}"
            scores[name] = Score(
                name=name,
                unit=UNITS.get(name, "percent"),
                value=float(_mean_share(hits[..., i].sum(dim=0), valid.sum(dim=0))),
                interval=interval_of(draws[draws.isfinite()]),
                samples=per_sample,
            )
        return scores


def _redrawn(
    values: Float[Tensor, "samples columns"], generator: torch.Generator
) -> Float[Tensor, "samples"]:
    """How often each sample comes when as many are drawn with replacement."""
    picks = torch.randint(len(values), (len(values),), generator=generator)
    return torch.bincount(picks, minlength=len(values)).to(values.dtype)


def _mean_share(hits: Float[Tensor, "*draws points"], valid: Float[Tensor, "*draws points"]) -> Tensor:
    """Percent of hits, mean over the points that have any valid sample; NaN where none has."""
    seen = valid > 0
    return 100 * torch.where(seen, hits / valid.clamp(min=1), 0.0).sum(dim=-1) / seen.sum(dim=-1)


def evaluate(
    name: str,
    predicted: Bodies | Keypoints,
    true: Bodies | Keypoints,
    *,
    regressor: Float[Tensor, "points vertices"] | None = None,
    sequences: Int[Tensor, "samples"] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Score predictions under a protocol, all samples at once; `Evaluator` takes them in batches.

    Args:
        name: Protocol, by name (`protocols.PROTOCOLS`).
        regressor: Takes vertices to the protocol's points, where points are not given.
        sequences: Number of the unbroken sequence each sample belongs to, for the acceleration error.
        seed: Of the bootstrap.

    Raises:
        UsageError: The samples do not fit the protocol.
    """
    evaluator = Evaluator(name, regressor)
    evaluator.add(predicted, true, sequences)
    return evaluator.result(seed)
