"""The answer to "which model should I use on my machine?", as sentences, a page and plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fasthmr.benchmark.zoo_runs import Setting, ZooRuns
from fasthmr.benchmark.zoo_speeds import SIZES, CutRow, SpeedRow, better_first, less_is_better, metrics_of
from fasthmr.io.plots import Panel, Point, plot_panels

_TASKS = {"mesh": "body meshes", "pose": "2D keypoints", "vertices": "vertices of a mesh"}
_AXES = {"parameters": "parameters, millions", "macs": "multiply-accumulates of a crop, billions (G)"}
_FRONTS = {"parameters": "size", "macs": "work"}
_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 60.0, 100.0, 200.0, 500.0, 1000.0)
_CLOSE = 0.02
_GOAL = 2.0


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to use for a task.

    Attributes:
        sentence: The answer in short.
        choices: Crops a second that are needed at least, and the best model that reaches them.
    """

    task: str
    sentence: str
    choices: tuple[tuple[float, SpeedRow], ...]


def advise(rows: Sequence[SpeedRow]) -> list[Advice]:
    """One piece of advice for each task, in the first setting that was measured.

    Where accuracy is known for a task, it says which model is best. Where it is not, work stands for it.
    """
    first = [row for row in rows if row.setting == rows[0].setting]
    return [
        _advice([row for row in first if row.task == task]) for task in dict.fromkeys(r.task for r in first)
    ]


def _advice(rows: Sequence[SpeedRow]) -> Advice:
    task = _TASKS.get(rows[0].task, rows[0].task)
    metric = next(iter(metrics_of(rows)), None)
    known = [row for row in rows if row.value(metric or "macs") is not None]
    if not known:
        return Advice(task=task, sentence=f"For {task}, {_quick(rows[0])} is the fastest.", choices=())
    axis = metric or "macs"

    def worth(row: SpeedRow) -> float:
        return better_first(axis, row.value(axis) or 0.0)

    best = max(known, key=worth)
    if metric is None:
        half = [row for row in known if row.crops_per_s >= rows[0].crops_per_s / 2]
        most = max(half, key=worth)
        sentence = f"For {task}, {_quick(rows[0])} is the fastest"
        if most is not rows[0]:
            sentence += (
                f"; of those at least half as fast {_quick(most)} does most work ({_giga(most)} G). No "
                "accuracy was given, so work stands for it"
            )
        sentence += "."
    else:
        limit = worth(best) - _CLOSE * abs(worth(best))
        chosen = min((row for row in known if worth(row) >= limit), key=lambda row: row.seconds)
        sentence = f"For {task} take {_quick(chosen)}: {metric} {_plain(chosen.accuracy[metric])}"
        if chosen is best:
            sentence += f", the best of {len(known)}, and none within {_CLOSE:.0%} of it is faster."
        else:
            sentence += (
                f", within {_CLOSE:.0%} of the best ({_plain(best.accuracy[metric])}, {_quick(best)}), "
                f"and {best.seconds / chosen.seconds:.1f} times as fast."
            )
    return Advice(task=task, sentence=sentence, choices=tuple(_choices(known, worth)))


def _choices(rows: Sequence[SpeedRow], worth: Callable[[SpeedRow], float]) -> list[tuple[float, SpeedRow]]:
    found: dict[str, tuple[float, SpeedRow]] = {}
    for step in _STEPS:
        reaching = [row for row in rows if row.crops_per_s >= step]
        if reaching:
            best = max(reaching, key=worth)
            found[best.model] = (step, best)  # the highest speed that it is still the best at
    return list(found.values())


def _quick(row: SpeedRow) -> str:
    return f"`{row.model}` ({_rate(row)} crops/s)"


def _rate(row: SpeedRow) -> str:
    return f"{row.crops_per_s:.1f}" if row.crops_per_s >= 10 else f"{row.crops_per_s:.2f}"


def _giga(row: SpeedRow) -> str:
    return "" if row.macs is None else f"{row.macs / 1e9:.2f}"


def _mega(row: SpeedRow) -> str:
    return "" if row.parameters is None else f"{row.parameters / 1e6:.2f}"


def _plain(value: float) -> str:
    return f"{value:.4g}"


def page(
    runs: ZooRuns,
    rows: Sequence[SpeedRow],
    cuts: Sequence[CutRow],
    *,
    command: str,
    pictures: Mapping[Setting, str],
) -> str:
    """Markdown.

    Args:
        command: That measures this.
        pictures: File names of the plots.
    """
    machine, first = runs.machine, rows[0].setting
    lines = ["# Which model is fast on this machine?", ""]
    for advice in advise(rows):
        lines += [advice.sentence, ""]
        lines += _choice_table(advice, metrics_of(rows)) if advice.choices else []
    lines += [
        f"{first}; {machine['device']}, {machine['cores']} cores, torch {machine['torch']}, load "
        f"{machine['load_before']:.1f} before.",
        "",
        f"    {command}",
        "",
        f"Models ran in turns in small groups, in every group beside `{runs.reference}`; x is how many times "
        "as fast as it they are, with the 95 % interval of the ratio in the same rounds, and crops/s are x "
        "times the crops/s of it over all groups. On the Pareto front (filled in plots): no model of the "
        "task that is as fast has as many parameters (size), multiplies as much (work), or is as accurate "
        "(the metric).",
        "",
    ]
    for setting in dict.fromkeys(row.setting for row in rows):
        lines += [f"## {setting}", ""]
        if setting in pictures:
            lines += [f"![Speed against size, work and accuracy]({pictures[setting]})", ""]
        lines += _cut_table([cut for cut in cuts if cut.setting == setting])
        here = [row for row in rows if row.setting == setting]
        for task in dict.fromkeys(row.task for row in here):
            lines += _table([row for row in here if row.task == task])
    if runs.failures:
        lines += ["## Not measured", ""]
        lines += [f"- `{name}`: {reason}" for name, reason in runs.failures.items()]
    return "\n".join(lines).rstrip() + "\n"


def _choice_table(advice: Advice, metrics: Sequence[str]) -> list[str]:
    known = [metric for metric in metrics if any(metric in row.accuracy for _, row in advice.choices)]
    lines = [
        f"| {advice.task}: crops/s needed | take | crops/s | ms | M | G |"
        + "".join(f" {m} |" for m in known),
        "|--:|:--|--:|--:|--:|--:|" + "--:|" * len(known),
    ]
    for step, row in advice.choices:
        values = "".join(f" {_plain(row.accuracy[m]) if m in row.accuracy else ''} |" for m in known)
        lines.append(
            f"| {step:g} | `{row.model}` | {_rate(row)} | {1000 * row.seconds:.1f} | {_mega(row)} | "
            f"{_giga(row)} |{values}"
        )
    return [*lines, ""]


def _table(rows: Sequence[SpeedRow]) -> list[str]:
    metrics = metrics_of(rows)
    lines = [
        f"| {_TASKS.get(rows[0].task, rows[0].task)} | M | G | ms | crops/s | x | 95 % |"
        + "".join(f" {m} |" for m in metrics)
        + " on the front |",
        "|:--|--:|--:|--:|--:|--:|:--|" + "--:|" * len(metrics) + ":--|",
    ]
    for row in rows:
        values = "".join(f" {_plain(row.accuracy[m]) if m in row.accuracy else ''} |" for m in metrics)
        low, high = row.interval
        fronts = ", ".join(_FRONTS.get(axis, axis) for axis in row.fronts)
        lines.append(
            f"| `{row.model}` | {_mega(row)} | {_giga(row)} | {1000 * row.seconds:.1f} | "
            f"{_rate(row)} | {row.speedup:.2f} | {low:.2f}-{high:.2f} |{values} {fronts} |"
        )
    return [*lines, ""]


def _cut_table(cuts: Sequence[CutRow]) -> list[str]:
    """How many times as fast cut models are as whole ones."""
    if not cuts:
        return []
    kept = sorted({stages for cut in cuts for stages in cut.ratios})
    lines = [
        "| cut after | " + " | ".join(f"{stages} stages, x all four | 95 %" for stages in kept) + " |",
        "|:--|" + "--:|:--|" * len(kept),
    ]
    for cut in cuts:
        cells = ""
        for stages in kept:
            ratio, low, high = cut.ratios.get(stages, (0.0, 0.0, 0.0))
            cells += f" {ratio:.2f} | {low:.2f}-{high:.2f} |" if stages in cut.ratios else " | |"
        lines.append(f"| `{cut.model}` |{cells}")
    twos = [cut.ratios[2] for cut in cuts if 2 in cut.ratios]
    if twos:
        reached = sum(ratio >= _GOAL for ratio, _, _ in twos)
        surely = sum(low >= _GOAL for _, low, _ in twos)
        lines += [
            "",
            f"Two stages are at least {_GOAL:g} times as fast as all four in {reached} of {len(twos)} "
            f"(with the whole interval in {surely}); {min(twos)[0]:.2f} to {max(twos)[0]:.2f} times.",
        ]
    return [*lines, ""]


def plot(rows: Sequence[SpeedRow], machine: Mapping[str, object], path: Path) -> None:
    """Write speed against size, work and each metric, a row of plots for each task; rows of one setting."""
    setting = rows[0].setting
    panels = []
    for task in dict.fromkeys(row.task for row in rows):
        own = [row for row in rows if row.task == task]
        axes = [
            axis for axis in (*SIZES, *metrics_of(own)) if any(row.value(axis) is not None for row in own)
        ]
        if axes:
            panels.append([_panel(own, axis) for axis in axes])
    plot_panels(panels, path, title=f"{machine['device']}: {setting}")


def _panel(rows: Sequence[SpeedRow], axis: str) -> Panel:
    points = []
    for row in rows:
        value = row.value(axis)
        if value is None:
            continue
        scale = {"parameters": 1e6, "macs": 1e9}.get(axis, 1.0)
        points.append(
            Point(
                x=value / scale,
                y=row.crops_per_s,
                name=_short(row.model, rows),
                family=row.family,
                front=axis in row.fronts,
            )
        )
    better = "" if axis in SIZES else f" ({'less' if less_is_better(axis) else 'more'} is better)"
    return Panel(
        title=_TASKS.get(rows[0].task, rows[0].task),
        x_label=_AXES.get(axis, axis + better),
        y_label="crops per second",
        points=tuple(points),
        log_x=axis in SIZES,
    )


def _short(name: str, rows: Sequence[SpeedRow]) -> str:
    """A name without what nearly all names begin with."""
    start = name.partition("_")[0] + "_"
    return name.removeprefix(start) if all(row.model.startswith(start) for row in rows) else name
