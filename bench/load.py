"""A small HTTP load generator: raw keep-alive sockets, requests encoded beforehand, in a process of its own.

Its own ceiling is measured with every run, against an ASGI route that does nothing (`bench.nothing`).
"""

from __future__ import annotations

import json
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import NamedTuple


class Target(NamedTuple):
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Answer:
    """`server_ms` is the time that the service says it took, None where it says nothing."""

    body: bytes
    server_ms: float | None


@dataclass(frozen=True, slots=True)
class Client:
    """One connection of the load, sending `bodies` to `path` in turn, the next as soon as the last was answered."""

    method: str
    path: str
    bodies: Sequence[str]
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients saw in `seconds`, the warm-up left out. `cpu_seconds` is what generating the load took; `requests`
    counts those of the warm-up too.
    """

    latencies: Sequence[float]
    server_times: Sequence[float]
    seconds: float
    cpu_seconds: float
    requests: int

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds


def http_request(method: str, path: str, *, key: str, body: bytes = b"", idempotency_key: str | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: bench", f"authorization: Bearer {key}", f"content-length: {len(body)}"]
    if body:
        lines.append("content-type: application/json")
    if idempotency_key is not None:
        lines.append(f"idempotency-key: {idempotency_key}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection:
    """One keep-alive connection. Anything but a 2xx is an error."""

    def __init__(self, target: Target) -> None:
        self._socket = socket.create_connection(target, timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, request: bytes) -> None:
        self._socket.sendall(request)

    def receive(self) -> Answer:
        received = self._socket.recv(262_144)
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._more()
        head = received[:end].lower()
        if head[9:10] != b"2":
            raise RuntimeError(received.decode(errors="replace"))
        missing = int(_header(head, b"content-length") or 0) + end + 4 - len(received)
        parts = [received]
        while missing > 0:
            parts.append(self._more())
            missing -= len(parts[-1])
        timing = _header(head, b"server-timing")
        server_ms = float(timing.rpartition(b"dur=")[2]) if timing else None
        return Answer(b"".join(parts)[end + 4 :], server_ms)

    def _more(self) -> bytes:
        received = self._socket.recv(262_144)
        if not received:
            raise ConnectionError("The service closed the connection.")
        return received

    def close(self) -> None:
        self._socket.close()


def _header(head: bytes, name: bytes) -> bytes | None:
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    start = at + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def generate(target: Target, key: str, clients: Sequence[Client], *, seconds: float, warmup_seconds: float) -> Load:
    """Run the load in a new process."""
    job = {
        "target": target,
        "key": key,
        "clients": [asdict(client) for client in clients],
        "seconds": seconds,
        "warmup_seconds": warmup_seconds,
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return Load(**json.loads(done.stdout))


def _requests(client: Client, number: int, key: str) -> Iterator[bytes]:
    encoded = cycle([http_request(client.method, client.path, key=key, body=body.encode()) for body in client.bodies])
    for count, request in enumerate(encoded):
        if client.idempotent:
            yield request.replace(b"\r\n", b"\r\nidempotency-key: %d-%d-%d\r\n" % (time.time_ns(), number, count), 1)
        else:
            yield request


def _run(target: Target, key: str, clients: Sequence[Client], seconds: float, warmup_seconds: float) -> Load:
    connections = [Connection(target) for _ in clients]
    requests = [_requests(client, number, key) for number, client in enumerate(clients)]
    numbers = {connection.fileno(): number for number, connection in enumerate(connections)}
    poll = select.epoll() if hasattr(select, "epoll") else select.poll()
    sent = [0.0] * len(clients)
    latencies: list[float] = []
    server_times: list[float] = []
    clock = time.perf_counter
    began = clock() + warmup_seconds
    cpu = 0.0
    answered = 0
    for number, connection in enumerate(connections):
        poll.register(connection.fileno(), select.POLLIN)
        sent[number] = clock()
        connection.send(next(requests[number]))
    waiting = len(connections)
    while waiting:
        for descriptor, _ in poll.poll():
            number = numbers[descriptor]
            answer = connections[number].receive()
            now = clock()
            answered += 1
            if sent[number] >= began:
                cpu = cpu or _cpu_seconds()
                latencies.append(now - sent[number])
                if answer.server_ms is not None:
                    server_times.append(answer.server_ms / 1000)
            if now < began + seconds or not latencies:  # a slow machine may need longer for its first
                sent[number] = clock()
                connections[number].send(next(requests[number]))
            else:
                waiting -= 1
    return Load(latencies, server_times, clock() - began, _cpu_seconds() - cpu, answered)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    job = json.load(sys.stdin)
    clients = [Client(**client) for client in job["clients"]]
    load = _run(Target(*job["target"]), job["key"], clients, job["seconds"], job["warmup_seconds"])
    json.dump(asdict(load), sys.stdout)


if __name__ == "__main__":
    main()
