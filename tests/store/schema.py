"""The migrated schema as text, for `migrations/schema.sql`: `python -m tests.store.schema > migrations/schema.sql`.

pg_dump knows more than alembic's comparison does: CHECK texts, operator classes, policies, functions, grants.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.migrate import migrate

HEADER = "-- What the migrations make. Written by `python -m tests.store.schema`; a test compares.\n\n"
# Comments with versions, settings of the session that restores, and the random key of psql's restricted mode.
_VOLATILE = re.compile(r"^(--.*|SET .*|SELECT pg_catalog\.set_config.*|\\(un)?restrict .*)\n", re.MULTILINE)


def schema_sql(postgres: EmbeddedPostgres, url: str) -> str:
    done = subprocess.run(
        [postgres.bin_dir / "pg_dump", "--schema-only", "--no-owner", "--schema=memory", f"--dbname={url}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return HEADER + re.sub(r"\n{3,}", "\n\n", _VOLATILE.sub("", done.stdout)).strip() + "\n"


def main() -> None:
    # As root Postgres runs under another account, which must get through to its files.
    with tempfile.TemporaryDirectory(prefix="memory-service-schema-") as path:
        postgres = EmbeddedPostgres.start(Path(path))
        try:
            migrate(postgres.uri)
            sys.stdout.write(schema_sql(postgres, postgres.uri))
        finally:
            postgres.stop()


if __name__ == "__main__":
    main()
