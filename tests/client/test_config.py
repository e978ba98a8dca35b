from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memory_client import AsyncMemoryClient, ConfigurationError, MemoryClient, MemoryClientError

from .answers import page
from .driver import Driver
from .peer import Peer


def key_used(driver: Driver, peer: Peer) -> str:
    peer.plays(page())
    driver.run(lambda client: client.threads.list())
    return peer.only_request.headers["authorization"].removeprefix("Bearer ")


def write_key(directory: Path, key: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "api_key").write_text(key + "\n")


def test_the_key_comes_from_the_argument_the_environment_or_the_servers_file(
    new_driver: Callable[..., Driver], peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_key(tmp_path / ".memory-service", "from-home")
    assert key_used(new_driver(api_key=None), peer) == "from-home"
    write_key(tmp_path / "elsewhere", "from-data-dir")
    monkeypatch.setenv("MEMORY_DATA_DIR", str(tmp_path / "elsewhere"))
    assert key_used(new_driver(api_key=None), peer) == "from-data-dir"
    monkeypatch.setenv("MEMORY_API_KEY", " from-environment\n")
    assert key_used(new_driver(api_key=None), peer) == "from-environment"
    assert key_used(new_driver(api_key="from-argument"), peer) == "from-argument"


def test_the_servers_file_is_for_a_server_on_this_machine(tmp_path: Path) -> None:
    write_key(tmp_path / ".memory-service", "from-home")
    for url in ("http://localhost:1", "http://127.8.0.1", "http://[::1]:8080", "https://memory.localhost"):
        MemoryClient(url).close()
    for url in ("https://memory.example.com", "http://10.0.0.1:8080", "http://127.0.0.1.example.com"):
        with pytest.raises(ConfigurationError, match=r"^No API key: pass api_key= or set MEMORY_API_KEY\.$"):
            MemoryClient(url)


@pytest.mark.parametrize("client", [MemoryClient, AsyncMemoryClient])
def test_no_key_anywhere_is_a_clear_error(client: Any, tmp_path: Path) -> None:
    with pytest.raises(MemoryClientError) as caught:
        client()
    path = tmp_path / ".memory-service" / "api_key"
    assert str(caught.value) == f"No API key: pass api_key= or set MEMORY_API_KEY ({path} holds none)."


@pytest.mark.parametrize("key", ["", " ", "msk_a b", "msk_a\nb", "msk_é", "msk_\x00"])
def test_a_key_that_cannot_be_one_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MemoryClient(api_key=key)
    assert "msk" not in str(caught.value)


def test_the_base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    assert url_of() == "http://127.0.0.1:8080"
    monkeypatch.setenv("MEMORY_PORT", "9000")
    assert url_of() == "http://127.0.0.1:9000"
    for unusable in ("0", "", "http"):
        monkeypatch.setenv("MEMORY_PORT", unusable)
        assert url_of() == "http://127.0.0.1:8080"
    monkeypatch.setenv("MEMORY_PORT", "9000")
    monkeypatch.setenv("MEMORY_BASE_URL", "https://memory.example.com/api/")
    assert url_of() == "https://memory.example.com/api"
    assert url_of(base_url="http://host:1/v1/?x=1") == "http://host:1"


def url_of(**options: Any) -> str:
    with MemoryClient(api_key="msk_x", **options) as client:
        assert repr(client) == f"MemoryClient(base_url={client.base_url!r})"
        return client.base_url


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "http://host:port", "http://u:secret@host"])
def test_a_base_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MemoryClient(url, "msk_x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("retries", [-1, 1.5, True, None])
def test_max_retries_is_a_count(retries: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_retries"):
        MemoryClient(api_key="msk_x", max_retries=retries)


def test_a_proxy_is_never_the_way_to_this_machine(
    new_driver: Callable[..., Driver], peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert key_used(new_driver(max_retries=0), peer)


def test_a_closed_client_does_not_send(new_driver: Callable[..., Driver], peer: Peer) -> None:
    driver = new_driver()
    driver.run(lambda client: client.close())
    with pytest.raises(RuntimeError, match="closed"):
        driver.run(lambda client: client.health())
    assert not peer.received


async def _used_as_context_manager(url: str) -> AsyncMemoryClient:
    async with AsyncMemoryClient(url, "msk_x") as client:
        await client.threads.list()
    return client


def test_context_managers_close(peer: Peer, new_driver: Callable[..., Driver]) -> None:
    peer.plays(page(), page())
    with MemoryClient(peer.url, "msk_x") as client:
        client.threads.list()
    assert client._http.is_closed
    assert asyncio.run(_used_as_context_manager(peer.url))._http.is_closed
