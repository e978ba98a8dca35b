"""A model in this process. It runs on one thread of its own, so that the event loop stays free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np

from memory_service.errors import EmbedderUnavailable
from memory_service.providers.base import Vectors
from memory_service.providers.embeddings.registry import PROBE_TEXT, EmbedderSpec
from memory_service.providers.embeddings.rows import embed_in_batches, unit_rows

Encode = Callable[[list[str], bool], Any]
"""Vectors of texts, as long as the model makes them; the flag says that they are queries."""

# Small, because a query that comes meanwhile waits for the batch to end.
_BATCH_TEXTS = 16
_BATCH_CHARACTERS = 16_000


class LocalEmbedder:
    inline = False

    def __init__(self, name: str, encode: Encode, dimensions: int, executor: ThreadPoolExecutor) -> None:
        self.name = name
        self.dimensions = dimensions
        self._encode: Encode | None = encode
        self._executor = executor

    @classmethod
    async def open(cls, spec: EmbedderSpec, load: Callable[[EmbedderSpec], Encode]) -> Self:
        """Load the model. How long its vectors are is seen from one."""
        executor = ThreadPoolExecutor(1, thread_name_prefix=f"embedder-{spec.provider}")
        try:
            encode, dimensions = await asyncio.get_running_loop().run_in_executor(executor, _load, spec, load)
        except Exception as error:
            executor.shutdown(wait=False)
            raise _not_loaded(spec, error) from error
        return cls(spec.name, encode, dimensions, executor)

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        return await self._embed(texts, is_query=False)

    async def embed_query(self, text: str) -> Vectors:
        row: Vectors = (await self._embed([text], is_query=True))[0]
        return row

    async def close(self) -> None:
        """Wait for what runs and let the model go."""
        await asyncio.to_thread(self._executor.shutdown)
        self._encode = None

    async def _embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        async def embed(batch: list[str]) -> Vectors:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, batch, is_query)

        return await embed_in_batches(
            texts, self.dimensions, embed, max_texts=_BATCH_TEXTS, max_characters=_BATCH_CHARACTERS
        )

    def _run(self, texts: list[str], is_query: bool) -> Vectors:
        assert self._encode is not None, "this embedder is closed"
        try:
            values = np.asarray(self._encode(texts, is_query))[:, : self.dimensions]
            return unit_rows(values, count=len(texts), dimensions=self.dimensions)
        except Exception as error:
            # Only the kind of error: what it says may quote a text.
            raise EmbedderUnavailable(f"{self.name} failed: {type(error).__name__}", is_retryable=True) from error


def _load(spec: EmbedderSpec, load: Callable[[EmbedderSpec], Encode]) -> tuple[Encode, int]:
    encode = load(spec)
    own = np.asarray(encode([PROBE_TEXT], False)).shape[-1]
    if spec.dimensions is not None and spec.dimensions > own:
        raise ValueError(f"it has {own} dimensions, fewer than the {spec.dimensions} asked for")
    return encode, spec.dimensions or own


def _not_loaded(spec: EmbedderSpec, error: Exception) -> EmbedderUnavailable:
    if isinstance(error, ImportError):
        return EmbedderUnavailable(
            f"{spec.name} needs {error.name or 'a package'}, which cannot be imported: "
            f"pip install 'memory-service[{spec.provider}]'",
            is_retryable=False,
        )
    # What is not a model will not become one; a download that failed may succeed later.
    return EmbedderUnavailable(
        f"{spec.name} cannot be loaded. {type(error).__name__}: {str(error)[:300]}",
        is_retryable=not isinstance(error, ValueError),
    )
