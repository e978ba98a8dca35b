"""Where the server is, which key opens it, and how patient a call is."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2

from ._errors import ConfigurationError
from ._request import NotGiven

DEFAULT_BASE_URL = "http://127.0.0.1:8080"
DEFAULT_TIMEOUT = httpx2.Timeout(60.0, connect=5.0)
DEFAULT_MAX_RETRIES = 2

Timeout = float | httpx2.Timeout | None
"""Seconds for each network operation, or one of `httpx2.Timeout`; None waits for ever."""


@dataclass(frozen=True)
class Config:
    base_url: str
    api_key: str = field(repr=False)
    timeout: Timeout
    max_retries: int
    default_headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.max_retries, bool) or not isinstance(self.max_retries, int) or self.max_retries < 0:
            raise ConfigurationError(f"max_retries must be 0 or more, not {self.max_retries!r}")

    @property
    def is_local(self) -> bool:
        return is_loopback(httpx2.URL(self.base_url).host)

    def with_options(
        self, timeout: Timeout | NotGiven, max_retries: int | NotGiven, default_headers: Mapping[str, str] | NotGiven
    ) -> Config:
        changed = self
        if not isinstance(timeout, NotGiven):
            changed = replace(changed, timeout=timeout)
        if not isinstance(max_retries, NotGiven):
            changed = replace(changed, max_retries=max_retries)
        if not isinstance(default_headers, NotGiven):
            changed = replace(changed, default_headers=dict(default_headers))
        return changed


def resolve_config(
    base_url: str | None,
    api_key: str | None,
    timeout: Timeout,
    max_retries: int,
    default_headers: Mapping[str, str] | None = None,
) -> Config:
    """Arguments first, then the environment, then, for the key of a server on this machine, its own file."""
    url = _checked_url(base_url or os.environ.get("MEMORY_BASE_URL") or _local_url(os.environ))
    if api_key is None:
        api_key = _found_key(os.environ, is_local=is_loopback(httpx2.URL(url).host))
    return Config(url, _checked_key(api_key), timeout, max_retries, dict(default_headers or {}))


def _local_url(environment: Mapping[str, str]) -> str:
    """Where a server on this machine listens that was started in the same environment."""
    port = environment.get("MEMORY_PORT", "").strip()
    return f"http://127.0.0.1:{port}" if port.isdecimal() and int(port) else DEFAULT_BASE_URL


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_url(base_url: str) -> str:
    try:
        url = httpx2.URL(base_url.strip())
    except httpx2.InvalidURL as error:
        raise ConfigurationError(f"base_url is not a URL: {error}") from None
    if url.userinfo:
        raise ConfigurationError("base_url must not hold a user name or password; pass api_key")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(f"base_url must look like {DEFAULT_BASE_URL}, not {base_url!r}")
    return str(url.copy_with(query=None, fragment=None)).rstrip("/").removesuffix("/v1")


def _found_key(environment: Mapping[str, str], *, is_local: bool) -> str:
    if key := environment.get("MEMORY_API_KEY", "").strip():
        return key
    key_file = Path(environment.get("MEMORY_DATA_DIR") or "~/.memory-service").expanduser() / "api_key"
    if is_local and (key := _read_key(key_file)):
        return key
    looked_in = f" ({key_file} holds none)" if is_local else ""
    raise ConfigurationError(f"No API key: pass api_key= or set MEMORY_API_KEY{looked_in}.")


def _read_key(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _checked_key(api_key: str) -> str:
    """The network library would quote a key that cannot stand in a header: refuse it here, unquoted."""
    api_key = api_key.strip()
    if not api_key:
        raise ConfigurationError("api_key is empty.")
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise ConfigurationError("api_key holds characters that no key has (spaces, line ends, …).")
    return api_key
