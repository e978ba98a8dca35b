"""Preparing the lines of a large import on all cores: in processes of their own, since it is Python that takes the time.

A process reads parts from its stdin and answers each on its stdout, as pickles with their length before them. It ends with
its stdin, so however the import ends, nothing is left running.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import struct
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import IO, Any

from memory_service.api.lines import read_line
from memory_service.errors import MemoryServiceError
from memory_service.providers.base import TextCounter
from memory_service.providers.tokenizers import O200kCounter
from memory_service.services.lines import Part, PreparedPart, prepare_part

_LENGTH = struct.Struct(">I")
_MAX_PROCESSES = 8
# A process takes a second to start, in which some thousand lines are prepared without it.
_WORTH_A_PROCESS_PARTS = 5


class Preparers:
    """Prepares parts in this process at first, and in others once the import proves to be large. A context manager."""

    def __init__(self, counter: TextCounter, now: datetime) -> None:
        self._counter = counter
        self._now = now
        self._parts = 0
        self._idle: asyncio.Queue[Callable[[Part], Awaitable[PreparedPart]]] = asyncio.Queue()
        self._idle.put_nowait(self._prepare_here)
        self._starting: list[asyncio.Task[None]] = []
        self._processes: list[Process] = []
        self.count = min(os.cpu_count() or 1, _MAX_PROCESSES)

    async def __aenter__(self) -> Preparers:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for process in self._processes:
            process.kill()
            await process.wait()

    async def prepare(self, part: Part) -> PreparedPart:
        """Raises InvalidInput naming the line."""
        self._parts += 1
        if self._parts == _WORTH_A_PROCESS_PARTS and self.count > 1:
            self._starting = [asyncio.create_task(self._start()) for _ in range(self.count)]
        prepare = await self._idle.get()
        try:
            return await prepare(part)
        finally:
            # Where processes prepare, this one has enough to do with writing.
            if prepare != self._prepare_here or not self._processes:
                self._idle.put_nowait(prepare)

    async def _prepare_here(self, part: Part) -> PreparedPart:
        return await asyncio.to_thread(prepare_part, part, read_line, self._counter, self._now)

    async def _start(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True
        )
        try:
            await _answer(process)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        self._processes.append(process)
        self._idle.put_nowait(lambda part: self._prepare_there(process, part))

    async def _prepare_there(self, process: Process, part: Part) -> PreparedPart:
        assert process.stdin
        try:
            process.stdin.write(_packed((part, self._now)))
            await process.stdin.drain()
            answer = await _answer(process)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise MemoryServiceError("A process that prepared lines was ended by something; import again.") from error
        if isinstance(answer, MemoryServiceError):
            raise answer
        prepared: PreparedPart = answer
        return prepared


async def _answer(process: Process) -> Any:
    assert process.stdout
    (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
    return pickle.loads(await process.stdout.readexactly(length))  # noqa: S301 - what our own process wrote


def _packed(value: Any) -> bytes:
    pickled = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(pickled)) + pickled


def collect_seldom() -> None:
    """For a process that makes millions of objects and hardly a cycle: looking for cycles takes a sixth of its time."""
    gc.set_threshold(100_000, 50, 50)


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    collect_seldom()
    counter = O200kCounter()
    counter.load()
    answers.write(_packed("ready"))
    answers.flush()
    while header := requests.read(_LENGTH.size):
        part, now = pickle.loads(requests.read(_LENGTH.unpack(header)[0]))  # noqa: S301 - what our parent wrote
        try:
            answer: object = prepare_part(part, read_line, counter, now)
        except MemoryServiceError as error:
            answer = error
        answers.write(_packed(answer))
        answers.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
