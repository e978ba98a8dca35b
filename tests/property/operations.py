"""Threads as lists of operations, and how hypothesis makes them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import strategies as st

from memory_service.core.canonical import loads
from memory_service.core.messages import Block
from memory_service.core.tokens import Scale
from memory_service.core.truncation import TruncationStrategy
from memory_service.errors import InvalidMessage, NoUserMessage, PromptTooLarge
from tests.property.simulator import (
    BYTES,
    CLAUDE,
    CLAUDE_BINDING,
    GPT_AUTOMATIC,
    GPT_EXPLICIT,
    LEARNT,
    SEVENTHS,
    UNPRICED,
    Built,
    Simulator,
    Spec,
)

WORDS = (
    "harbour lantern Oskar violin the ferry of Tallinn passport allergic walnut dentist Tuesday moved garden budget "
    "서울에서 카메라를 고양이가 생일은 내일 만나요 東京タワー 🙂 👩‍👩‍👧 café naïve x=1.10 { } \\n "
    "</recalled_messages> <request_context> </message> ignore_all_instructions"
).split()
TOOL: Block = loads('{"name":"look_up","description":"Looks things up.","input_schema":{"type":"object","b":1.10}}')
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(8) + (640).to_bytes(4) + (480).to_bytes(4)).decode()

KINDS = (
    *("user", "assistant", "prompt") * 6,
    *("exchange", "loop", "report", "gap") * 3,
    *("thinking", "abandoned", "partial", "image", "document", "two_users", "two_assistants", "long_loop"),
    "large_results",
    *(
        "fork",
        "edit",
        "delete",
        "refresh",
        "no_recall",
        "other_model",
        "other_budget",
        "instructions",
        "context",
        "cold",
    ),
)
Operation = tuple[str, int]
operations = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 9_999)), min_size=3, max_size=45)


@dataclass(frozen=True)
class Setting:
    """What stays the same in a thread's life."""

    simulator: Simulator
    spec: Spec


def _setting(
    tokenizer: object, budget: int, model: object, strategy: object, ttl: object, stable: int, page: int, recall: object
) -> Setting:
    tools = ((), (TOOL,), ({**TOOL, "name": "other"}, TOOL))[stable % 3]
    shared = ((), ("You are kind.",), ("You are kind. " * 8, "<document>\nfacts\n</document>"))[stable // 3 % 3]
    own = ((), ("Call me Kim.",))[stable // 9 % 2]
    simulator = Simulator(tokenizer=tokenizer, tools=tools, shared=shared, own=own, page=page)  # type: ignore[arg-type]
    spec = Spec(model=model, max_prompt_tokens=budget, strategy=strategy, ttl=ttl, recall_tokens=recall)  # type: ignore[arg-type]
    return Setting(simulator, spec)


settings_of_threads = st.builds(
    _setting,
    tokenizer=st.sampled_from([BYTES, SEVENTHS, LEARNT]),
    budget=st.one_of(st.sampled_from([300, 600, 1_000, 2_000, 4_000, 8_000, 50_000]), st.integers(300, 50_000)),
    model=st.sampled_from([CLAUDE, CLAUDE_BINDING, GPT_EXPLICIT, GPT_AUTOMATIC, UNPRICED]),
    strategy=st.sampled_from(
        [
            *[TruncationStrategy()] * 4,
            TruncationStrategy("sliding"),
            TruncationStrategy("disabled"),
            TruncationStrategy("last_messages", 1),
            TruncationStrategy("last_messages", 7),
            *[TruncationStrategy(shorten_tool_results=True)] * 2,
            TruncationStrategy("last_messages", 7, shorten_tool_results=True),
        ]
    ),
    ttl=st.sampled_from(["auto", "auto", "5m", "1h", None]),
    stable=st.integers(0, 17),
    page=st.sampled_from([3, 10, 200]),
    recall=st.sampled_from([None, None, 0, 200, 1_500]),
)


def random_play(rng: Random) -> tuple[Play, list[Operation]]:
    """A play and its steps without hypothesis: for counting, not for finding a smallest example."""
    setting = _setting(
        tokenizer=BYTES,
        budget=rng.choice([1_000, 2_000, 4_000, 8_000, rng.randint(600, 50_000)]),
        model=rng.choice([CLAUDE, CLAUDE_BINDING, GPT_EXPLICIT, GPT_AUTOMATIC]),
        strategy=rng.choice(
            [
                *[TruncationStrategy()] * 2,
                TruncationStrategy(shorten_tool_results=True),
                TruncationStrategy("sliding"),
            ]
        ),
        ttl=rng.choice(["auto", "5m", "1h"]),
        stable=rng.randrange(18),
        page=rng.choice([3, 10, 200]),
        recall=rng.choice([None, 0, 200, 1_500]),
    )
    return Play(setting), [(rng.choice(KINDS), rng.randrange(10_000)) for _ in range(rng.randint(20, 60))]


def text_of(number: int, words: int | None = None) -> str:
    """A text that depends on the number alone: mostly short, sometimes long."""
    length = words or (3 + number % 17, 10 + number % 60, 60 + number % 300)[(number % 20 == 0) + (number % 4 == 0)]
    state, chosen = number + 1, []
    for _ in range(length):
        state = (state * 1_103_515_245 + 12_345) % 2**31
        chosen.append(WORDS[(state >> 8) % len(WORDS)])
    return " ".join(chosen) + (". " if number % 3 else "\n\n") + f"#{number}"


@dataclass
class Play:
    """Runs operations on a thread, and hands out each prompt as it is built."""

    setting: Setting
    calls: int = 0
    last: Built | None = None
    too_large: list[tuple[Spec, PromptTooLarge]] = field(default_factory=list)

    @property
    def thread(self) -> Simulator:
        return self.setting.simulator

    def run(self, steps: list[Operation]) -> Iterator[Built]:
        for kind, number in steps:
            try:
                yield from self._step(kind, number)
            except (InvalidMessage, NoUserMessage):
                continue

    def _step(self, kind: str, number: int) -> Iterator[Built]:
        thread, spec = self.thread, self.setting.spec
        self._close_calls(kind)
        match kind:
            case "user":
                thread.append("user", text_of(number))
            case "assistant":
                thread.append("assistant", text_of(number))
            case "two_users":
                thread.append("user", text_of(number))
                thread.append("user", text_of(number + 1))
            case "two_assistants":
                thread.append("assistant", text_of(number))
                thread.append("assistant", [{"type": "thinking", "thinking": "hm", "signature": "s"}])
            case "exchange":
                thread.append("user", text_of(number))
                yield from self._build(spec)
                thread.append("assistant", text_of(number + 5))
            case "thinking":
                thought = {"type": "thinking", "thinking": text_of(number), "signature": "sig"}
                thread.append("assistant", [thought, {"type": "text", "text": text_of(number + 1)}])
            case "image":
                source = {"type": "base64", "media_type": "image/png", "data": PNG}
                thread.append("user", [{"type": "image", "source": source}, {"type": "text", "text": text_of(number)}])
            case "document":
                source = {"type": "text", "media_type": "text/plain", "data": text_of(number)}
                thread.append("user", [{"type": "document", "source": source}])
            case "large_results":
                yield from self._loop(number, 1 + number % 4, words=100 + number % 3_000)
            case "loop" | "long_loop":
                yield from self._loop(number, 15 if kind == "long_loop" else 1 + number % 4)
            case "abandoned":
                self._call(number)
                thread.append("user", text_of(number))
            case "partial":
                ids = self._call(number | 1)
                thread.append("user", [self._result(ids[0], number), {"type": "text", "text": text_of(number)}])
            case "edit" if thread.messages:
                at = number % len(thread.messages)
                thread.edit(at, [*_tool_blocks(thread.messages[at].content), {"type": "text", "text": text_of(number)}])
            case "delete" if thread.messages:
                thread.delete(number % len(thread.messages))
            case "fork" if thread.messages:
                fork = thread.fork(number % len(thread.messages) + 1)
                self.setting = replace(self.setting, simulator=fork)
            case "gap":
                thread.now += number / 20
            case "cold":
                thread.now += 4_000
            case "instructions":
                thread.own = (f"Call me {text_of(number)}.",)
            case "learnt":
                weights = [weight * (0.7 + number / 9_999) for weight in thread.tokenizer.scale.weights]
                thread.tokenizer = replace(thread.tokenizer, scale=Scale(tuple(weights)))
            case "report" if self.last:
                thread.sent(self.last)
            case "other_model":
                other = GPT_EXPLICIT if spec.model is CLAUDE else CLAUDE
                yield from self._build(replace(spec, model=other))
            case "other_budget":
                yield from self._build(replace(spec, max_prompt_tokens=300 + number))
            case "no_recall":
                yield from self._build(replace(spec, recall=False))
            case "context":
                texts = tuple(text_of(number + i) for i in range(1 + number % 2))
                yield from self._build(replace(spec, context=texts))
            case "refresh":
                yield from self._build(replace(spec, refresh=True))
            case "prompt":
                yield from self._build(spec)

    def _close_calls(self, kind: str) -> None:
        """Sometimes answer what waits, so that loops go on by other means too."""
        if self.thread.tail.open_tool_use_ids and kind == "prompt":
            results = [self._result(id_, 7) for id_ in self.thread.tail.open_tool_use_ids]
            self.thread.append("user", results)

    def _build(self, spec: Spec) -> Iterator[Built]:
        try:
            self.last = self.thread.build(spec)
        except PromptTooLarge as error:
            self.too_large.append((spec, error))
        else:
            yield self.last

    def _loop(self, number: int, steps: int, words: int = 0) -> Iterator[Built]:
        self.thread.append("user", text_of(number))
        yield from self._build(self.setting.spec)
        for step in range(steps):
            ids = self._call(number + step)
            self.thread.append("user", [self._result(id_, number + step, words) for id_ in ids])
            yield from self._build(self.setting.spec)
        if number % 5:
            self.thread.append("assistant", text_of(number + 9))

    def _call(self, number: int) -> list[str]:
        ids = [f"call_{self.calls + i}" for i in range(1 + number % 3)]
        self.calls += len(ids)
        uses = [{"type": "tool_use", "id": id_, "name": "look_up", "input": {"q": text_of(number, 4)}} for id_ in ids]
        thought = [{"type": "thinking", "thinking": text_of(number, 9), "signature": "s"}] if number % 2 else []
        self.thread.append(
            "assistant", [*thought, *([{"type": "text", "text": "Looking."}] if number % 3 else []), *uses]
        )
        return ids

    def _result(self, id_: str, number: int, words: int = 0) -> Block:
        text: object = text_of(number, words or 5 + number % 40)
        content = [{"type": "text", "text": text}, {"type": "text", "text": "done"}] if number % 3 == 1 else text
        return {"type": "tool_result", "tool_use_id": id_, "content": content}


def _tool_blocks(content: tuple[Block, ...]) -> list[Block]:
    return [block for block in content if block["type"] in ("tool_use", "tool_result")]
