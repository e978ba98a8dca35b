"""What a prompt is planned from, and the plan itself. Reads only; nothing is stored here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from memory_service.core import plan
from memory_service.core.budget import default_limit
from memory_service.core.canonical import dumps, loads
from memory_service.core.lane import Lane
from memory_service.core.layout import StablePart
from memory_service.core.markup import document_text
from memory_service.core.messages import Block, Message, extend_tail
from memory_service.core.plan import RecallSpec
from memory_service.core.pricing import Model, find_model, provider_of, providers_of
from memory_service.core.prompt import Prompt
from memory_service.core.quoting import Candidate, Recalled, pack
from memory_service.core.request import Request
from memory_service.core.tokens import Scale, TokenCounts, TokenEstimate
from memory_service.core.truncation import TruncationStrategy
from memory_service.core.window import Window, check_open_calls
from memory_service.errors import InvalidInput
from memory_service.runtime import Runtime
from memory_service.services.holding import quotable, read_newest
from memory_service.services.recall import Question, Ranking, rank_thread
from memory_service.store import prompts as prompt_store
from memory_service.store.db import Session
from memory_service.store.messages import NewMessage
from memory_service.store.threads import AssistantRecord, ThreadRecord, get_assistant

DEFAULT_MAX_OUTPUT_TOKENS = 4_096


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """What the caller asked for; None where it left the choice to the assistant or to us."""

    provider: str | None = None
    model: str | None = None
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    strategy: TruncationStrategy | None = None
    recall: RecallSpec | None = None
    context: tuple[str, ...] = ()
    tools: tuple[Block, ...] | None = None
    ttl: str | None = "auto"  # None: no breakpoints
    assistant_id: str | None = None  # instead of the thread's
    instructions: str | None = None  # instead of the assistant's and the thread's
    additional_instructions: str | None = None  # behind these
    refresh: bool = False


@dataclass(frozen=True, slots=True)
class Outline:
    """A prompt of a thread up to what it will recall. `correction`: by what the estimate is multiplied."""

    thread: ThreadRecord
    prompt: plan.Outline
    estimate: TokenEstimate
    correction: float

    @property
    def query(self) -> str | None:
        """What to look for; None when there is nothing to recall."""
        return self.prompt.query


@dataclass(frozen=True, slots=True)
class Recall:
    """What is recalled, best first, and how it was found."""

    recalled: tuple[Recalled, ...]
    ranking: Ranking


@dataclass(frozen=True, slots=True)
class Plan:
    """A prompt that is ready to be stored, and what it was planned from."""

    thread: ThreadRecord
    request: Request
    prompt: Prompt
    window: Window
    recall: Recall | None
    estimate: TokenEstimate
    correction: float


Learnt = tuple[dict[str, Lane], TokenEstimate | None]
"""All lanes of a thread by their keys, newest first; and what was learnt of a model's tokens."""


async def read_learnt(runtime: Runtime, session: Session, thread_id: str, spec: PromptSpec) -> Learnt | None:
    """For the model that was asked for, if one was: then nothing else must be read before."""
    if spec.model is None:
        return None
    return await prompt_store.get_learnt(session, thread_id, _provider_of(runtime, spec, spec.model), spec.model)


async def outline(
    runtime: Runtime,
    session: Session,
    thread: ThreadRecord,
    spec: PromptSpec,
    new: NewMessage | None,
    now: datetime,
    correction: float = 1.0,
    learnt: Learnt | None = None,
) -> Outline:
    """Plan the next prompt of a thread, with `new` as if it had been appended, up to what it will recall. `correction`
    is by what the estimate was found to be too low for it, `learnt` what `read_learnt` found.

    Raises NoUserMessage, PromptTooLarge, InvalidInput, InvalidMessage.
    """
    assistant = await assistant_of(session, thread, spec)
    spec = with_defaults(spec, thread, assistant)
    request = settle(runtime, spec)
    stable = await stable_part(runtime, thread, assistant, spec)
    lanes, known = learnt or await prompt_store.get_learnt(session, thread.id, request.provider, request.model_name)
    estimate = known or prior_estimate(request.model)
    others = {key: lane for key, lane in lanes.items() if key != request.lane_key}
    lane = lanes.get(request.lane_key)
    request = request.in_lane(lane, now.timestamp())
    shared = request.shared_digest(stable)
    shared_sent_at = await prompt_store.shared_sent_at(session, shared) if shared else None
    scale = estimate.scaled()
    messages, more_before = await read_newest(
        runtime, session, thread, lane.first_seq if lane else 1, lambda read: _suffice(read, request, scale)
    )
    open_ids = thread.open_tool_use_ids
    if new is not None:
        content = loads(new.content)
        open_ids = extend_tail(thread.tail, new.role, content, "message.content").open_tool_use_ids
        messages.append(_new_message(new, thread.last_seq + 1))
    check_open_calls(open_ids, messages)
    shown = [message.counts for message in messages]
    outlined = plan.outline(
        request,
        stable,
        messages,
        estimate.scaled(like=TokenCounts.total([stable.system_counts, stable.tool_counts, *shown])).times(correction),
        runtime.counter.count,
        lane=lane,
        other_lanes=others,
        shared_sent_at=shared_sent_at.timestamp() if shared_sent_at else None,
        recall=spec.recall or RecallSpec(),
        context=spec.context,
        more_before=more_before,
        refresh=spec.refresh,
        now=now.timestamp(),
    )
    return Outline(thread, outlined, estimate, correction)


def complete(runtime: Runtime, outlined: Outline, recall: Recall | None, now: datetime) -> Plan:
    """The plan of an outlined prompt with what it recalls."""
    recalled = recall.recalled if recall else ()
    prompt = plan.complete(outlined.prompt, recalled, runtime.counter.count, now.timestamp())
    return Plan(
        outlined.thread,
        outlined.prompt.request,
        prompt,
        outlined.prompt.window,
        recall,
        outlined.estimate,
        outlined.correction,
    )


def settle(runtime: Runtime, spec: PromptSpec) -> Request:
    """Decide all that the caller left open. Raises InvalidInput."""
    name = spec.model or runtime.settings.default_model
    if name is None:
        raise InvalidInput(
            "`model` is missing; name a model, or give the thread an assistant that has one.", field="model"
        )
    provider = _provider_of(runtime, spec, name)
    model = find_model(runtime.models, provider, name)
    _check_sold_by(runtime.models, provider, name)
    max_output_tokens = spec.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS
    limit = spec.max_prompt_tokens or default_limit(model, max_output_tokens)
    if model.context_tokens is not None and limit + max_output_tokens > model.context_tokens:
        raise _beyond_context(spec, name, model.context_tokens, limit, max_output_tokens)
    return Request(
        provider=provider,
        model=model,
        model_name=name,
        max_prompt_tokens=limit,
        max_output_tokens=max_output_tokens,
        strategy=spec.strategy or TruncationStrategy(),
        ttl=spec.ttl,
    )


def _provider_of(runtime: Runtime, spec: PromptSpec, name: str) -> str:
    return spec.provider or provider_of(runtime.models, name) or runtime.settings.default_provider


def at_most(runtime: Runtime, spec: PromptSpec, prompt_tokens: int) -> PromptSpec:
    """With a prompt of so many tokens at most, or fewer where the model takes no more."""
    request = settle(runtime, spec)
    context = request.model.context_tokens
    room = prompt_tokens if context is None else max(1, context - request.max_output_tokens)
    return replace(spec, max_prompt_tokens=min(prompt_tokens, room))


def _beyond_context(spec: PromptSpec, name: str, context: int, limit: int, max_output_tokens: int) -> InvalidInput:
    """Says no figure that the caller did not choose, unless it is needed to understand."""
    if spec.max_prompt_tokens is None:
        return InvalidInput(
            f"`max_output_tokens` ({max_output_tokens}) leaves no room for a prompt: {name} takes {context} tokens at "
            "most, its answer included; lower it.",
            field="max_output_tokens",
            context_tokens=context,
        )
    return InvalidInput(
        f"`max_prompt_tokens` ({limit}) and `max_output_tokens` ({max_output_tokens}) are {limit + max_output_tokens} "
        f"together, but {name} takes {context} tokens at most, its answer included; lower one of them.",
        field="max_prompt_tokens",
        context_tokens=context,
    )


async def stable_part(
    runtime: Runtime,
    thread: ThreadRecord,
    assistant: AssistantRecord | None,
    spec: PromptSpec,
) -> StablePart:
    """Tools and system text, from the most general to the most particular, with their counts."""
    tools: Sequence[Block] | None = spec.tools
    if tools is None:
        chosen = thread.tools or (assistant.tools if assistant else None)
        tools = loads(chosen) if chosen else ()
    said = (assistant.instructions if assistant else None, thread.instructions)
    general, particular = said if spec.instructions is None else (None, spec.instructions)
    additional = spec.additional_instructions
    shared = _system_texts(general, assistant.documents) if assistant else ()
    own = (*_system_texts(particular, thread.documents), *([additional] if additional else ()))
    tool_counts, system_counts = await runtime.count([dumps(tools) if tools else "", "\n".join((*shared, *own))])
    has_system = 1 if shared or own else 0
    instructions = tuple(text for text in (general, particular, additional) if text)
    return StablePart(tuple(tools), shared, own, instructions, tool_counts, replace(system_counts, messages=has_system))


def _system_texts(instructions: str | None, documents: str | None) -> tuple[str, ...]:
    texts = [instructions] if instructions else []
    for document in loads(documents) if documents else ():
        texts.append(document_text(document["text"], document.get("title")))
    return tuple(texts)


def _check_sold_by(models: Sequence[Model], provider: str, name: str) -> None:
    """A model that the table knows from other providers alone would be sent where nobody knows it. Raises InvalidInput."""
    providers = providers_of(models, name)
    if providers and provider not in (*providers, "echo"):
        raise InvalidInput(
            f"`provider` is {provider}, but {name} is a model of {' and '.join(providers)}; leave `provider` out. If a "
            f"server of yours offers it in the form of {provider}, add it to MEMORY_MODELS_FILE.",
            field="provider",
            providers=providers,
        )


async def assistant_of(session: Session, thread: ThreadRecord, spec: PromptSpec) -> AssistantRecord | None:
    """Whose instructions a prompt begins with. Raises NotFound."""
    id_ = spec.assistant_id or thread.assistant_id
    return await get_assistant(session, id_) if id_ else None


def with_defaults(spec: PromptSpec, thread: ThreadRecord, assistant: AssistantRecord | None) -> PromptSpec:
    """The caller's choices first, then the thread's, then the assistant's."""
    defaults = loads(assistant.defaults) if assistant and assistant.defaults else {}
    strategy = thread.truncation_strategy and loads(thread.truncation_strategy)
    strategy = strategy or defaults.get("truncation_strategy")
    recall = defaults.get("recall")
    return replace(
        spec,
        provider=spec.provider or (assistant.provider if assistant and not spec.model else None),
        model=spec.model or (assistant.model if assistant else None),
        max_prompt_tokens=spec.max_prompt_tokens or defaults.get("max_prompt_tokens"),
        max_output_tokens=spec.max_output_tokens or defaults.get("max_output_tokens"),
        strategy=spec.strategy or (TruncationStrategy(**strategy) if strategy else None),
        recall=spec.recall
        or (RecallSpec(enabled=False) if recall is False else RecallSpec(**recall) if recall else None),
    )


def prior_estimate(model: Model) -> TokenEstimate:
    return TokenEstimate.prior(model.tokens_per_o200k_token)


def _suffice(messages: Sequence[Message], request: Request, scale: Scale) -> bool:
    """Whether they are more than the prompt could show. What is to be cut to fit must be there whole."""
    if request.strategy.shorten_tool_results and not any(message.opens_turn for message in messages):
        return False
    return scale.tokens(TokenCounts.total([message.counts for message in messages])) > request.max_prompt_tokens


def _new_message(new: NewMessage, seq: int) -> Message:
    return Message(
        seq=seq,
        id=new.id,
        role="assistant" if new.role == "assistant" else "user",
        content=tuple(loads(new.content)),
        counts=new.counts,
        created_at=new.created_at,
        thinking_tokens=new.thinking_tokens,
    )


async def recall(runtime: Runtime, session: Session, outlined: Outline, question: Question) -> Recall:
    """Older messages that fit the question, as many as fit the prompt."""
    thread, first_seq = outlined.thread, outlined.prompt.window.first_seq
    limit = outlined.prompt.ranked_passages
    ranking = await rank_thread(runtime, session, thread, question, limit, first_seq, only_relevant=True)
    said = await quotable(runtime, session, thread, sorted({hit.seq for hit in ranking.hits}))
    candidates = (Candidate(hit, one.quote(hit.passage)) for hit in ranking.hits if (one := said.get(hit.seq)))
    scale = outlined.prompt.scale
    found = outlined.prompt
    packed = pack(
        candidates,
        found.recall_tokens,
        lambda text: scale.ceil(runtime.counter.count(text)),
        found.recalled_text,
        scale.at_least,
    )
    return Recall(tuple(packed), ranking)
