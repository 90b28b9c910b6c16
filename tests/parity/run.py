"""Run our code on golden cases: `run.py DIR [--json] [--only GLOB] [--allow-unsupported]`.

Prints one line for each case and a last line `N passed, M failed, K unsupported`; ends with 0 only when all
pass. Cases of a kind that no checker covers are UNSUPPORTED.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parents[1] / "src")]

from parity_lib import Outcome, load_checkers, read_index, run_case  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when all passed, 1 otherwise, 2 when there is nothing to run."""
    parser = argparse.ArgumentParser(description="Compare fasthmr with golden cases.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="holds index.json and the cases")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--only", metavar="GLOB", default="*", help="cases or kinds that fit a shell pattern")
    parser.add_argument("--allow-unsupported", action="store_true", help="do not count them as failures")
    options = parser.parse_args(arguments)
    if not (options.folder / "index.json").is_file():
        parser.error(f"{options.folder / 'index.json'}: there is no such file")
    rows = [row for row in read_index(options.folder) if _chosen(row, options.only)]
    if not rows:
        parser.error(f"no case fits '{options.only}'")

    checkers = load_checkers()
    outcomes: list[Outcome] = []
    for row in rows:
        outcomes.append(run_case(options.folder, row, checkers))
        gc.collect()  # full-size models of one case must not stand beside the next one's
        if not options.json:
            print(outcomes[-1].line(), flush=True)

    counts = Counter(outcome.status for outcome in outcomes)
    if options.json:
        summary = {"passed": counts["PASS"], "failed": counts["FAIL"], "unsupported": counts["UNSUPPORTED"]}
        print(json.dumps({**summary, "cases": [outcome.as_dict() for outcome in outcomes]}, indent=1))
    else:
        print(f"{counts['PASS']} passed, {counts['FAIL']} failed, {counts['UNSUPPORTED']} unsupported")
    unsupported_is_fine = options.allow_unsupported
    return int(counts["FAIL"] > 0 or (counts["UNSUPPORTED"] > 0 and not unsupported_is_fine))


def _chosen(row: dict[str, str], pattern: str) -> bool:
    return fnmatch(row["case"], pattern) or fnmatch(row["kind"], pattern)


if __name__ == "__main__":
    sys.exit(main())
