"""NDJSON as bytes: lines are split and joined, never decoded, so that an export is imported as it was."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

NDJSONSource = bytes | str | os.PathLike[str] | Iterable[bytes | str]
"""The bytes themselves, the path of a file, or lines (with or without their line ends)."""


class LineSplitter:
    """Chunks in, whole lines out (line ends kept). Only b"\\n" ends one: JSON may hold other separators."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        if b"\n" not in chunk:
            self._rest += chunk
            return []
        *lines, rest = (bytes(self._rest) + chunk).split(b"\n")
        self._rest = bytearray(rest)
        return [line + b"\n" for line in lines]

    def flush(self) -> list[bytes]:
        return [bytes(self._rest)] if self._rest else []


def read_source(source: NDJSONSource) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        if isinstance(source, str) and source.lstrip().startswith("{"):
            raise ValueError("a string is the path of a file: pass NDJSON text as bytes or as a list of lines")
        return Path(source).read_bytes()
    return b"".join(_whole_line(line) for line in source)


def _whole_line(line: bytes | str) -> bytes:
    if not isinstance(line, bytes | str):
        raise TypeError(f"a line is bytes or a string, not {type(line).__name__}")
    encoded = line.encode() if isinstance(line, str) else line
    return encoded if encoded.endswith(b"\n") else encoded + b"\n"


@contextmanager
def complete_or_absent(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that gets its name only when the block ends well: a cut export never passes for a whole one."""
    target = Path(path)
    partial = target.with_name(target.name + ".part")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
