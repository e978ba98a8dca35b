"""One test body for both clients: the same call, run to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from memory_client import AsyncMemoryClient, MemoryClient


class Driver(Protocol):
    client: Any

    def run(self, call: Callable[[Any], Any]) -> Any:
        """The result of `call(client)`, awaited if need be."""

    def collect(self, call: Callable[[Any], Any]) -> list[Any]:
        """All that iterating `call(client)` yields."""

    def close(self) -> None: ...


class SyncDriver:
    def __init__(self, **options: Any) -> None:
        self.client = MemoryClient(**options)

    def run(self, call: Callable[[Any], Any]) -> Any:
        return call(self.client)

    def collect(self, call: Callable[[Any], Any]) -> list[Any]:
        return list(call(self.client))

    def close(self) -> None:
        self.client.close()


class AsyncDriver:
    def __init__(self, **options: Any) -> None:
        self.client = AsyncMemoryClient(**options)
        self._runner = asyncio.Runner()

    def run(self, call: Callable[[Any], Any]) -> Any:
        async def awaited() -> Any:
            return await call(self.client)

        return self._runner.run(awaited())

    def collect(self, call: Callable[[Any], Any]) -> list[Any]:
        async def collected() -> list[Any]:
            return [item async for item in call(self.client)]

        return self._runner.run(collected())

    def close(self) -> None:
        self.run(lambda client: client.close())
        self._runner.close()
