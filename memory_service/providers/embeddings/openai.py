"""Any server that speaks OpenAI's `/v1/embeddings`: OpenAI, Voyage, Ollama, TEI, llama.cpp, vLLM.

It is one request, so it is made with the HTTP library the service has anyway. `encoding_format` is not sent: lists of
numbers are what every server answers with by default, and some refuse the parameter.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2
import numpy as np

from memory_service.errors import EmbedderUnavailable
from memory_service.providers.base import Vectors
from memory_service.providers.embeddings import answers
from memory_service.providers.embeddings.registry import PROBE_TEXT, EmbedderAccess, EmbedderSpec, normal_url
from memory_service.providers.embeddings.rows import embed_in_batches

OPENAI_URL = "https://api.openai.com/v1"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# As many as the strictest of the servers takes as it comes, and a third of the tokens OpenAI takes.
_BATCH_TEXTS = 32
_BATCH_CHARACTERS = 100_000
# A text is not cut shorter than this to make it fit.
_SHORTEST_CUT_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Endpoint:
    url: str
    key: str | None

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"

    @classmethod
    def of(cls, spec: EmbedderSpec, access: EmbedderAccess, environ: Mapping[str, str]) -> Self:
        """Where to send texts, with which key. OPENAI_API_KEY goes to where OPENAI_BASE_URL points and nowhere else."""
        default = normal_url(environ.get("OPENAI_BASE_URL") or OPENAI_URL)
        url = spec.base_url or default
        key = access.api_key.get_secret_value() if access.api_key else ""
        if not key and url in (default, OPENAI_URL):
            key = environ.get("OPENAI_API_KEY", "")
        if not key and url == OPENAI_URL:
            raise EmbedderUnavailable(
                f"{spec.name} needs an API key: set OPENAI_API_KEY or MEMORY_EMBEDDER_API_KEY. For another server than "
                "OpenAI's give its base_url.",
                is_retryable=False,
            )
        if not key.strip().isascii():
            raise EmbedderUnavailable(f"The API key of {spec.name} is not ASCII.", is_retryable=False)
        return cls(url, key.strip() or None)


class OpenAIEmbedder:
    inline = False

    def __init__(
        self, spec: EmbedderSpec, endpoint: Endpoint, access: EmbedderAccess, dimensions: int | None = None
    ) -> None:
        self.name = spec.name
        self._spec = spec
        self._endpoint = endpoint
        self._access = access
        self._dimensions = spec.dimensions or dimensions
        self._http = httpx2.AsyncClient(
            headers={"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {},
            # The limit is on the whole of an exchange: a server that sends a byte now and then would never meet another.
            timeout=None,
            trust_env=urlsplit(endpoint.url).hostname not in _LOOPBACK,
        )

    @classmethod
    async def open(cls, spec: EmbedderSpec, access: EmbedderAccess, *, dimensions: int | None = None) -> Self:
        """Without a known number of dimensions the server is asked for one vector."""
        embedder = cls(spec, Endpoint.of(spec, access, os.environ), access, dimensions)
        if embedder._dimensions is None:
            try:
                rows = await embedder._embed([PROBE_TEXT], access.passages_timeout_seconds)
            except BaseException:
                await embedder.close()
                raise
            embedder._dimensions = rows.shape[1]
        return embedder

    @property
    def dimensions(self) -> int:
        assert self._dimensions is not None
        return self._dimensions

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        return await self._embed_all(texts, self._spec.passage_prefix, self._access.passages_timeout_seconds)

    async def embed_query(self, text: str) -> Vectors:
        row: Vectors = (await self._embed_all([text], self._spec.query_prefix, self._access.query_timeout_seconds))[0]
        return row

    async def close(self) -> None:
        await self._http.aclose()

    async def _embed_all(self, texts: Sequence[str], prefix: str | None, seconds: float) -> Vectors:
        async def embed(batch: list[str]) -> Vectors:
            return await self._embed([f"{prefix or ''}{text}" for text in batch], seconds)

        return await embed_in_batches(
            texts, self.dimensions, embed, max_texts=_BATCH_TEXTS, max_characters=_BATCH_CHARACTERS
        )

    async def _embed(self, texts: list[str], seconds: float) -> Vectors:
        try:
            async with asyncio.timeout(seconds):
                return await self._embed_fitting(texts)
        except TimeoutError:
            raise EmbedderUnavailable(f"{self.name} did not answer within {seconds:g} s.") from None

    async def _embed_fitting(self, texts: list[str]) -> Vectors:
        """Half as many texts, then half as long a text, while the server says that it is too much."""
        try:
            return await self._ask(texts)
        except answers.TooLarge:
            middle = len(texts) // 2
            if middle:
                halves = [await self._embed_fitting(part) for part in (texts[:middle], texts[middle:])]
                return np.concatenate(halves)
            if len(texts[0]) < 2 * _SHORTEST_CUT_CHARACTERS:
                raise
        return await self._embed_fitting([texts[0][: len(texts[0]) // 2]])

    async def _ask(self, texts: list[str]) -> Vectors:
        body: dict[str, Any] = {"model": self._spec.model, "input": texts}
        if self._spec.dimensions is not None:
            body["dimensions"] = self._spec.dimensions
        try:
            response = await self._http.post(f"{self._endpoint.url}/embeddings", json=body)
        except httpx2.RequestError as error:
            # Not its text: a proxy's address may hold a password.
            raise EmbedderUnavailable(
                f"{self.name} cannot be reached at {self._endpoint.url} ({type(error).__name__})."
            ) from error
        if response.status_code != 200:
            raise answers.refusal(self.name, response, secrets=[self._endpoint.key or "", *texts])
        return answers.rows(self.name, response.content, count=len(texts), dimensions=self._dimensions)
