"""A background loop in a process of its own, which never comes back from its first batch: `worker URL`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from memory_service.services.embedding import EmbeddingLoop
from tests.embedding.conftest import Home
from tests.embedding.hashing import HashingEmbedder


async def hang(texts: Sequence[str]) -> None:
    print("embedding", len(texts), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    home = Home(sys.argv[1], "", 0)
    home.run(lambda runtime: EmbeddingLoop(runtime).run(), HashingEmbedder(before=hang))
