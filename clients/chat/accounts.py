"""Who is there: accounts with a name and a passphrase in a file of their own, and cookies signed with a key beside them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
import time
from contextlib import closing
from pathlib import Path

COOKIE = "chat_session"
LASTS_SECONDS = 30 * 86_400
_SCHEMA = """
CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY, user_id TEXT UNIQUE, salt BLOB, hash BLOB);
CREATE TABLE IF NOT EXISTS signing_key (only INTEGER PRIMARY KEY CHECK (only = 1), key BLOB);
"""


class Accounts:
    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = directory / "accounts.sqlite"
        with closing(sqlite3.connect(self._file)) as db, db:
            db.executescript(_SCHEMA)
            db.execute("INSERT OR IGNORE INTO signing_key VALUES (1, ?)", (secrets.token_bytes(32),))
            self._key: bytes = db.execute("SELECT key FROM signing_key").fetchone()[0]
        self._file.chmod(0o600)

    def create(self, name: str, passphrase: str) -> str | None:
        """The id of a new user; None if the name is taken."""
        salt, user_id = secrets.token_bytes(16), f"chat_{secrets.token_hex(12)}"
        values = (_same_form(name), user_id, salt, _hash(passphrase, salt))
        with closing(sqlite3.connect(self._file)) as db, db:
            made = db.execute("INSERT OR IGNORE INTO account VALUES (?, ?, ?, ?)", values).rowcount
        return user_id if made else None

    def check(self, name: str, passphrase: str) -> str | None:
        """The user's id; None for a wrong name or passphrase, which take the same time."""
        with closing(sqlite3.connect(self._file)) as db:
            found = db.execute("SELECT user_id, salt, hash FROM account WHERE name = ?", (_same_form(name),)).fetchone()
        user_id, salt, expected = found or (None, b"no such account.", b"")
        return user_id if hmac.compare_digest(_hash(passphrase, salt), expected) else None

    def name_of(self, user_id: str) -> str | None:
        with closing(sqlite3.connect(self._file)) as db:
            found = db.execute("SELECT name FROM account WHERE user_id = ?", (user_id,)).fetchone()
        return found[0] if found else None

    def cookie_for(self, user_id: str) -> str:
        signed = f"{user_id}.{int(time.time()) + LASTS_SECONDS}"
        return f"{signed}.{self._signature(signed)}"

    def user_of(self, cookie: str | None) -> str | None:
        """The user whose cookie this is; None if it was not made here, or is too old."""
        signed, _, signature = (cookie or "").rpartition(".")
        user_id, _, until = signed.rpartition(".")
        if not hmac.compare_digest(self._signature(signed).encode(), signature.encode()) or int(until) < time.time():
            return None
        return user_id

    def _signature(self, signed: str) -> str:
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest()


def _same_form(name: str) -> str:
    return " ".join(name.casefold().split())


def _hash(passphrase: str, salt: bytes) -> bytes:
    return hashlib.scrypt(passphrase.encode(), salt=salt, n=2**14, r=8, p=1)
