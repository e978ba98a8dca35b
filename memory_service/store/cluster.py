"""The processes of an embedded cluster: found by where they work, and stopped."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from memory_service.errors import MemoryServiceError

# Enough for a checkpoint. It may run out: Postgres 18 can ignore a shutdown asked for during crash recovery.
STOP_TIMEOUT_SECONDS = 15.0
KILL_TIMEOUT_SECONDS = 10.0


class EmbeddedPostgresError(MemoryServiceError):
    code = "embedded_postgres"


def stop_cluster(cluster: Path) -> None:
    """Fast shutdown, then SIGKILL to whatever is left; that is safe, the next start recovers from the log."""
    postmaster_pid = "".join(pid_file_lines(cluster)[:1])
    for process in [process for process in processes(cluster) if str(process.pid) == postmaster_pid]:
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        while process in processes(cluster) and time.monotonic() < deadline:
            time.sleep(0.05)
    deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
    while remaining := processes(cluster):
        for process in remaining:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(f"Postgres processes of {cluster} do not end: {remaining}")
        time.sleep(0.05)


def processes(cluster: Path) -> list[psutil.Process]:
    """The live processes of this cluster, orphaned backends included. A zombie has no working directory."""
    found = []
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            if process.info["name"] == "postgres" and process.cwd() == str(cluster):
                found.append(process)
    return found


def pid_file_lines(cluster: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return (cluster / "postmaster.pid").read_text().splitlines()
    return []
