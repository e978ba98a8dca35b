"""What calls of models used and cost: sums over the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from memory_service.api import answers, render
from memory_service.api.deps import FIRST_MOMENT, LAST_MOMENT, Ctx, json_response
from memory_service.api.routing import CanonicalRoute
from memory_service.api.schemas import Id, ModelName
from memory_service.store import usage as usage_store
from memory_service.store.pages import Order, Page, PageQuery
from memory_service.store.usage import Group, GroupBy, Selection, Sums

router = APIRouter(prefix="/v1", route_class=CanonicalRoute, tags=["usage"])
_PRICED = "Of the calls whose price is known; null if none is."


def _in_time(moment: datetime) -> datetime:
    if not FIRST_MOMENT <= moment <= LAST_MOMENT:
        raise ValueError("must be a time after 1970 and before 9999")
    return moment.astimezone(UTC)


Moment = Annotated[AwareDatetime, AfterValidator(_in_time)]


class UsageSums(BaseModel):
    calls: int = Field(description="Calls of a model whose usage was reported.")
    calls_without_price: int = Field(description="Those among them of models without a known price.")
    cache_read_tokens: int
    cache_write_tokens: int = Field(description="The sum of the next two.")
    cache_write_5m_tokens: int = Field(description="For less than an hour.")
    cache_write_1h_tokens: int = Field(description="For an hour or longer.")
    uncached_tokens: int = Field(description="Neither read nor written.")
    output_tokens: int
    cache_read_share: float | None = Field(description="Of all input tokens. Null without any.")
    cost_usd: float | None = Field(description=f"The input's price, without output. {_PRICED}")
    cost_usd_uncached: float | None = Field(description=f"The same if nothing had been cached. {_PRICED}")
    saved_usd: float | None = Field(description="The difference: what the prompt cache saved.")
    output_usd: float | None = Field(description=f"The output's price. {_PRICED}")
    total_usd: float | None = Field(description="Input and output.")
    predicted_cache_read_tokens: int = Field(description="As the prompts predicted.")
    predicted_cache_write_tokens: int
    predicted_uncached_tokens: int
    predicted_cost_usd: float | None = Field(description=f"The input's price. {_PRICED}")
    prediction_error: float | None = Field(
        description="By how many of the tokens read the predictions were off, each call for itself, as a share of the "
        "input. Null without a prediction."
    )


class UsageGroup(UsageSums):
    id: str = Field(
        description="The day (UTC), `provider/model`, or the id of the thread or user; empty for calls of no user, and of "
        "threads and users that were deleted."
    )
    object: Literal["usage"]


class Usage(answers.Page[UsageGroup]):
    group_by: GroupBy | None
    totals: UsageSums = Field(description="Over all that was selected, whatever is on the page.")
    misses: dict[str, int] = Field(
        description="Calls that read less from the prompt cache than they might have, by reason: the provider's, ours, or "
        "what the prompt had foreseen."
    )


def _selection(
    since: Annotated[Moment | None, Query(description="Calls from then on.")] = None,
    until: Annotated[Moment | None, Query(description="Calls before then.")] = None,
    model: Annotated[ModelName | None, Query(description="As prompts name it.")] = None,
    thread_id: Annotated[Id | None, Query()] = None,
    user_id: Annotated[Id | None, Query(description="Whose thread it was when the model was called.")] = None,
) -> Selection:
    return Selection(since, until, model, thread_id, user_id)


def _page(
    group_by: Annotated[GroupBy | None, Query(description="Without it there are totals only.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Groups on a page.")] = 20,
    order: Annotated[
        Order | None,
        Query(description="Of days in time (`asc` by default), of other groups by their cost (`desc` by default)."),
    ] = None,
    after: Annotated[str | None, Query(description="Id of the group before the page.", max_length=600)] = None,
    before: Annotated[str | None, Query(description="Id of the group behind the page.", max_length=600)] = None,
) -> PageQuery:
    return PageQuery(limit, order or ("asc" if group_by == "day" else "desc"), after, before)


@router.get("/usage", response_model=Usage)
async def get_usage(
    context: Ctx,
    selected: Annotated[Selection, Depends(_selection)],
    page: Annotated[PageQuery, Depends(_page)],
    group_by: GroupBy | None = None,
) -> Response:
    """What calls of models read, wrote and cost, against no caching and against what was predicted."""
    async with context.runtime.db.read_only(context.project_id) as session:
        groups: Page[Group] = Page((), False)
        if group_by is not None:
            groups = await usage_store.sum_groups(session, selected, group_by, page)
        totals = await usage_store.sum_all(session, selected)
        misses = await usage_store.count_misses(session, selected)
    shown = render.page(groups, lambda group: {"id": group.id, "object": "usage", **_sums(group.sums)})
    return json_response({**shown, "group_by": group_by, "totals": _sums(totals), "misses": misses})


def _sums(sums: Sums) -> dict[str, Any]:
    written = sums.cache_write_5m_tokens + sums.cache_write_1h_tokens
    input_tokens = sums.cache_read_tokens + written + sums.uncached_tokens
    return {
        "calls": sums.calls,
        "calls_without_price": sums.calls_without_price,
        "cache_read_tokens": sums.cache_read_tokens,
        "cache_write_tokens": written,
        "cache_write_5m_tokens": sums.cache_write_5m_tokens,
        "cache_write_1h_tokens": sums.cache_write_1h_tokens,
        "uncached_tokens": sums.uncached_tokens,
        "output_tokens": sums.output_tokens,
        "cache_read_share": _share(sums.cache_read_tokens, input_tokens),
        "cost_usd": _usd(sums.cost_usd),
        "cost_usd_uncached": _usd(sums.cost_usd_uncached),
        "saved_usd": _usd(_difference(sums.cost_usd_uncached, sums.cost_usd)),
        "output_usd": _usd(sums.output_usd),
        "total_usd": _usd(_together(sums.cost_usd, sums.output_usd)),
        "predicted_cache_read_tokens": sums.predicted_cache_read_tokens,
        "predicted_cache_write_tokens": sums.predicted_cache_write_tokens,
        "predicted_uncached_tokens": sums.predicted_uncached_tokens,
        "predicted_cost_usd": _usd(sums.predicted_cost_usd),
        "prediction_error": _share(sums.mispredicted_tokens, int(sums.predicted_input_tokens)),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _usd(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


def _difference(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return None if one is None or other is None else one - other


def _together(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return None if one is None and other is None else (one or Decimal()) + (other or Decimal())
