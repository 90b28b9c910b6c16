"""The command `fasthmr`. Nothing heavy is imported before a subcommand runs, and help needs none of it."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import get_type_hints

from fasthmr import __version__
from fasthmr.cli.predictions import predict
from fasthmr.cli.speed import bench
from fasthmr.cli.telling import printable, say
from fasthmr.cli.verbs import accelerate, convert, demo, doctor, export, import_file, models
from fasthmr.errors import FastHMRError, ResourceError, UsageError, did_you_mean

_INTERRUPTED = 130
_INTERNAL = 1

# Functions of one configuration, whose fields become the options.
_RECIPES = {
    "diffusion_decoder": "fasthmr.training.diffusion_decoder:train",
    "first_light": "fasthmr.training.first_light:train",
    "hierarchical": "fasthmr.training.hierarchical:train",
    "motion_vae": "fasthmr.training.motion_vae:train",
    "tore": "fasthmr.training.tore:train",
}
_REPORTS = {
    "acceleration": "fasthmr.acceleration.tables:report",
    "adaptive_tokens": "fasthmr.acceleration.adaptive_report:report",
    "first_light": "fasthmr.training.first_light_report:report",
    "metro": "fasthmr.runtime.metro_eval:report",
    "hierarchical": "fasthmr.training.hierarchical_report:report",
    "motion": "fasthmr.training.motion_report:report",
    "tore": "fasthmr.training.tore_report:report",
}

_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "predict": predict,
    "convert": convert,
    "accelerate": accelerate,
    "import": import_file,
    "export": export,
    "models": models,
    "bench": bench,
    "doctor": doctor,
}
_GROUPS = {
    "train": (_RECIPES, "Train a model by a recipe: {known}."),
    "report": (_REPORTS, "Measure a model and write the report: {known}."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(arguments)
    except SystemExit as stop:  # tyro has shown help or a usage error
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        say("interrupted; finished results are kept")
        return _INTERRUPTED
    except FastHMRError as error:
        return _fail(error, str(error), error.exit_code, arguments)
    except MemoryError as error:
        message = "memory is used up; use a smaller picture or batch size"
        return _fail(error, message, ResourceError.exit_code, arguments)
    except BrokenPipeError:  # the reader of our output has left
        sys.stdout = None  # type: ignore[assignment]
        return 0
    except Exception as error:  # noqa: BLE001 - a defect of ours, still told in one line
        message = f"unexpected {type(error).__name__}: {error}; run again with --debug and report it"
        return _fail(error, message, _INTERNAL, arguments)
    return 0


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        if not arguments:
            raise UsageError("no command given")
        return
    if arguments[0] == "--version":
        sys.stdout.write(f"fasthmr {__version__}\n")
        return
    command, *rest = arguments
    if command in _GROUPS:
        _run_module(command, rest)
    elif command in _COMMANDS:
        import tyro

        tyro.cli(
            _COMMANDS[command], prog=f"fasthmr {command}", args=rest, config=(tyro.conf.FlagCreatePairsOff,)
        )
    else:
        known = (*_COMMANDS, *_GROUPS)
        raise UsageError(f"unknown command '{command}'{did_you_mean(command, known)}; see 'fasthmr --help'")


def _run_module(command: str, arguments: list[str]) -> None:
    """Recipes and reports bring options of their own."""
    table, description = _GROUPS[command]
    known = ", ".join(table)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(
            f"usage: fasthmr {command} NAME [OPTIONS]\n\n{description.format(known=known)}\n"
            f"'fasthmr {command} NAME --help' shows the options.\n"
        )
        if not arguments:
            raise UsageError(f"'fasthmr {command}' needs a name: {known}")
        return
    name, *rest = arguments
    if name not in table:
        raise UsageError(f"unknown {command} '{name}'{did_you_mean(name, list(table))}; known: {known}")
    import logging

    import tyro

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    module, name_of_function = table[name].split(":")
    function = getattr(importlib.import_module(module), name_of_function)
    (config_type, *_) = get_type_hints(function).values()
    config = tyro.cli(
        config_type,
        prog=f"fasthmr {command} {name}",
        args=[argument for argument in rest if argument != "--debug"],
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    function(config)


def _help() -> str:
    lines = [(name, (function.__doc__ or "").splitlines()[0]) for name, function in _COMMANDS.items()]
    lines += [(name, text.format(known=", ".join(table))) for name, (table, text) in _GROUPS.items()]
    listed = "\n".join(f"  {name:10} {text}" for name, text in lines)
    return (
        "usage: fasthmr COMMAND [OPTIONS]\n\nPictures and videos of people to 3D body meshes.\n\n"
        f"{listed}\n\n'fasthmr COMMAND --help' shows the options of a command.\n"
    )


def _fail(error: BaseException, message: str, code: int, arguments: list[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exception(error)
    say(f"fasthmr: {printable(message)}")
    return code
