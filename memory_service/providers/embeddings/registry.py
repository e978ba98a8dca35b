"""Which embedders there are, how a choice of one is written down, and how it is opened."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import numpy as np
from pydantic import SecretStr

from memory_service.errors import EmbedderUnavailable, InvalidInput
from memory_service.providers.base import Embedder

BUILTIN_MODEL = "1"
# What an HNSW index over halfvec holds.
MAX_DIMENSIONS = 4000
PROBE_TEXT = "When does the ferry to the island leave?"

_CHOICES = {
    "builtin": "builtin",
    "openai": "openai:MODEL (any OpenAI-compatible /v1/embeddings URL)",
    "fastembed": "fastembed:MODEL (a model's name or directory)",
    "sentence-transformers": "sentence-transformers:MODEL (a model's name or directory)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderSpec:
    """What embeds. Kept in the database, so it holds no secret; raises InvalidInput when it makes no sense.

    `dimensions` asks for shorter vectors than the model's own. The prefixes are what some models want in front of a
    query or a passage ("query: ", "passage: "); None leaves it to the model's own configuration, if it has one.
    """

    provider: str
    model: str
    base_url: str | None = None
    dimensions: int | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None

    def __post_init__(self) -> None:
        if self.provider not in _CHOICES or not self.model:
            raise _unknown(f"{self.provider}:{self.model}" if self.model else self.provider)
        if self.provider == "builtin":
            self._check_builtin()
        if self.base_url is not None:
            if self.provider != "openai":
                raise InvalidInput(f"{self.provider} runs in this process and has no base_url.")
            object.__setattr__(self, "base_url", normal_url(self.base_url))
        if self.dimensions is not None and not 1 <= self.dimensions <= MAX_DIMENSIONS:
            raise InvalidInput(f"dimensions must be between 1 and {MAX_DIMENSIONS}.")

    def _check_builtin(self) -> None:
        if self.model != BUILTIN_MODEL:
            raise _unknown(f"builtin:{self.model}")
        if options := sorted(self._options()):
            raise InvalidInput(f"The built-in embedder takes no {' and no '.join(options)}.")

    @classmethod
    def parse(cls, text: str, **options: Any) -> Self:
        """From `builtin` or `PROVIDER:MODEL`; the other fields are given by name."""
        provider, _, model = text.strip().partition(":")
        if provider == "builtin":
            model = model or BUILTIN_MODEL
        return cls(provider=provider, model=model.strip(), **options)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        try:
            fields = json.loads(text)
            return cls(**fields)
        except (ValueError, TypeError) as error:
            raise InvalidInput("This is not a stored embedder; a newer version may have written it.") from error

    def to_json(self) -> str:
        """Canonical: equal specs give equal text."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    @property
    def name(self) -> str:
        """The embedder's name: provider and model, and whatever else changes the vectors."""
        options = self._options()
        return f"{self.provider}:{self.model}" + (f"?{urlencode(options, safe=':/')}" if options else "")

    def _options(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None and name not in ("provider", "model")
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderAccess:
    """What reaching a remote embedder takes and a database must not hold."""

    api_key: SecretStr | None = None
    query_timeout_seconds: float = 2.0
    passages_timeout_seconds: float = 60.0


async def open_embedder(
    spec: EmbedderSpec, access: EmbedderAccess | None = None, *, dimensions: int | None = None
) -> Embedder:
    """Load it, or connect to it. Raises EmbedderUnavailable.

    `dimensions` is what is known from before. With it a remote embedder is not asked for anything yet, so that a service
    starts while the embedder is away; without it, it is asked for one vector.
    """
    embedder = await _open(spec, access or EmbedderAccess(), dimensions)
    if embedder.dimensions > MAX_DIMENSIONS:
        await embedder.close()
        raise InvalidInput(
            f"{spec.name} has {embedder.dimensions} dimensions, and at most {MAX_DIMENSIONS} can be searched. Ask it for "
            "fewer with `dimensions`."
        )
    if dimensions not in (None, embedder.dimensions):
        await embedder.close()
        raise EmbedderUnavailable(
            f"{spec.name} has {embedder.dimensions} dimensions now, and had {dimensions}: it is another model.",
            is_retryable=False,
        )
    return embedder


async def _open(spec: EmbedderSpec, access: EmbedderAccess, dimensions: int | None) -> Embedder:
    match spec.provider:
        case "builtin":
            from memory_service.providers.embeddings.builtin import BuiltinEmbedder

            return BuiltinEmbedder()
        case "openai":
            from memory_service.providers.embeddings.openai import OpenAIEmbedder

            return await OpenAIEmbedder.open(spec, access, dimensions=dimensions)
        case "fastembed":
            from memory_service.providers.embeddings import fastembed, local

            return await local.LocalEmbedder.open(spec, fastembed.load)
        case _:
            from memory_service.providers.embeddings import local, sentence_transformers

            return await local.LocalEmbedder.open(spec, sentence_transformers.load)


async def probe(embedder: Embedder) -> float:
    """Embed one fixed query; the seconds it took. Raises EmbedderUnavailable saying what is wrong."""
    started = time.perf_counter()
    vector = await embedder.embed_query(PROBE_TEXT)
    seconds = time.perf_counter() - started
    if vector.shape != (embedder.dimensions,) or abs(float(np.linalg.norm(vector)) - 1) > 1e-3:
        raise EmbedderUnavailable(f"{embedder.name} does not answer with a unit vector.", is_retryable=False)
    return seconds


def normal_url(url: str) -> str:
    """A base URL as OpenAI's own client takes it: `/embeddings` is appended to it. Raises InvalidInput."""
    try:
        parts = urlsplit(url.strip())
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_web = False
    if not is_web:
        raise InvalidInput("base_url must begin with http:// or https:// and a host, as in http://localhost:11434/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidInput("base_url holds no user, password or query: give the key as MEMORY_EMBEDDER_API_KEY.")
    path = parts.path.rstrip("/").removesuffix("/embeddings") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _unknown(text: str) -> InvalidInput:
    return InvalidInput(f"There is no embedder {text!r}. There are: {'; '.join(_CHOICES.values())}.")
