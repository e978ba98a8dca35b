"""Recorded conversations made ready to be replayed: what the service would have stored of them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from itertools import accumulate, pairwise

from memory_service.core.canonical import dumps, loads
from memory_service.core.corpus import Floats, count_documents
from memory_service.core.layout import StablePart
from memory_service.core.messages import Block, Message, Tail, extend_tail, opens_turn
from memory_service.core.quoting import Candidate, Quotable
from memory_service.core.recall import index_entry, rank, relevant
from memory_service.core.similarity import common_of
from memory_service.core.terms import passages_of
from memory_service.demo.conversation import Conversation, Line
from memory_service.errors import InvalidInput, InvalidMessage
from memory_service.providers.base import TextCounter, Vectors
from memory_service.providers.embeddings.builtin import BuiltinEmbedder
from memory_service.providers.tokenizers import O200kCounter
from memory_service.services.ingest import Draft, prepare_one

#: Between two messages of which the times are not known.
UNKNOWN_GAP = timedelta(seconds=30)
_BEFORE_ALL = datetime(2026, 1, 1, tzinfo=UTC)

System = tuple[tuple[Block, ...], tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Ask:
    """A place where the model was called: after the first `count` messages, at `at` (epoch seconds)."""

    count: int
    at: float
    opens_turn: bool


@dataclass
class Thread:
    """A conversation as it is stored. `shared_at` are the times at which any thread with its shared part called a model.

    `index` and `vectors` are those of all passages; `passages_before[n]` of these are in the first n messages.
    """

    title: str
    system: System
    messages: Sequence[Message]
    asks: Sequence[Ask]
    counter: TextCounter
    embedder: BuiltinEmbedder
    timed: bool
    shared_at: Sequence[float] = ()
    _queries: dict[str, Vectors] = field(default_factory=dict)

    @cached_property
    def stable(self) -> StablePart:
        tools, shared, own = self.system
        texts = (*shared, *own)
        counts = self.counter.count("\n".join(texts))
        tool_counts = self.counter.count(dumps(tools) if tools else "")
        return StablePart(tools, shared, own, texts, tool_counts, replace(counts, messages=1 if texts else 0))

    def shared_sent_at(self, now: float) -> float | None:
        """When a prompt with this thread's shared part was last sent."""
        before = bisect_left(self.shared_at, now)
        return self.shared_at[before - 1] if before else None

    def candidates(self, before_seq: int, query: str, ranked: int) -> list[Candidate]:
        """What the messages before `before_seq` have to say to a query, best first."""
        count = before_seq - 1
        index = self._index[: self._index_ends[count]]
        hits = relevant(rank(index, query, ranked, self._similarity(count_documents(index), query)))
        return [Candidate(hit, self._quotables[hit.seq - 1].quote(hit.passage)) for hit in hits]

    def _similarity(self, count: int, query: str) -> Floats | None:
        vectors = self._vectors[:count]
        if not count:
            return None
        return (vectors @ (self._embedded(query) - common_of(vectors))).astype("float64")

    @cached_property
    def _quotables(self) -> list[Quotable]:
        return [Quotable(m.id, m.role, m.text, m.created_at) for m in self.messages]

    @cached_property
    def _passages(self) -> list[list[str]]:
        return [passages_of(message.text) for message in self.messages]

    @cached_property
    def _vectors(self) -> Vectors:
        return self.embedder.embed([text for passages in self._passages for text in passages])

    @cached_property
    def _entries(self) -> list[bytes]:
        return [index_entry(message.seq, message.role, message.text) for message in self.messages]

    @cached_property
    def _index(self) -> bytes:
        return b"".join(self._entries)

    @cached_property
    def _index_ends(self) -> list[int]:
        return list(accumulate(map(len, self._entries), initial=0))

    def _embedded(self, query: str) -> Vectors:
        if query not in self._queries:
            self._queries[query] = self.embedder.embed([query])[0]
        return self._queries[query]


def read_threads(conversations: Iterable[Conversation]) -> list[Thread]:
    """Threads in which a model was called at least once. Raises InvalidInput for what the service would refuse."""
    counter, embedder = _counter(), _embedder()
    found = list(conversations)
    systems = _systems(found)
    threads: list[Thread] = []
    start = _BEFORE_ALL
    for conversation, system in zip(found, systems, strict=True):
        times = _times(conversation.lines, start)
        start = max(start, times[-1]) + UNKNOWN_GAP
        thread = _thread(conversation, system, times, counter, embedder)
        if thread.asks:
            threads.append(thread)
    if not threads:
        raise InvalidInput("In these files no assistant message follows a user message, so no model was ever called.")
    _note_sharing(threads)
    return threads


@cache
def _counter() -> O200kCounter:
    return O200kCounter()


@cache
def _embedder() -> BuiltinEmbedder:
    return BuiltinEmbedder()


def _systems(conversations: Sequence[Conversation]) -> list[System]:
    """The stable parts. What several conversations have word for word is an application's own, as an assistant's is."""
    own = [(one.tools, one.system, one.documents) for one in conversations]
    keys = [dumps([tools, system, documents]) for tools, system, documents in own]
    many = {key for key, count in Counter(keys).items() if count > 1}
    return [
        (one.tools, (*one.shared, *texts), ()) if key in many else (one.tools, one.shared, texts)
        for one, key in zip(conversations, keys, strict=True)
        for texts in [tuple(filter(None, (one.system, *one.documents)))]
    ]


def _times(lines: Sequence[Line], start: datetime) -> list[datetime]:
    """When each message was written; where that is not known, soon after the one before. Never backwards."""
    times: list[datetime] = []
    for line in lines:
        earliest = times[-1] if times else None
        guessed = earliest + UNKNOWN_GAP if earliest else start
        at = line.created_at or guessed
        times.append(max(at, earliest) if earliest else at)
    return times


def _thread(
    conversation: Conversation,
    system: System,
    times: Sequence[datetime],
    counter: TextCounter,
    embedder: BuiltinEmbedder,
) -> Thread:
    messages: list[Message] = []
    tail = Tail()
    for seq, (line, at) in enumerate(zip(conversation.lines, times, strict=True), start=1):
        where = f"{conversation.title}, message {seq}: "
        try:
            new = prepare_one(counter, Draft(line.role, line.content, "", {}, f"msg_{seq}", at), at)
            content = tuple(loads(new.content))
            tail = extend_tail(tail, line.role, content, "content")
        except InvalidMessage as error:
            raise InvalidInput(where + error.message) from error
        messages.append(Message(seq, new.id, line.role, content, new.counts, at, new.thinking_tokens))
    asks = [
        Ask(seq, at.timestamp(), opens_turn(line.role, messages[seq - 1].content))
        for seq, ((line, following), at) in enumerate(zip(pairwise(conversation.lines), times, strict=False), start=1)
        if line.role == "user" and following.role == "assistant"
    ]
    timed = all(line.created_at for line in conversation.lines)
    return Thread(conversation.title, system, messages, asks, counter, embedder, timed)


def _note_sharing(threads: Sequence[Thread]) -> None:
    by_digest: dict[str, list[float]] = {}
    for thread in threads:
        if digest := thread.stable.shared_digest:
            by_digest.setdefault(digest, []).extend(ask.at for ask in thread.asks)
    for times in by_digest.values():
        times.sort()
    for thread in threads:
        thread.shared_at = by_digest.get(thread.stable.shared_digest or "", ())
