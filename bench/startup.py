"""From `serve` to the first 200 of /readyz: on an empty data directory (cluster, database, migrations, key), and again on
the same one; and what it holds in memory when idle. Postgres processes share most of theirs, so theirs is the
proportional size (PSS) where the system tells it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from bench.load import Connection, Target, http_request
from bench.report import Report, Section, progress
from bench.stack import service_environment, temporary_dir

_MEBIBYTE = 2**20


def run(*, quick: bool) -> Report:
    rounds, later = (1, 1) if quick else (3, 3)
    starts: dict[str, list[dict[str, float]]] = {"first start": [], "later starts": []}
    for number in range(rounds):
        progress(f"startup: round {number + 1} of {rounds}")
        with temporary_dir() as directory:
            starts["first start"].append(_start(directory / "data"))
            starts["later starts"] += [_start(directory / "data") for _ in range(later)]
    rows = [{"what": what, "runs": len(found), **_middle(found)} for what, found in starts.items()]
    return Report(
        "startup", [Section("From serve to ready (medians)", rows)], ["Idle: ten requests of /readyz served."]
    )


def _middle(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(median(one[name] for one in found), 2) for name in found[0]}


def _start(data_dir: Path) -> dict[str, Any]:
    port = _free_port()
    began = time.perf_counter()
    command = [sys.executable, "-m", "memory_service", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=service_environment(),
        cwd=Path(__file__).parents[1],
    )
    try:
        connection = _wait_until_ready(process, Target("127.0.0.1", port))
        seconds = time.perf_counter() - began
        for _ in range(10):
            _ready(connection)
        connection.close()
        service = psutil.Process(process.pid)
        postgres = [child for child in service.children(recursive=True) if child.name() == "postgres"]
        return {
            "ready_s": seconds,
            "service_rss_mib": service.memory_info().rss / _MEBIBYTE,
            "postgres_mib": sum(map(_own_memory, postgres)) / _MEBIBYTE,
            "postgres_processes": len(postgres),
        }
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(process: subprocess.Popen[bytes], target: Target) -> Connection:
    """The port is open, and connections wait in its queue, before anything answers on it."""
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"memory-service ended with status {process.returncode}")
        try:
            connection = Connection(target)
            _ready(connection)
            return connection
        except ConnectionError:
            time.sleep(0.01)


def _ready(connection: Connection) -> None:
    connection.send(http_request("GET", "/readyz", key=""))
    connection.receive()


def _own_memory(process: psutil.Process) -> int:
    found = process.memory_full_info()
    return int(getattr(found, "pss", found.uss))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
