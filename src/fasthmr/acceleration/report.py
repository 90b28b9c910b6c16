"""What merging cost and what it gave: measured on people that took no part in choosing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.acceleration.document import Document
from fasthmr.acceleration.figures import draw_people, draw_similarity
from fasthmr.acceleration.frames import Frames
from fasthmr.acceleration.judge import Change
from fasthmr.acceleration.parts import ModelParts
from fasthmr.acceleration.plan import MergePlan
from fasthmr.acceleration.search import JointSearch
from fasthmr.acceleration.speed import Ratio
from fasthmr.acceleration.variants import Measured
from fasthmr.benchmark.counters import Counts
from fasthmr.io.atomic import write_bytes

_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class AccelerationReport:
    """Everything that the report shows.

    Attributes:
        rows: The unmerged model first, the one to use last.
        depth, tokens: Of the unmerged model.
        speeds: By batch size, of the last row's model over the first's.
        search: None where the plan was given.
        similarity: CKA of the blocks of the unmerged model.
    """

    model: str
    calibration: str
    held_out: str
    rows: tuple[Measured, ...]
    plan: MergePlan
    depth: int
    tokens: int
    before: Counts
    after: Counts
    speeds: Mapping[int, Ratio]
    search: JointSearch | None
    heal_steps: int
    similarity: Float[Tensor, "layers layers"]

    def changes(self, row: Measured) -> dict[str, Change]:
        """Rise of each error over the unmerged model."""
        return {name: Change.of(values, self.rows[0].errors[name]) for name, values in row.errors.items()}

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without what is measured for each person."""
        return {
            "model": self.model,
            "calibration": self.calibration,
            "held_out": self.held_out,
            "blocks": [self.depth, self.plan.layers.depth if self.plan.layers else self.depth],
            "groups": [list(group) for group in self.plan.layers.groups] if self.plan.layers else None,
            "tokens": [self.tokens, self.tokens - sum(self.plan.tokens.counts if self.plan.tokens else ())],
            "token_schedule": list(self.plan.tokens.counts) if self.plan.tokens else None,
            "target_met": None if self.search is None else self.search.met,
            "before": vars(self.before),
            "after": vars(self.after),
            "macs_ratio": self.before.macs / self.after.macs,
            "speedup": {
                str(size): {
                    "value": ratio.value,
                    "interval": list(ratio.interval),
                    "crops_per_s": [size / ratio.before_s, size / ratio.after_s],
                }
                for size, ratio in self.speeds.items()
            },
            "rows": [
                {
                    "name": row.name,
                    "distance_mm": float(row.distance.mean()),
                    **{name: float(values.mean()) for name, values in row.errors.items()},
                    "change": {name: vars(change) for name, change in self.changes(row).items()},
                }
                for row in self.rows
            ],
            "heal_steps": self.heal_steps,
        }


def write_report(
    report: AccelerationReport, parts: ModelParts, model: nn.Module, held_out: Frames, out: Path
) -> None:
    """Write `report.md` with its pictures, `report.html` and `report.json`."""
    page = Document(title=f"{report.model}: layers and tokens merged")
    page.text(_summary(report))
    add_accuracy(page, report)
    add_cost(page, report)
    add_merged(page, report)
    add_figures(page, report, parts, model, held_out)
    if report.search is not None:
        add_search(page, report.search)
    write_bytes(out / "report.json", json.dumps(report.as_dict(), indent=1).encode())
    page.write(out, "report")


def add_figures(
    page: Document,
    report: AccelerationReport,
    parts: ModelParts,
    model: nn.Module,
    held_out: Frames,
    prefix: str = "",
) -> None:
    """The similarity of layers, and examples.

    Args:
        model: That of the last row.
        prefix: Of the file names.
    """
    groups = report.plan.layers.groups if report.plan.layers else None
    page.heading("Similarity of layers")
    page.text(
        "Unbiased linear CKA of what leaves each block of the unmerged model, over random tokens of the "
        "calibration part. Frames mark merged groups. The search does not use it."
    )
    page.picture(f"{prefix}cka.png", draw_similarity(report.similarity, groups), "CKA of all pairs of blocks")
    page.heading("Examples")
    order = report.rows[-1].distance.argsort(descending=True)
    half = min(_SHOWN // 2, len(order) // 2)
    chosen = torch.cat((order[:half], order[len(order) // 2 :][: _SHOWN - half]))
    page.text(
        f"Held-out people, left the {half} whose joints moved most, right some that moved by the median: "
        "picture, unmerged, merged."
    )
    page.picture(
        f"{prefix}examples.png",
        draw_people(parts, held_out.rows(chosen), (parts.model, model)),
        "Picture, unmerged model, merged model",
    )


def _summary(report: AccelerationReport) -> str:
    last = report.rows[-1]
    speeds = ", ".join(f"{ratio.value:.2f} times at batch {size}" for size, ratio in report.speeds.items())
    text = (
        f"{report.before.macs / report.after.macs:.2f} times fewer multiply-accumulates; measured speed-up: "
        f"{speeds}. "
    )
    if last.errors:
        change, base = report.changes(last)["MPJPE"], float(report.rows[0].errors["MPJPE"].mean())
        text += (
            f"MPJPE on held-out people: {base:.2f} mm before, {base + change.mean:.2f} mm after "
            f"({100 * change.mean / base:+.2f} %)."
        )
    else:
        text += (
            f"No labels: joints lie {float(last.distance.mean()):.2f} mm from those of the unmerged model on "
            "average, which bounds what MPJPE can have risen by."
        )
    if report.search is not None and not report.search.met:
        text += " What was asked for was not reached; this is the nearest that was found."
    return text


def add_accuracy(page: Document, report: AccelerationReport) -> None:
    """Errors on held-out people, before and after."""
    page.heading("Accuracy")
    page.text(
        f"Calibration (choice of what is merged, healing): {report.calibration}. "
        f"Held out (all numbers below): {report.held_out}."
    )
    names = list(report.rows[0].errors)
    head = ["model"]
    for name in names:
        head += [f"{name} mm", "change (95 % interval of pairs)"]
    head += ["distance to unmerged mm", "95 % of people below"]
    rows = []
    for row in report.rows:
        cells = [row.name]
        changes = report.changes(row)
        for name in names:
            cells += [f"{float(row.errors[name].mean()):.2f}", change_text(changes[name])]
        high = float(row.distance.double().quantile(0.95))
        rows.append([*cells, f"{float(row.distance.mean()):.2f}", f"{high:.2f}"])
    page.table(head, rows)


def change_text(change: Change) -> str:
    """A change with its interval."""
    return f"{change.mean:+.3f} ({change.interval[0]:+.3f} to {change.interval[1]:+.3f})"


def add_cost(page: Document, report: AccelerationReport) -> None:
    """Parameters, multiply-accumulates and throughput."""
    page.heading("Cost")
    lines = (
        ("parameters, M, all", "params", 1e6),
        ("parameters, M, as the papers' tables", "table_params", 1e6),
        ("multiply-accumulates, G, all products", "macs", 1e9),
        ("multiply-accumulates, G, as the papers' tables", "table_macs", 1e9),
    )
    rows = []
    for name, key, unit in lines:
        before, after = getattr(report.before, key), getattr(report.after, key)
        rows.append([name, f"{before / unit:.3f}", f"{after / unit:.3f}", f"{before / after:.3f}"])
    page.table(["one crop", "before", "after", "ratio"], rows)
    page.text(
        f"Measured in turn, {torch.get_num_threads()} threads, single precision, eager: crops a second, and "
        "the ratio of median times."
    )
    rows = [
        [
            str(size),
            f"{size / ratio.before_s:.1f}",
            f"{size / ratio.after_s:.1f}",
            f"{ratio.value:.2f} ({ratio.interval[0]:.2f} to {ratio.interval[1]:.2f})",
        ]
        for size, ratio in report.speeds.items()
    ]
    page.table(["batch", "before", "after", "speed-up (95 % interval)"], rows)


def add_merged(page: Document, report: AccelerationReport) -> None:
    """Groups and token schedule."""
    page.heading("What is merged")
    plan = report.plan
    if plan.layers is None:
        page.text(f"No layers: all {report.depth} blocks are left.")
    else:
        groups = "; ".join(
            f"{min(group)}-{max(group)}" if len(group) > 1 else str(min(group))
            for group in plan.layers.groups
        )
        rules = ", ".join(sorted({rule.kind for rule in plan.layers.rules}))
        page.text(f"{report.depth} blocks became {plan.layers.depth} (rule {rules}): {groups}.")
    if plan.tokens is None:
        page.text(f"No tokens: all {report.tokens} are kept.")
    else:
        left = report.tokens
        steps = [str(left)]
        for merged in plan.tokens.counts:
            left -= merged
            steps.append(str(left))
        kind = "around the person" if plan.tokens.guided else "protecting nobody"
        page.text(f"Tokens, {kind}: {' -> '.join(steps)} in the first {len(plan.tokens.counts)} blocks.")
    if report.heal_steps:
        page.text(f"Healed by {report.heal_steps} steps of distillation to the unmerged model.")


def add_search(page: Document, search: JointSearch) -> None:
    """All candidates, and the trials of the chosen one."""
    page.heading("Search")
    page.text(
        "Every layer search ran while the tokens of its schedule merged. Changes are those of the "
        "calibration part, before healing; speed was measured for what no other beats in error and "
        "multiply-accumulates."
    )
    fast = {candidate.key: candidate for candidate in search.front}
    rows = []
    for candidate in sorted(search.candidates, key=lambda c: -c.macs):
        front = fast.get(candidate.key)
        mark = "chosen" if candidate.key == search.chosen.key else "front" if front else ""
        rows.append(
            [
                candidate.name,
                "-" if candidate.threshold_mm is None else f"{candidate.threshold_mm:.3g}",
                change_text(candidate.rise),
                f"{candidate.macs_ratio:.2f}",
                f"{front.speed.value:.2f}" if front and front.speed else "-",
                mark,
            ]
        )
    page.table(["candidate", "threshold mm", "change mm", "MACs ratio", "speed-up", ""], rows)
    chosen = search.chosen
    if chosen.trials:
        page.text(f"Trials of the chosen layer search (threshold {chosen.threshold_mm:.3g} mm):")
        page.table(
            ["blocks", "error mm", ""],
            [
                [
                    f"{trial.low}-{trial.high}",
                    f"{trial.error:.3f}",
                    "accepted" if trial.accepted else "refused",
                ]
                for trial in chosen.trials
            ],
        )
