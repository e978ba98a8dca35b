"""Pages of a list: a cursor is the id of a row that the page stands next to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from memory_service.errors import InvalidInput
from memory_service.store.db import Session
from memory_service.store.session import text

T = TypeVar("T")
Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class PageQuery:
    """`after` and `before` are ids; at most one of them. `lenient`: next to an id that is not there, there is nothing."""

    limit: int
    order: Order
    after: str | None = None
    before: str | None = None
    lenient: bool = False

    def __post_init__(self) -> None:
        if self.after is not None and self.before is not None:
            raise InvalidInput("Give `after` or `before`, not both.", field="before")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: tuple[T, ...]
    has_more: bool


async def fetch_page(
    session: Session,
    query: PageQuery,
    *,
    columns: str,
    table: str,
    key: Sequence[str],
    where: str,
    parameters: Mapping[str, Any],
    cursor_where: str | None = None,
) -> tuple[list[Any], bool]:
    """Rows next to the cursor in the order of `key`, and whether more follow in that direction.

    All arguments but `query` and the values in `parameters` are the store's own text. `cursor_where` is for cursors that
    are not in the list any more. Raises InvalidInput when the cursor names no row, unless the query is
    lenient.
    """
    cursor_id, field = (query.after, "after") if query.after is not None else (query.before, "before")
    # Going back from a cursor reads in the opposite direction and turns the rows around.
    ascending = (query.order == "asc") == (query.before is None)
    values = dict(parameters)
    conditions = [where]
    if cursor_id is not None:
        found = await session.execute(
            text(
                # By its id, and not through all that the condition is true of, which Postgres may take for few.
                f"WITH found AS MATERIALIZED (SELECT * FROM {table} WHERE project_id = :project_id AND id = :cursor_id)"
                f" SELECT {', '.join(key)} FROM found WHERE {cursor_where or where}"
            ),
            {**parameters, "project_id": session.info["project_id"], "cursor_id": cursor_id},
        )
        row = found.first()
        if row is None and query.lenient:
            return [], False
        if row is None:
            raise InvalidInput(
                f"`{field}` names no item of this list; pass the id of one, such as `last_id` of a page.",
                field=field,
            )
        values |= {f"cursor_{i}": value for i, value in enumerate(row)}
        names = ", ".join(f":cursor_{i}" for i in range(len(key)))
        conditions.append(f"({', '.join(key)}) {'>' if ascending else '<'} ({names})")
    direction = "ASC" if ascending else "DESC"
    rows = await session.execute(
        text(
            f"SELECT {columns} FROM {table} WHERE {' AND '.join(conditions)}"
            f" ORDER BY {', '.join(f'{column} {direction}' for column in key)} LIMIT :page_limit"
        ),
        {**values, "page_limit": query.limit + 1},
    )
    page = rows[: query.limit]
    return (page[::-1] if query.before is not None else page), len(rows) > query.limit
