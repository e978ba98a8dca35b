"""What a prompt says of itself, and what is kept of it so that it can be shown again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from memory_service.core.forms import request_digest, to_request
from memory_service.services.estimates import Count
from memory_service.services.planning import Plan

# What the provider counted, for each plan that it was asked about; the last is the one that is answered.
Counts = list[tuple[Plan, Count]]


@dataclass(frozen=True, slots=True)
class BuiltPrompt:
    """A prompt as it is shown. `request` is None when a message it held was deleted since; `request_missing` says so."""

    id: str | None
    thread_id: str
    status: str
    created_at: datetime
    explanation: Mapping[str, Any]
    request: Mapping[str, Any] | None
    request_missing: str | None = None
    usage: str | None = None
    reply_seq: int | None = None


def rebuild_facts(planned: Plan, counts: Counts) -> dict[str, Any]:
    request, prompt = planned.request, planned.prompt
    return {
        "provider": request.provider,
        "model": request.model_name,
        "max_output_tokens": request.max_output_tokens,
        "max_prompt_tokens": request.max_prompt_tokens,
        "strategy": asdict(request.strategy),
        "ttl": request.ttl,
        "first_seq": planned.window.first_seq,
        "last_seq": planned.window.last_seq,
        "marks": prompt.layout.marks,
        "mark_shared": prompt.layout.mark_shared,
        "counts": asdict(prompt.counts),
        "counted_tokens": counts[-1][1].tokens if counts else None,
        "tail": asdict(prompt.tail) if prompt.tail else None,
        "cuts": planned.window.cuts,
        "kept": [(k.first_seq, k.last_seq, k.source, k.thinking_from) for k in planned.window.kept],
        "thinking_from": planned.window.thinking_from,
    }


def show(planned: Plan, counts: Counts, id: str | None, now: datetime) -> BuiltPrompt:
    request = to_request(planned.request, planned.prompt.layout, planned.thread.id)
    return BuiltPrompt(
        id=id,
        thread_id=planned.thread.id,
        status="built",
        created_at=now,
        explanation=_explain(planned, counts, request_digest(request)),
        request=request,
    )


def _explain(planned: Plan, counts: Counts, digest: str) -> dict[str, Any]:
    prompt, window, request = planned.prompt, planned.window, planned.request
    prediction, model, ttl = prompt.prediction, request.model, request.ttl or "5m"
    first_seq = window.first_seq
    return {
        "provider": request.provider,
        "model": request.model_name,
        "tokens": asdict(prompt.tokens),
        "counted": asdict(counts[-1][1]) if counts else None,
        "prediction": {
            **asdict(prediction),
            "cache_read_from": prompt.read_from,
            "miss": prompt.miss and prompt.miss.text,
            "miss_reason": prompt.miss and prompt.miss.reason,
            "cost_usd": model.cost_usd(
                prediction.cache_read_tokens, prediction.cache_write_tokens, prediction.uncached_tokens, ttl
            ),
            "cost_usd_uncached": model.cost_usd(0, 0, prompt.tokens.total),
        },
        "cache": {"ttl": request.breakpoint_ttl, "why": request.ttl_why},
        "breakpoints": _explain_breakpoints(planned),
        "window": {
            "first_seq": first_seq,
            "last_seq": window.last_seq,
            "trimmed": window.trimmed,
            "reason": window.trim_reason,
        },
        "recall": planned.recall.ranking.explanation if planned.recall else None,
        "recalled": list(prompt.volatile.recalled),
        "kept": [
            {
                "first_seq": kept.first_seq,
                "last_seq": kept.last_seq,
                "tokens": kept.volatile.tokens,
                "recalled_seqs": [recalled["seq"] for recalled in kept.volatile.recalled],
            }
            for kept in window.kept
        ],
        "omitted": [{"first_seq": 1, "last_seq": first_seq - 1, "reason": "before_window"}] if first_seq > 1 else [],
        "breaks": [{k: v for k, v in asdict(b).items() if v != ()} for b in prompt.breaks],
        "hints": list(prompt.hints),
        "repairs": [asdict(r) for r in prompt.repairs],
        "shortened": [asdict(s) for s in window.shortened],
        "prefix_digest": prompt.prefix_digest,
        "request_digest": digest,
    }


def breakpoint_ttl(explanation: Mapping[str, Any]) -> str:
    """How long what a prompt writes into the prompt cache lives, unless the provider says it."""
    return next((str(mark["ttl"]) for mark in explanation["breakpoints"]), "5m")


def _explain_breakpoints(planned: Plan) -> list[dict[str, Any]]:
    prompt = planned.prompt
    layout = prompt.layout
    ttl = planned.request.breakpoint_ttl
    if ttl is None:
        return []
    places: list[dict[str, Any]] = [{"position": "assistant", "seq": None}] if layout.mark_shared else []
    for mark in layout.marks:
        places.append(
            {"position": "message", "seq": layout.pieces[mark].seq}
            if mark >= 0
            else {"position": "system", "seq": None}
        )
    return [
        {**place, "ttl": ttl, "tokens_before": prompt.positions[at].tokens}
        for place, at in zip(places, prompt.breakpoints, strict=False)
    ]
