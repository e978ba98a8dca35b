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
    service = Service.start(env={"MEMORY_DATABASE_URL": database_url, "MEMORY_BODY_TIMEOUT_SECONDS": "0.5"})
    yield service
    service.stop()


def connected(service: Service) -> socket.socket:
    address = urlsplit(service.url)
    return socket.create_connection((address.hostname, address.port), timeout=60)


def sent(service: Service, api_key: str, path: str, length: int, body: bytes) -> socket.socket:
    """A connection on which the beginning of a request was sent."""
    connection = connected(service)
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


@pytest.mark.parametrize("head", [b"", b"GET /healthz HTTP/1.1\r\nhost: "])
def test_a_head_that_stops_coming(impatient: Service, head: bytes) -> None:
    with connected(impatient) as connection:
        connection.sendall(head)
        assert answer_before_the_end(connection) == b""


def test_a_second_head_that_stops_coming(impatient: Service) -> None:
    with connected(impatient) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = connection.recv(65_536)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: ")
        assert (answer + answer_before_the_end(connection)).count(b"HTTP/1.1 200 ") == 1


def test_a_head_that_comes_in_drops(impatient: Service) -> None:
    """Each drop comes in time; a head is never so long."""
    with connected(impatient) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: ")
        connection.settimeout(0.05)
        answer = None
        for _ in range(600):
            with suppress(TimeoutError):
                answer = connection.recv(65_536)
                break
            connection.sendall(b"x")
    assert answer == b""
