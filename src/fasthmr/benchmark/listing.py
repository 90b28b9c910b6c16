"""Every preset with its size and cost, beside what was published of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fasthmr.benchmark.counters import Counts
from fasthmr.benchmark.preset_counts import preset_counts
from fasthmr.errors import UsageError, did_you_mean
from fasthmr.zoo import PublishedCount, list_models, preset, pretrained_file

if TYPE_CHECKING:
    from rich.table import Table

_MILLION, _BILLION = 1e6, 1e9


def matching_models(patterns: str) -> list[str]:
    """Presets that fit one of several shell patterns, which are separated by commas; sorted.

    Raises:
        UsageError: Nothing fits one of them.
    """
    found: set[str] = set()
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        names = list_models(pattern)
        if not names:
            known = list_models()
            starts = sorted({f"{name[: end.end()]}*" for name in known for end in re.finditer("_", name)})
            raise UsageError(
                f"no model matches '{pattern}'{did_you_mean(pattern, [*known, *starts])}; "
                "`fasthmr models` lists all"
            )
        found.update(names)
    if not found:
        raise UsageError("no pattern of models; one is such as 'hmr2_*'")
    return sorted(found)


def list_presets(patterns: str = "*") -> list[dict[str, Any]]:
    """Every preset that fits one of several shell patterns, separated by commas, ready for JSON.

    Counts are whole numbers for one person, `image_size` is (height, width) of the picture to feed, of
    models of motion (frames, numbers of a frame). Published numbers are in millions and billions as printed;
    differences are ours minus theirs, and `agrees` says whether ours, rounded as theirs, are the same.
    `docs/design/011` says what the two conventions count.

    Raises:
        UsageError: Nothing fits one of them.
    """
    return [_row(name) for name in matching_models(patterns)]


def _row(name: str) -> dict[str, Any]:
    row, counted = preset(name), preset_counts(name)
    counts = counted.counts
    return {
        "name": name,
        "description": row.description,
        "task": row.task,
        "parameters": counts.params,
        "macs": counts.macs,
        "table_parameters": counts.table_params,
        "table_macs": counts.table_macs,
        "run_macs": counts.run_macs,
        "scan_operations": counts.scan_ops,
        "transformer_macs": counts.transformer_macs,
        "regressor_macs": counts.regressor_macs,
        "published": [_compare(counts, published) for published in row.published],
        "image_size": list(counted.image_size),
        "weights": pretrained_file(name) is not None,
    }


def _compare(counts: Counts, published: PublishedCount) -> dict[str, Any]:
    tables = published.convention == "tables"
    params = (counts.table_params if tables else counts.params) / _MILLION
    macs = counts.transformer_macs if published.part == "transformers" else counts.macs
    gmacs = (counts.table_macs if tables else macs) / _BILLION
    return {
        "source": published.source,
        "convention": published.convention,
        "part": published.part,
        "params": published.params,
        "gmacs": published.gmacs,
        "params_difference": _difference(params, published.params),
        "gmacs_difference": _difference(gmacs, published.gmacs),
        "agrees": _agrees(params, published.params) and _agrees(gmacs, published.gmacs, published.within),
    }


def _difference(ours: float, theirs: float | None) -> float | None:
    return None if theirs is None else round(ours - theirs, 6)


def _agrees(ours: float, theirs: float | None, within: float = 0.0) -> bool:
    return theirs is None or round(ours, _decimals(theirs)) == theirs or abs(ours - theirs) <= within


def _decimals(printed: float) -> int:
    return len(str(printed).partition(".")[2])


def as_table(rows: list[dict[str, Any]]) -> Table:
    """What `list_presets` returned as a table for terminals of 100 columns."""
    from rich.table import Table

    table = Table(
        box=None,
        padding=(0, 1, 0, 0),
        caption="M: million parameters, G: billion multiply-accumulates for one person or clip; complete, as "
        "the papers' tables count (no attention products, no bare parameters), and as run here",
        caption_justify="left",
    )
    table.add_column("model", overflow="fold")
    table.add_column("task", max_width=10)
    table.add_column("input", no_wrap=True)
    for heading in ("M", "G", "tables M", "tables G", "run G"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            row["task"].replace("_", " "),
            "x".join(map(str, row["image_size"])),
            _decimal(row["parameters"] / _MILLION),
            _decimal(row["macs"] / _BILLION),
            _decimal(row["table_parameters"] / _MILLION),
            _decimal(row["table_macs"] / _BILLION),
            _decimal(row["run_macs"] / _BILLION),
            "yes" if row["weights"] else "",
        )
        if row["transformer_macs"]:
            both = row["transformer_macs"] + row["regressor_macs"]
            table.add_row("  its transformers", "", "", "", _decimal(row["transformer_macs"] / _BILLION))
            if row["regressor_macs"]:
                table.add_row("  and shape regressor", "", "", "", _decimal(both / _BILLION))
        for published in row["published"]:
            cells = [_printed(published["params"]), _printed(published["gmacs"])]
            blank = ["", ""]
            both = [*blank, *cells] if published["convention"] == "tables" else [*cells, *blank]
            verdict = "agrees" if published["agrees"] else _deviation(published)
            table.add_row(f"  {published['source']}", "", "", *both, "", verdict, style="dim")
    return table


def _decimal(number: float) -> str:
    return f"{number:.3f}"


def _printed(number: float | None) -> str:
    return "" if number is None else str(number)


def _deviation(published: dict[str, Any]) -> str:
    """The larger of the two relative differences."""
    relative = [
        published[f"{key}_difference"] / published[key]
        for key in ("params", "gmacs")
        if published[key] is not None
    ]
    return f"{max(relative, key=abs):+.2%}"
