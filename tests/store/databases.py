"""A `Database` of a test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from memory_service.store.db import Database


def with_database(url: str, body: Callable[[Database], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def run() -> None:
        db = Database(url, **options)
        try:
            await body(db)
        finally:
            await db.close()

    asyncio.run(run())
