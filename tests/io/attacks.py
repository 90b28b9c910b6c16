"""Pickles that try to run something, or to use up the machine."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

SOURCE_ROOT = Path(__file__).parents[2] / "src"

_FUZZ = """
import random, sys, time
from importlib import import_module
from pathlib import Path
from fasthmr.errors import UnsafeFileError
from fasthmr.io.isolated import limit_process
folder, module, dice = Path(sys.argv[1]), import_module(sys.argv[2]), random.Random(0)
limit_process(module.LIMITS)
read = eval(sys.argv[3], vars(module))
seeds = [path.read_bytes() for path in sorted(folder.iterdir())]
victim, refused, accepted = folder.parent / "victim", 0, 0
end = time.monotonic() + float(sys.argv[4])
while time.monotonic() < end:
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.choice((1, 1, 2, 8))):
        data[dice.randrange(len(data))] = dice.choice((0, 40, 46, 82, 98, 255, dice.randrange(256)))
    if dice.random() < 0.1:
        del data[dice.randrange(len(data)):]
    victim.write_bytes(data)
    try:
        read(victim)
        accepted += 1
    except UnsafeFileError:
        refused += 1
print(refused, accepted)
"""


def fuzz(seeds: Path, module: str, read: str, seconds: float) -> tuple[int, int]:
    """Reads byte mutations of the files in a folder, under the limits of the reading process.

    Args:
        read: A function of a path, as an expression in the namespace of `module`.

    Returns:
        How many were refused with the declared error, and how many were read; any other error fails.
    """
    command = [sys.executable, "-c", _FUZZ, str(seeds), module, read, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=SOURCE_ROOT)
    assert done.returncode == 0, done.stderr
    refused, accepted = map(int, done.stdout.split())
    return refused, accepted


def call(module: str, name: str, *arguments: object) -> bytes:
    """Opcodes that call a global with text or number arguments."""
    parts = [b"I%d\n" % a if isinstance(a, int) else b"S%r\n" % a for a in arguments]
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(parts) + b"tR."


def stack_global(module: str, name: str, argument: str) -> bytes:
    """The same with the opcode of protocol 4, which takes dotted names."""

    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93" + text(argument) + b"\x85R."


def getattr_chain(canary: Path) -> bytes:
    """getattr(__import__("os"), "system")(command), in opcodes."""
    return (
        b"cbuiltins\ngetattr\n(c__builtin__\n__import__\n(S'os'\ntRS'system'\ntR"
        b"(S'touch %s'\ntR." % os.fsencode(canary)
    )


def pickles_with_code(canary: Path) -> dict[str, bytes]:
    """Would write the canary, or open what they should not, on an open unpickler."""
    touch, python = f"touch {canary}", f"open({str(canary)!r}, 'w')"
    return {
        "posix.system": call("posix", "system", touch),
        "os.system": call("os", "system", touch),
        "subprocess": call("subprocess", "getoutput", touch),
        "eval": call("builtins", "eval", python),
        "python 2 eval": call("__builtin__", "eval", python),
        "exec": call("builtins", "exec", python),
        "getattr": call("builtins", "getattr", "a", "upper"),
        "getattr chain": getattr_chain(canary),
        "import": call("builtins", "__import__", "os"),
        "numpy.load": call("numpy", "load", str(canary)),
        "runpy": call("runpy", "run_path", str(canary)),
        "instance of a class": b"(S%r\nios\nsystem\n." % touch,
        "object opcode": b"(cos\nsystem\nS%r\no." % touch,
        "dotted name": stack_global("numpy", "f2py.os.system", touch),
        "module name of another type": b"\x80\x04K\x01K\x02\x93.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent id": b"Pos.system\n.",
        "other text codec": call("_codecs", "encode", "a", "zip"),
    }


def pickles_that_exhaust() -> dict[str, bytes]:
    """Ask for memory or depth without end, or break off."""
    return {
        "deep marks": b"(" * 10**6,
        "deep lists": b"\x80\x04" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
        "memo index": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "vast length": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",
        "empty": b"",
        "text": b"not a pickle at all",
    }
