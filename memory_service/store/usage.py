"""The usage ledger: an entry for each call of a model, and sums over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from memory_service.store.db import Session
from memory_service.store.pages import Page, PageQuery, fetch_page
from memory_service.store.session import text

Kind = Literal["report", "run", "prewarm"]
Usd = float | Decimal | None
GroupBy = Literal["day", "model", "thread", "user"]
_IDS: Mapping[GroupBy, str] = {
    "day": "to_char(called_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "model": "provider || '/' || model",
    "thread": "coalesce(thread_id, '')",
    "user": "coalesce(user_id, '')",
}
_INPUT = "cache_read_tokens::bigint + cache_write_5m_tokens + cache_write_1h_tokens + uncached_tokens"
_COUNTED = (
    *("cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "uncached_tokens", "output_tokens"),
    *("predicted_cache_read_tokens", "predicted_cache_write_tokens", "predicted_uncached_tokens"),
)
_PAID = ("cost_usd", "cost_usd_uncached", "output_usd", "predicted_cost_usd")
_PREDICTED = "FILTER (WHERE predicted_cache_read_tokens IS NOT NULL)"
_SUMS = ", ".join(
    (
        "count(*) AS calls",
        "count(*) FILTER (WHERE cost_usd IS NULL OR output_usd IS NULL) AS calls_without_price",
        *(f"coalesce(sum({name}), 0) AS {name}" for name in _COUNTED),
        *(f"sum({name}) AS {name}" for name in _PAID),
        f"coalesce(sum(abs(cache_read_tokens - predicted_cache_read_tokens)) {_PREDICTED}, 0) AS mispredicted_tokens",
        f"coalesce(sum({_INPUT}) {_PREDICTED}, 0) AS predicted_input_tokens",
    )
)


@dataclass(frozen=True, slots=True)
class Entry:
    """As the columns of `tables.UsageEntry`. Prices are written as floats, and read as Postgres keeps them."""

    kind: Kind
    called_at: datetime
    thread_id: str | None
    user_id: str | None
    prompt_id: str | None
    run_id: str | None
    provider: str
    model: str
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    uncached_tokens: int
    output_tokens: int
    cost_usd: Usd
    cost_usd_uncached: Usd
    output_usd: Usd
    predicted_cache_read_tokens: int | None
    predicted_cache_write_tokens: int | None
    predicted_uncached_tokens: int | None
    predicted_cost_usd: Usd
    miss_reason: str | None
    miss: str | None


#: Before all entries.
BEGINNING = (datetime(1970, 1, 1, tzinfo=UTC), 0)
_ENTRY = tuple(Entry.__dataclass_fields__)
_ADD = text(
    f"INSERT INTO usage_entries (project_id, {', '.join(_ENTRY)})"
    f" VALUES (:project_id, {', '.join(f':{name}' for name in _ENTRY)})"
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which calls: from `since` on, before `until`, and of what is named."""

    since: datetime | None = None
    until: datetime | None = None
    model: str | None = None
    thread_id: str | None = None
    user_id: str | None = None

    def condition(self) -> str:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        compared = {"since": "called_at >= :since", "until": "called_at < :until"}
        return " AND ".join(["project_id = :project_id", *(compared.get(name, f"{name} = :{name}") for name in given)])


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over calls. Prices are of those calls whose price was known, None where it was of none; predictions of those
    calls that had one: `mispredicted_tokens` is by how many tokens read they were off, each call for itself, out of
    `predicted_input_tokens`.
    """

    calls: int
    calls_without_price: int
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    uncached_tokens: int
    output_tokens: int
    predicted_cache_read_tokens: int
    predicted_cache_write_tokens: int
    predicted_uncached_tokens: int
    cost_usd: Decimal | None
    cost_usd_uncached: Decimal | None
    output_usd: Decimal | None
    predicted_cost_usd: Decimal | None
    mispredicted_tokens: int
    predicted_input_tokens: int


@dataclass(frozen=True, slots=True)
class Group:
    """`id`: the day in UTC, `provider/model`, or the thread's or user's id; empty for calls of none, or of one erased."""

    id: str
    sums: Sums


async def add_entry(session: Session, entry: Entry) -> None:
    await session.post(_ADD, {"project_id": session.info["project_id"], **asdict(entry)})


def _sums(row: Any) -> Sums:
    return Sums(**{name: getattr(row, name) for name in Sums.__dataclass_fields__})


def _parameters(session: Session, selection: Selection) -> dict[str, Any]:
    given = {name: value for name, value in asdict(selection).items() if value is not None}
    return {"project_id": session.info["project_id"], **given}


async def sum_all(session: Session, selection: Selection) -> Sums:
    found = await session.execute(
        text(f"SELECT {_SUMS} FROM usage_entries WHERE {selection.condition()}"), _parameters(session, selection)
    )
    return _sums(found.one())


async def sum_groups(session: Session, selection: Selection, group_by: GroupBy, query: PageQuery) -> Page[Group]:
    """Days in their order; other groups by what they cost, then by their tokens. Raises InvalidInput."""
    rows, has_more = await fetch_page(
        session,
        query,
        columns="*",
        table=(
            f"(SELECT project_id, {_IDS[group_by]} AS id, {_SUMS}, sum({_INPUT}) AS input_tokens,"
            " coalesce(sum(cost_usd), 0) + coalesce(sum(output_usd), 0) AS total_usd"
            f" FROM usage_entries WHERE {selection.condition()} GROUP BY 1, 2) AS groups"
        ),
        key=("id",) if group_by == "day" else ("total_usd", "input_tokens", "id"),
        where="true",
        parameters=_parameters(session, selection),
    )
    return Page(tuple(Group(row.id, _sums(row)) for row in rows), has_more)


async def count_misses(session: Session, selection: Selection) -> dict[str, int]:
    """How many calls read less from the prompt cache than they might have, by reason, most first."""
    rows = await session.execute(
        text(
            f"SELECT miss_reason, count(*) FROM usage_entries WHERE {selection.condition()} AND miss_reason IS NOT NULL"
            " GROUP BY 1 ORDER BY 2 DESC, 1"
        ),
        _parameters(session, selection),
    )
    return {row[0]: row[1] for row in rows}


async def count_of_user(session: Session, user_id: str) -> int:
    count: int = await session.scalar(
        text("SELECT count(*) FROM usage_entries WHERE project_id = :project_id AND user_id = :user_id"),
        {"project_id": session.info["project_id"], "user_id": user_id},
    )
    return count


async def entries_after(
    session: Session, user_id: str, last: tuple[datetime, int], limit: int
) -> list[tuple[tuple[datetime, int], Entry]]:
    """The oldest entries of a user behind a place, each with its own."""
    rows = await session.execute(
        text(
            f"SELECT pk, {', '.join(_ENTRY)} FROM usage_entries WHERE project_id = :project_id AND user_id = :user_id"
            " AND (called_at, pk) > (:called_at, :pk) ORDER BY called_at, pk LIMIT :limit"
        ),
        {
            "project_id": session.info["project_id"],
            "user_id": user_id,
            "called_at": last[0],
            "pk": last[1],
            "limit": limit,
        },
    )
    return [((row.called_at, row.pk), Entry(*row[1:])) for row in rows]


async def forget_threads(session: Session, thread_ids: Sequence[str]) -> None:
    """Forget which threads were called for. What it cost stays, and stays their users'."""
    await session.execute(
        text(
            "UPDATE usage_entries SET thread_id = NULL, prompt_id = NULL, run_id = NULL, miss = NULL"
            " WHERE project_id = :project_id AND thread_id = ANY (:ids)"
        ),
        {"project_id": session.info["project_id"], "ids": list(thread_ids)},
    )


async def forget_user(session: Session, user_id: str, limit: int) -> int:
    """Forget for whom was called, in so many entries at most. How many it were."""
    forgotten = await session.execute(
        text(
            "UPDATE usage_entries SET user_id = NULL, thread_id = NULL, prompt_id = NULL, run_id = NULL, miss = NULL"
            " WHERE pk = ANY (ARRAY(SELECT pk FROM usage_entries WHERE project_id = :project_id AND user_id = :user_id"
            " LIMIT :limit)) RETURNING 1"
        ),
        {"project_id": session.info["project_id"], "user_id": user_id, "limit": limit},
    )
    return len(forgotten)
