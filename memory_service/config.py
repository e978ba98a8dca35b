"""Settings: `MEMORY_*` environment variables, read once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Each field is an environment variable: its name in capitals after `MEMORY_`."""

    model_config = SettingsConfigDict(env_prefix="MEMORY_", frozen=True, extra="ignore")

    database_url: SecretStr | None = Field(
        None,
        description="Postgres with pgvector to use instead of the embedded one: postgresql://user:password@host/db.",
    )
    data_dir: Path = Field(
        Path("~/.memory-service"), description="Where the embedded database and its first API key are kept."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    database_connections: int = Field(10, ge=1, le=500, description="Connections to the database, at most.")
    database_wait_seconds: float = Field(
        30, ge=0, description="How long `serve` waits at its start for a Postgres that cannot be reached yet."
    )
    max_body_bytes: int = Field(10_000_000, ge=1_000, description="Largest request body that is accepted.")
    body_timeout_seconds: float = Field(
        30, gt=0, description="How long the rest of a request may fail to come before it is refused."
    )
    requests_per_minute: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="Requests that an API key may make a minute, in each service; 0 is no limit. A key can have its own.",
    )
    wrong_keys_per_minute: int = Field(
        60,
        ge=0,
        le=10_000_000,
        description="Wrong API keys that an address may try a minute before it is refused unheard; 0 is no limit.",
    )
    default_provider: Literal["anthropic", "openai", "echo"] = Field(
        "anthropic",
        description="Request form for a model that is not in the price table, when none is named.",
    )
    default_model: str | None = Field(
        None, description="Model of prompts that name none and have no assistant with one."
    )
    models_file: Path | None = Field(
        None,
        description="JSON file whose entries replace or extend the shipped price table, see docs/models.md.",
    )
    count_tokens: Literal["auto", "off"] = Field(
        "auto",
        description="`auto` asks Anthropic (where ANTHROPIC_BASE_URL points) how many tokens a prompt has, if there is an "
        "ANTHROPIC_API_KEY: near `max_prompt_tokens`, and while fewer than twenty counts or reports of a model are known.",
    )
    provider_idle_seconds: float = Field(
        120, gt=0, le=3600, description="How long a provider may send nothing while a run waits for it."
    )
    openai_cache_salt: bool = Field(
        False,
        description="Send vLLM's `cache_salt`, one for each project, to the server at OPENAI_BASE_URL, so that projects do "
        "not share its prompt cache. Other servers may refuse it.",
    )
    embedder_api_key: SecretStr | None = Field(
        None,
        description="Key of the embedding server. OPENAI_API_KEY is used without it, for where OPENAI_BASE_URL points.",
    )
    embedder_query_timeout_seconds: float = Field(
        2.0, gt=0, description="How long recall waits for an embedding server before it goes by words alone."
    )
    embedder_passages_timeout_seconds: float = Field(
        60.0, gt=0, description="How long one batch of messages may take an embedding server."
    )
    clock: Literal["system", "request"] = Field(
        "system",
        description="`request`: the header x-memory-now (epoch seconds) is the time of a request. For tests and replays.",
    )
    prompt_retention_days: int = Field(
        30,
        ge=0,
        le=36_500,
        description="Days that prompts can be shown again; of older ones only a lane's newest is kept. 0 keeps all.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged, at least.")
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="Form of the log's lines; `auto` is text on a terminal, else JSON."
    )
    drain_seconds: float = Field(
        10,
        ge=0,
        le=3600,
        description="How long requests in flight may take to finish when the service is told to stop.",
    )

    @property
    def resolved_data_dir(self) -> Path:
        return self.data_dir.expanduser()


SETTING_NAMES = tuple(f"MEMORY_{name.upper()}" for name in Settings.model_fields)
# The Python client's, and the tests'.
_OTHERS = {"MEMORY_BASE_URL", "MEMORY_API_KEY", "MEMORY_EVAL_DATA"}


def unknown_settings(environment: Iterable[str]) -> list[str]:
    """Variables that look like settings and are none: most likely one that is misspelt, and has no effect."""
    return sorted(name for name in environment if name.startswith("MEMORY_") and name not in {*SETTING_NAMES, *_OTHERS})
