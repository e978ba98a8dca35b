"""What was learnt of a model is shown, and can be forgotten."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from .support import MODEL, build, new_thread, ok, refused

ESTIMATE = f"/v1/estimates?provider=anthropic&model={MODEL}"


def report(api: httpx2.Client, usage: dict[str, Any], **body: Any) -> dict[str, Any]:
    thread = new_thread(api, ("user", "hi"))["id"]
    prompt = ok(build(api, thread, **body), 201)
    answer: dict[str, Any] = ok(api.post(f"/v1/threads/{thread}/prompts/{prompt['id']}/usage", json={"usage": usage}))
    return answer


def learnt(api: httpx2.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ok(api.get("/v1/estimates"))["data"]
    return found


def test_an_estimate_learns_is_shown_and_forgotten(api: httpx2.Client) -> None:
    assert learnt(api) == []
    for _ in range(4):
        report(api, {"input_tokens": 30})
    (shown,) = learnt(api)
    assert (shown["id"], shown["provider"], shown["model"]) == (f"anthropic/{MODEL}", "anthropic", MODEL)
    assert (shown["observations"], shown["calibrated"]) == (4, False)
    assert 0 <= shown["error"] < 0.2
    assert 0 < shown["margin"] < 0.2
    deleted = {"id": f"anthropic/{MODEL}", "object": "estimate.deleted", "deleted": True}
    assert ok(api.delete(ESTIMATE)) == deleted
    assert learnt(api) == []
    refused(api.delete(ESTIMATE), 404, "not_found", says=MODEL)
    refused(api.delete("/v1/estimates?model=x"), 422, field="provider")


def test_another_projects_estimates(api: httpx2.Client, other_api: httpx2.Client) -> None:
    report(other_api, {"input_tokens": 30})
    assert learnt(api) == []
    refused(api.delete(ESTIMATE), 404)
    assert len(learnt(other_api)) == 1


@pytest.mark.parametrize(("ttl", "write_ratio"), [("5m", 1.25), ("1h", 2.0)])
def test_what_was_reported_is_priced(api: httpx2.Client, ttl: str, write_ratio: float) -> None:
    """Input by how it was billed, output apart."""
    usage = {"input_tokens": 10, "cache_creation_input_tokens": 1_000, "output_tokens": 500}
    assistant = ok(api.post("/v1/assistants", json={"instructions": "Be kind."}), 201)
    thread = new_thread(api, ("user", "hi"), assistant_id=assistant["id"])["id"]
    prompt = ok(build(api, thread, cache={"ttl": ttl}), 201)
    path = f"/v1/threads/{thread}/prompts/{prompt['id']}/usage"
    reported = ok(api.post(path, json={"usage": usage}))["reported"]
    per_token = reported["output_usd"] / 500
    assert reported["cost_usd"] == pytest.approx((10 + 1_000 * write_ratio) * per_token / 5)


def test_without_a_price_there_is_no_cost(api: httpx2.Client) -> None:
    reported = report(api, {"input_tokens": 10, "output_tokens": 5}, model="unheard-of")["reported"]
    assert (reported["cost_usd"], reported["output_usd"]) == (None, None)
