"""A thread without a service: what services/planning.py does around the core, with a counter that is exact."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from memory_service.core.canonical import dumps, loads
from memory_service.core.closing import without_thinking
from memory_service.core.content import check_content
from memory_service.core.counting import counted_text, thinking_text
from memory_service.core.forms import to_request
from memory_service.core.images import media_tokens
from memory_service.core.lane import Kept, Lane
from memory_service.core.layout import Layout, StablePart, render_pieces
from memory_service.core.messages import (
    Block,
    Message,
    Tail,
    extend_tail,
    group_turns,
    mend,
    opens_turn,
)
from memory_service.core.plan import Outline, RecallSpec, complete, outline
from memory_service.core.pricing import Model
from memory_service.core.prompt import Prompt
from memory_service.core.quoting import Candidate, Quotable, pack
from memory_service.core.recall import index_entry, rank, relevant
from memory_service.core.request import Request
from memory_service.core.shorten import shorten
from memory_service.core.tokens import Scale, TokenCounts
from memory_service.core.truncation import TruncationStrategy
from memory_service.core.volatile import Volatile
from memory_service.core.window import Window, check_open_calls

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

CLAUDE = Model(
    name="claude",
    provider="anthropic",
    cache_rule="anthropic_breakpoints",
    input_usd=5.0,
    output_usd=25.0,
    cache_read_usd=0.5,
    cache_write_ratio=1.25,
    cache_write_1h_ratio=2.0,
    ttl_seconds=300,
)
CLAUDE_BINDING = replace(CLAUDE, name="claude-binding", binds_thinking=True)
GPT_EXPLICIT = Model(
    name="gpt-explicit",
    provider="openai",
    cache_rule="openai_breakpoints",
    input_usd=2.0,
    output_usd=10.0,
    cache_read_usd=0.2,
    cache_write_ratio=1.25,
    ttl_seconds=1800,
    takes_prompt_cache_key=True,
)
GPT_AUTOMATIC = Model(
    name="gpt-automatic",
    provider="openai",
    cache_rule="longest_prefix",
    input_usd=2.5,
    output_usd=10.0,
    cache_read_usd=0.25,
    takes_prompt_cache_key=True,
)
UNPRICED = Model(name="local", provider="openai", cache_rule="longest_prefix")


@dataclass(frozen=True)
class Tokenizer:
    """Counts a text, and the linear function of the counts that gives the tokens exactly."""

    name: str
    count: Callable[[str], TokenCounts]
    scale: Scale

    def tokens(self, text: str) -> int:
        return self.scale.ceil(self.count(text))


BYTES = Tokenizer(
    "bytes", lambda text: TokenCounts(text_bytes=len(text.encode())), Scale((12.0, 8.0, 0.0, 0.0, 1.0, 1.0))
)
SEVENTHS = Tokenizer("sevenths", lambda text: TokenCounts(latin=len(text) // 7), Scale((4.0, 4.0, 1.0, 1.0, 0.0, 1.0)))
# As learnt: no round numbers, and what goes by bytes and by words at once.
LEARNT = Tokenizer(
    "learnt",
    lambda text: TokenCounts(latin=len(text) // 7, text_bytes=len(text.encode())),
    Scale((7.31, 4.07, 0.771, 1.303, 0.0973, 1.049)),
)


@dataclass(frozen=True)
class Spec:
    """What a prompt is asked with: as services.planning.PromptSpec, settled."""

    model: Model = CLAUDE
    max_prompt_tokens: int = 8_000
    strategy: TruncationStrategy = TruncationStrategy()
    recall: bool = True
    recall_tokens: int | None = None
    context: tuple[str, ...] = ()
    ttl: str | None = "5m"
    refresh: bool = False


@dataclass(frozen=True)
class Built:
    """A prompt with all it was made of, and the request as the SDK would send it."""

    spec: Spec
    request: Request
    lane_before: Lane | None
    window: Window
    prompt: Prompt
    messages: tuple[Message, ...]
    body: Mapping[str, Any]
    at: float

    @property
    def text(self) -> str:
        return dumps(self.body)


@dataclass
class Simulator:
    """One thread. `page` is how many messages the newest page holds that is loaded for a prompt."""

    tokenizer: Tokenizer = BYTES
    tools: tuple[Block, ...] = ()
    shared: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    page: int = 200
    now: float = EPOCH.timestamp()
    messages: list[Message] = field(default_factory=list)
    index: dict[int, bytes] = field(default_factory=dict)
    lanes: dict[str, Lane] = field(default_factory=dict)
    volatile: dict[str, str] = field(default_factory=dict)  # by prompt
    shared_sent_at: float | None = None
    reported_at: float = 0.0  # when the newest prompt was built that was reported
    last_seq: int = 0
    tail: Tail = Tail()

    def append(self, role: str, content: str | Sequence[Block]) -> Message:
        """Raises InvalidMessage."""
        blocks = check_content(role, content if isinstance(content, str) else list(content), "content")
        self.tail = extend_tail(self.tail, role, blocks, "content")
        self.last_seq += 1
        message = self._message(self.last_seq, role, blocks)
        self.messages.append(message)
        self.index[message.seq] = index_entry(message.seq, message.role, message.text)
        return message

    def edit(self, at: int, content: str | Sequence[Block]) -> None:
        """Change the message at an index. Raises InvalidMessage and changes nothing."""
        old = self.messages[at]
        blocks = check_content(old.role, content if isinstance(content, str) else list(content), "content")
        new = self._message(old.seq, old.role, blocks)
        self._replace([*self.messages[:at], new, *self.messages[at + 1 :]], old.seq)
        self.index[new.seq] = index_entry(new.seq, new.role, new.text)

    def delete(self, at: int) -> None:
        """Raises InvalidMessage and changes nothing."""
        old = self.messages[at]
        self._replace([*self.messages[:at], *self.messages[at + 1 :]], old.seq, deleted=True)
        del self.index[old.seq]

    def fork(self, count: int) -> Simulator:
        """A thread with a copy of the first messages, which has built no prompt yet."""
        kept = self.messages[:count]
        forked = replace(
            self, messages=[], index={m.seq: self.index[m.seq] for m in kept}, lanes={}, volatile={}, tail=Tail()
        )
        forked.last_seq = kept[-1].seq
        forked._replace(kept, forked.last_seq)
        return forked

    def _replace(self, messages: list[Message], seq: int, *, deleted: bool = False) -> None:
        tail = Tail()
        for message in messages:
            tail = extend_tail(tail, message.role, message.content, "content")
        self.messages, self.tail = messages, tail
        self.lanes = {key: lane.after_edit(seq, deleted=deleted) for key, lane in self.lanes.items()}

    def build(self, spec: Spec) -> Built:
        """Plan, assemble and remember. Raises NoUserMessage and PromptTooLarge."""
        built = self.plan(spec)
        # As it is stored, newest last.
        self.lanes.pop(built.request.lane_key, None)
        id_ = f"prompt_{len(self.volatile)}"
        self.volatile[id_] = dumps(built.prompt.volatile)
        lane = built.prompt.lane.stored_with(id_)
        self.lanes[built.request.lane_key] = Lane.from_json(json.loads(dumps(lane)))
        return built

    def plan(self, spec: Spec) -> Built:
        scale = self.tokenizer.scale
        request = Request(
            provider=spec.model.provider,
            model=spec.model,
            model_name=spec.model.name,
            max_prompt_tokens=spec.max_prompt_tokens,
            max_output_tokens=1_000,
            strategy=spec.strategy,
            ttl=spec.ttl,
        )
        stable = self.stable_part()
        lane = self.lanes.get(request.lane_key)
        request = request.in_lane(lane, self.now)
        messages, more_before = self._load(lane, spec)
        check_open_calls(self.tail.open_tool_use_ids, messages)
        outlined = outline(
            request,
            stable,
            messages,
            scale,
            self.tokenizer.count,
            lane=lane,
            other_lanes={key: self.lanes[key] for key in reversed(self.lanes) if key != request.lane_key},
            shared_sent_at=self.shared_sent_at,
            recall=RecallSpec(spec.recall, spec.recall_tokens),
            context=spec.context,
            more_before=more_before,
            refresh=spec.refresh,
            now=self.now,
        )
        window, recalled = outlined.window, []
        if outlined.query is not None:
            recalled = pack(
                self._candidates(outlined), outlined.recall_tokens, self.tokenizer.tokens, outlined.recalled_text
            )
        prompt = complete(outlined, recalled, self.tokenizer.count, self.now)
        body = to_request(request, prompt.layout, "thread_1")
        return Built(spec, request, lane, window, prompt, tuple(messages), body, self.now)

    def sent(self, built: Built) -> None:
        key, self.reported_at = built.request.lane_key, max(self.reported_at, built.at)
        if key in self.lanes:
            self.lanes[key] = self.lanes[key].after_sent(built.prompt.tail, built.at)

    def rebuild(self, built: Built) -> Mapping[str, Any]:
        """The request once more, from what services/rebuilding.py takes of a prompt."""
        facts = json.loads(
            dumps(  # through JSON
                {
                    "marks": built.prompt.layout.marks,
                    "volatile": asdict(built.prompt.volatile),
                    "cuts": built.window.cuts,
                    "kept": [(k.first_seq, k.last_seq, k.source, k.thinking_from) for k in built.window.kept],
                    "thinking_from": built.window.thinking_from,
                }
            )
        )
        shown = [m for m in self.messages if built.window.first_seq <= m.seq <= built.window.last_seq]
        again = [replace(m, content=tuple(loads(dumps(m.content)))) for m in shown]
        kept = [
            Kept(first, last, Volatile.from_json(json.loads(self.volatile[source])), TokenCounts(), source, since)
            for first, last, source, since in facts["kept"]
        ]
        tools, shared, own = loads(dumps([self.tools, self.shared, self.own]))
        turns, _ = mend(group_turns(shorten(again, facts["cuts"], self.tokenizer.count)))
        layout = Layout(
            StablePart(tuple(tools), tuple(shared), tuple(own)),
            render_pieces(
                (*turns[:-1], without_thinking(turns[-1], facts["thinking_from"])),
                Volatile.from_json(facts["volatile"]),
                kept,
            ),
            tuple(facts["marks"]),
            built.prompt.layout.mark_shared,
        )
        return to_request(built.request, layout, "thread_1")

    def stable_part(self) -> StablePart:
        system = self.tokenizer.count("\n".join((*self.shared, *self.own)))
        return StablePart(
            self.tools,
            self.shared,
            self.own,
            tuple(text for text in (*self.shared, *self.own) if not text.startswith("<document")),
            self.tokenizer.count(dumps(self.tools) if self.tools else ""),
            replace(system, messages=1 if self.shared or self.own else 0),
        )

    def _load(self, lane: Lane | None, spec: Spec) -> tuple[list[Message], bool]:
        rest = [m for m in self.messages if lane is None or m.seq >= lane.first_seq]
        loaded: list[Message] = []
        size, tokens = self.page, 0.0
        whole = spec.strategy.shorten_tool_results
        while rest and (
            tokens <= spec.max_prompt_tokens or (whole and not any(opens_turn(m.role, m.content) for m in loaded))
        ):
            page = rest[-size:]
            rest = rest[:-size]
            loaded = page + loaded
            tokens += sum(self.tokenizer.scale.tokens(m.counts) for m in page)
            size *= 3
        return loaded, bool(rest)

    def _candidates(self, outlined: Outline) -> list[Candidate]:
        hidden = [m for m in self.messages if m.seq < outlined.window.first_seq]
        by_seq = {m.seq: m for m in hidden}
        hits = relevant(
            rank(b"".join(self.index[m.seq] for m in hidden), outlined.query or "", outlined.ranked_passages)
        )
        candidates = []
        for hit in hits:
            message = by_seq[hit.seq]
            quotable = Quotable(message.id, message.role, message.text, message.created_at)
            candidates.append(Candidate(hit, quotable.quote(hit.passage)))
        return candidates

    def _message(self, seq: int, role: str, blocks: Sequence[Block]) -> Message:
        counts = self.tokenizer.count(counted_text(blocks))
        thinking = self.tokenizer.count(thinking_text(blocks))
        return Message(
            seq=seq,
            id=f"msg_{seq}",
            role="assistant" if role == "assistant" else "user",
            content=tuple(blocks),
            counts=replace(counts, messages=1, images=sum(map(media_tokens, blocks))),
            created_at=EPOCH + timedelta(minutes=seq),
            thinking_tokens=thinking.latin + thinking.other + -(-thinking.text_bytes // 4),
        )
