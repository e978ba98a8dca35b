"""`memory-service doctor`: what is not as it must be, and how to mend it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import httpx2
import typer
from rich.text import Text

from memory_service.cli.common import AsJson, DataDir, out, read_settings
from memory_service.config import Settings
from memory_service.errors import InvalidInput, MemoryServiceError
from memory_service.providers.tokenizers import O200kCounter
from memory_service.runtime import load_models
from memory_service.services import lifecycle
from memory_service.store.diagnosis import Diagnosis, diagnose
from memory_service.store.migrate import head_revision

Status = Literal["ok", "warn", "fail"]
_COLOURS: Mapping[Status, str] = {"ok": "green", "warn": "yellow", "fail": "red"}
_HTTP_TIMEOUT_SECONDS = 5.0
_OLDEST_POSTGRES = 150_000
_LITTLE_BYTES, _TOO_LITTLE_BYTES = 2_000_000_000, 200_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """`remedy` says how to mend what is not `ok`."""

    name: str
    status: Status
    message: str
    remedy: str = ""


def doctor(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check what the service needs: database, files, tokenizer, embedder, providers, key. Ends with 1 if anything fails."""
    findings: list[Finding] = []
    for finding in examine(read_settings(data_dir=data_dir)):
        findings.append(finding)
        if not as_json:
            _show(finding)
    worst = max((finding.status for finding in findings), key=["ok", "warn", "fail"].index)
    if as_json:
        typer.echo(json.dumps({"status": worst, "findings": [asdict(finding) for finding in findings]}))
    raise typer.Exit(int(worst == "fail"))


def _show(finding: Finding) -> None:
    line = Text.assemble((f"{finding.status:4}", _COLOURS[finding.status]), f"  {finding.name:15} {finding.message}")
    out.print(line)
    if finding.remedy:
        out.print(Text(f"      {'':15} {finding.remedy}", style="dim"))


def examine(settings: Settings) -> Iterator[Finding]:
    if settings.database_url is None:
        yield data_directory(settings.resolved_data_dir)
        yield disk_space(settings.resolved_data_dir)
    yield from database(settings)
    if settings.models_file is not None:
        yield price_table(settings.models_file)
    yield tokenizer()
    yield embedder()
    yield provider("Anthropic", "ANTHROPIC", "https://api.anthropic.com", "/v1/models", _anthropic_headers())
    yield provider("OpenAI", "OPENAI", "https://api.openai.com/v1", "/models", _openai_headers())
    yield service(settings)


def data_directory(path: Path) -> Finding:
    name = "data directory"
    if not path.exists():
        return Finding(name, "warn", f"{path} is not there yet", "`memory-service serve` makes it.")
    if not path.is_dir() or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return Finding(name, "fail", f"{path} cannot be written", f"Give it to this user: chown -R $(id -u) {path}")
    key = path / "api_key"
    if key.exists() and key.stat().st_mode & 0o077:
        return Finding(name, "warn", f"others may read {key}", f"chmod 600 {key}")
    return Finding(name, "ok", str(path))


def disk_space(path: Path) -> Finding:
    there = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(there).free
    message = f"{free / 1e9:.1f} GB free at {there}"
    if free >= _LITTLE_BYTES:
        return Finding("disk", "ok", message)
    status: Status = "fail" if free < _TOO_LITTLE_BYTES else "warn"
    return Finding("disk", status, message, "Make room: a database whose disk is full stops writing.")


def database(settings: Settings) -> Iterator[Finding]:
    if settings.database_url is None and not (settings.resolved_data_dir / "postgres").exists():
        yield Finding("database", "warn", "the embedded Postgres is not there yet", "`memory-service serve` makes it.")
        return
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(lifecycle.open_database(settings, share=True))
            diagnosis = diagnose(opened.url)
        except MemoryServiceError as error:
            yield Finding("database", "fail", *_sentence_and_remedy(error.message))
            return
        yield _server(diagnosis, opened.described)
        yield _vector(diagnosis)
        yield _migrations(diagnosis)
        if diagnosis.revision is not None:
            yield _isolation(diagnosis)
        if diagnosis.revision == head_revision():
            connections = _connections(opened.url)
            yield connections
            if connections.status == "ok":
                yield from _switched_embedder(settings, opened.url)


def _server(diagnosis: Diagnosis, described: str) -> Finding:
    message = f"Postgres {diagnosis.server}, {described}"
    if diagnosis.server_number < _OLDEST_POSTGRES:
        return Finding("database", "fail", message, "Postgres 15 or newer is needed: upgrade the server.")
    return Finding("database", "ok", message)


def _vector(diagnosis: Diagnosis) -> Finding:
    if diagnosis.vector is not None:
        return Finding("pgvector", "ok", diagnosis.vector)
    remedy = "Install pgvector on the server, and let an administrator run CREATE EXTENSION vector in this database."
    return Finding("pgvector", "fail", "the extension `vector` is not in this database", remedy)


def _migrations(diagnosis: Diagnosis) -> Finding:
    head = head_revision()
    if diagnosis.revision == head:
        return Finding("migrations", "ok", f"at {head}, the newest")
    message = f"the database is at {diagnosis.revision or 'none'}, this version needs {head}"
    remedy = "Run `memory-service migrate`; if a newer version has migrated it, run that version."
    return Finding("migrations", "fail", message, remedy)


def _isolation(diagnosis: Diagnosis) -> Finding:
    name = "row security"
    if diagnosis.missing_roles:
        roles = ", ".join(diagnosis.missing_roles)
        return Finding(
            name,
            "fail",
            f"the role of MEMORY_DATABASE_URL cannot act as {roles}",
            f"Let an administrator run GRANT {roles} TO that role (from Postgres 16 on: WITH SET TRUE).",
        )
    if diagnosis.overpowered:
        roles = ", ".join(diagnosis.overpowered)
        remedy = "; ".join(f"ALTER ROLE {role} NOSUPERUSER NOBYPASSRLS" for role in diagnosis.overpowered)
        return Finding(name, "fail", f"no policy binds {roles}", f"Let an administrator run {remedy}.")
    if diagnosis.unprotected or diagnosis.sees_everything:
        message = f"projects are not kept apart in {', '.join(diagnosis.unprotected) or 'messages'}"
        tables = diagnosis.unprotected or ["messages"]
        remedy = "; ".join(
            f"ALTER TABLE memory.{t} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY" for t in tables
        )
        return Finding(name, "fail", message, f"Restore the policies from migrations/schema.sql; first {remedy}.")
    return Finding(name, "ok", "keeps projects apart")


def _connections(url: str) -> Finding:
    """As the service itself connects."""
    try:
        asyncio.run(lifecycle.check_database(url))
    except MemoryServiceError as error:
        return Finding("connections", "fail", *_sentence_and_remedy(error.message))
    return Finding("connections", "ok", "as both roles of the service")


def _switched_embedder(settings: Settings, url: str) -> Iterator[Finding]:
    """Of the built-in one `embedder` says all there is. Without any, recall goes by words."""
    name = "active embedder"
    try:
        if (active := asyncio.run(lifecycle.probe_switched_embedder(settings, url))) is not None:
            yield Finding(name, "ok", f"{active} answers")
    except MemoryServiceError as error:
        remedy = "Recall goes by words until it answers; `memory-service embedder switch` changes to another one."
        yield Finding(name, "warn", error.message.rstrip("."), remedy)


def price_table(path: Path) -> Finding:
    try:
        load_models(path)
    except InvalidInput as error:
        return Finding("models", "fail", error.message.rstrip("."), "Mend the file: `serve` does not start with it.")
    return Finding("models", "ok", f"{path} can be read")


def tokenizer() -> Finding:
    try:
        O200kCounter().load()
    except (RuntimeError, OSError) as error:
        return Finding("tokenizer", "fail", str(error), "Install memory-service again.")
    return Finding("tokenizer", "ok", "o200k_base, as published")


def embedder() -> Finding:
    """Imported here: nothing else of the command needs it."""
    from memory_service.providers.embeddings.builtin import BuiltinEmbedder

    try:
        BuiltinEmbedder().load()
    except Exception as error:  # whatever a damaged file makes of it
        message = f"the built-in embedder cannot be loaded: {error or type(error).__name__}"
        return Finding("embedder", "fail", message, "Install memory-service again.")
    return Finding("embedder", "ok", "built-in")


def provider(name: str, prefix: str, default_url: str, path: str, headers: dict[str, str] | None) -> Finding:
    """Asks for the list of models, which costs nothing. Without `headers` runs do not ask it either."""
    if headers is None:
        return Finding(name, "ok", f"not used: {prefix}_API_KEY is not set")
    url = (_variable(f"{prefix}_BASE_URL") or default_url).rstrip("/")
    try:
        shown = str(httpx2.URL(url).copy_with(username=None, password=None, query=None))
        status = httpx2.get(url + path, headers=headers, timeout=_HTTP_TIMEOUT_SECONDS).status_code
    except (httpx2.RequestError, httpx2.InvalidURL, ValueError) as error:
        message = f"{prefix}_BASE_URL does not answer ({type(error).__name__})"
        return Finding(name, "fail", message, f"Check {prefix}_BASE_URL, the network and any proxy.")
    if status in (401, 403):
        return Finding(name, "fail", f"{shown} refuses the key ({status})", f"Set {prefix}_API_KEY to a valid key.")
    if status >= 500:
        return Finding(name, "warn", f"{shown} answers {status}", "Look again later.")
    return Finding(name, "ok", f"{shown} answers")


def service(settings: Settings) -> Finding:
    name = "service"
    given = os.environ.get("MEMORY_BASE_URL", "").strip().rstrip("/").removesuffix("/v1")
    url = given or f"http://{settings.host}:{settings.port}"
    key = _api_key(settings)
    if key is None:
        return Finding(
            name, "warn", "there is no API key to try it with", "Set MEMORY_API_KEY, or start the service once."
        )
    try:
        answer = httpx2.get(
            f"{url}/v1/threads",
            params={"limit": 1},
            headers={"authorization": f"Bearer {key}"},
            timeout=_HTTP_TIMEOUT_SECONDS,
            trust_env=bool(given),
        )
    except (httpx2.RequestError, httpx2.InvalidURL, ValueError):
        remedy = "Start it with `memory-service serve`, or set MEMORY_BASE_URL to where it is."
        return Finding(name, "fail" if given else "warn", f"nothing answers at {url}", remedy)
    if answer.status_code == 401:
        remedy = "`memory-service keys create` makes a key; set MEMORY_API_KEY to it."
        return Finding(name, "fail", f"{url} does not know the API key", remedy)
    if not answer.is_success:
        return Finding(name, "fail", f"{url} answers {answer.status_code}", "Its log says why.")
    return Finding(name, "ok", f"{url} takes the API key")


def _api_key(settings: Settings) -> str | None:
    if key := os.environ.get("MEMORY_API_KEY", "").strip():
        return key
    try:
        return (settings.resolved_data_dir / "api_key").read_text().strip() or None
    except OSError:
        return None


def _sentence_and_remedy(text: str) -> tuple[str, str]:
    """Messages of errors say what is wrong, then what to do."""
    first, *rest = re.split(r"[.;] ", text, maxsplit=1)
    remedy = rest[0] if rest else "Look into the log of Postgres."
    return first.rstrip("."), remedy[0].upper() + remedy[1:]


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def _anthropic_headers() -> dict[str, str] | None:
    version = {"anthropic-version": "2023-06-01"}
    if key := _variable("ANTHROPIC_API_KEY"):
        return {**version, "x-api-key": key}
    token = _variable("ANTHROPIC_AUTH_TOKEN")
    return {**version, "authorization": f"Bearer {token}"} if token else None


def _openai_headers() -> dict[str, str] | None:
    """A server of one's own needs no key."""
    if key := _variable("OPENAI_API_KEY"):
        return {"authorization": f"Bearer {key}"}
    return {} if _variable("OPENAI_BASE_URL") else None
