"""`fasthmr bench`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from fasthmr.cli.telling import numbers, printable, say, split, write_json
from fasthmr.errors import UsageError


def bench(
    models: tuple[str, ...] = (),
    /,
    zoo: str | None = None,
    batch: str = "1,8",
    engine: str = "torch",
    precision: str = "float32",
    layers: int | None = None,
    tokens: int | None = None,
    seconds: float | None = None,
    rounds: int = 5,
    threads: str | None = None,
    device: str = "cpu",
    out: Path = Path("zoo_speed"),
    accuracy: Path | None = None,
    resume: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Time models in turns; with --zoo, say which of many presets to use on this machine.

    Args:
        models: Presets (random weights where none come along), weight files, or exported models. They are
            compared with the first; names joined by commas make a group with a first of its own.
        zoo: Patterns of presets, separated by commas, such as 'hmr2_*_s3,hmr2_vit_s'. All are timed, a few at
            a time, and the outcome is written as a table, plots and JSON.
        batch: Crops that pass the model at once; several numbers separated by commas.
        engine: torch, onnxruntime, openvino, separated by commas; 'auto' for exported models.
        precision: float32, bfloat16, separated by commas.
        layers: Time each model also with this many layers, the last ones merged.
        tokens: And with this many tokens, merged around an elliptic mask.
        seconds: To spend on each batch size, 10 if not given; with --zoo on everything, 600 if not given.
        rounds: Rounds to run at least.
        threads: Of the processor; as the environment says if not given. With --zoo several numbers,
            separated by commas.
        device: 'cpu', 'cuda' or another torch device.
        out: With --zoo, where to write: OUT.md, OUT.json and OUT.png.
        accuracy: With --zoo, a JSON file with the accuracy of models to plot speed against:
            {"accuracy": {"MODEL": {"METRIC": number}}}.
        resume: With --zoo, go on with a run that was stopped, from OUT.json.
        json: Write the numbers as JSON.
        debug: Show the traceback of errors.
    """
    import torch

    from fasthmr.benchmark.bench import as_table, bench_models
    from fasthmr.benchmark.chooser import choose_models
    from fasthmr.runtime.backends import check_engine, open_model
    from fasthmr.runtime.loading import DEFAULT_MODEL, choose_device

    counts = [] if threads is None else numbers(threads, "threads")
    if threads is not None and (not counts or min(counts) < 1):
        raise UsageError(f"--threads {threads}: at least 1 is needed")
    for name in split(engine):
        check_engine(name)
    where = choose_device(device)
    named = [DEFAULT_MODEL if name == "default" else name for name in models]
    if zoo is not None:
        if layers is not None or tokens is not None:
            raise UsageError("--layers and --tokens are for single models, not for --zoo")
        chosen = choose_models(
            zoo,
            open_model,
            out,
            models=named,
            threads=counts,
            batches=numbers(batch, "batch"),
            engines=split(engine),
            precisions=split(precision),
            seconds=600.0 if seconds is None else seconds,
            min_rounds=rounds,
            device=where,
            accuracy=accuracy,
            resume=resume,
            command=f"fasthmr {shlex.join(sys.argv[1:])}",
            progress=say,
        )
        if json:
            write_json(chosen.as_json())
        else:
            sys.stdout.writelines(f"{advice.sentence}\n" for advice in chosen.advice)
        say(f"wrote {', '.join(printable(path) for path in chosen.files)}")
        return
    if accuracy is not None or resume:
        raise UsageError("--accuracy and --resume belong to --zoo")
    if len(counts) > 1:
        raise UsageError("several numbers of threads are for --zoo")
    if counts:
        torch.set_num_threads(counts[0])
    report = bench_models(
        named,
        open_model,
        batches=numbers(batch, "batch"),
        engines=split(engine),
        precisions=split(precision),
        layers=layers,
        tokens=tokens,
        seconds=10.0 if seconds is None else seconds,
        min_rounds=rounds,
        device=str(where),
    )
    if json:
        write_json(report.as_json())
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 130, highlight=False).print(as_table(report))
