from __future__ import annotations

from typing import Literal

Order = Literal["asc", "desc"]


def page_query(
    limit: int | None, after: str | None, before: str | None, order: Order | None
) -> dict[str, str | int | None]:
    return {"limit": limit, "after": after, "before": before, "order": order}
