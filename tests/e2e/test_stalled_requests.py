"""Clients that send a part of a request, and then nothing, or too little."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from tests.conftest import Service


@pytest.fixture(scope="module")
def impatient(database_url: str) -> Iterator[Service]:
    service = Service.start(env={"MEMORY_DATABASE_URL": database_url, "MEMORY_BODY_TIMEOUT_SECONDS": "0.2"})
    yield service
    service.stop()


def sent(service: Service, api_key: str, path: str, length: int, body: bytes) -> socket.socket:
    """A connection on which the beginning of a request was sent."""
    address = urlsplit(service.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=60)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {api_key}\r\ncontent-type: application/json\r\n"
    connection.sendall(f"{head}content-length: {length}\r\n\r\n".encode() + body)
    return connection


def answer_before_the_end(connection: socket.socket) -> bytes:
    """All that comes until the service closes the connection."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/threads", b""), ("/v1/threads", b'{"metadata": {'), ("/v1/import", b'{"type": "thread", "id": "t"}\n')],
)
def test_a_body_that_stops_coming(impatient: Service, api_key: str, path: str, body: bytes) -> None:
    with sent(impatient, api_key, path, 1_000, body) as connection:
        answer = answer_before_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer
    assert b"connection: close" in answer.lower()


def test_a_large_body_that_is_refused_and_stops_coming(impatient: Service, api_key: str) -> None:
    with sent(impatient, api_key, "/v1/threads", 20_000_000, b"{") as connection:
        assert answer_before_the_end(connection).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_comes_in_drops(impatient: Service, api_key: str) -> None:
    """Each drop comes in time; all together take too long for what they are."""
    with sent(impatient, api_key, "/v1/threads", 1_000_000, b"{") as connection:
        connection.settimeout(0.05)
        answer = b""
        for _ in range(200):
            with suppress(TimeoutError):
                answer = connection.recv(65_536)
                break
            connection.sendall(b" ")
    assert answer.startswith(b"HTTP/1.1 408 ")
