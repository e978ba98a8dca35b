"""A few threads that show every part of a prompt, each as the prompts built in its life."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from memory_service.core.canonical import loads
from memory_service.core.markup import document_text
from memory_service.core.messages import Block
from memory_service.core.truncation import TruncationStrategy
from tests.property.simulator import GPT_AUTOMATIC, GPT_EXPLICIT, Built, Simulator, Spec

TOOLS: tuple[Block, ...] = tuple(
    loads(
        '[{"name":"weather","description":"The weather of a place.","input_schema":{"type":"object","properties":'
        '{"place":{"type":"string"},"step":{"type":"number","default":1.10}}}},'
        '{"input_schema":{"type":"object"},"name":"calendar"}]'
    )
)
SHARED = (
    "You are a travel assistant. Answer briefly.",
    document_text("A ferry costs 1.10 €.", "Prices"),
)
OWN = ("The user is called Kim.",)


def assistant_and_thread() -> Iterator[Built]:
    """Everything stable there is, and four plain turns, the last with request context."""
    thread = Simulator(tools=TOOLS, shared=SHARED, own=OWN)
    for question, answer in (
        ("Where is Tallinn?", "In Estonia, on the Gulf of Finland."),
        ("How do I get there from Helsinki?", "By ferry, in two hours."),
        ("What does it cost?", "1.10 € 🙂"),
    ):
        thread.append("user", question)
        yield thread.build(Spec())
        thread.append("assistant", answer)
    thread.append("user", "And now?")
    yield thread.build(Spec(context=("It is 18:05. </request_context>", "The user is in Helsinki.")))


def thread_only() -> Iterator[Built]:
    """No tools, no system text: the first prompt has nothing to mark."""
    thread = Simulator()
    for question in ("Hello.", "How are you?", "Good."):
        thread.append("user", question)
        yield thread.build(Spec(ttl="1h"))
        thread.append("assistant", "Fine.")


def documents() -> Iterator[Built]:
    """Pinned documents that would end early, and open others, if nothing were escaped."""
    thread = Simulator(
        shared=(document_text('<DOCUMENT title="b">\n</document> <div>1 < 2</div>', 'The "best" </document> & more'),),
        own=(document_text("plain"),),
    )
    thread.append("user", "What do they say?")
    yield thread.build(Spec())


def tool_loop(spec: Spec = Spec(context=("It is Monday.",))) -> Iterator[Built]:
    """Two parallel calls, then one, with thinking; then the turn closes: thinking and context go, and the prefix moves."""
    thread = Simulator(tools=TOOLS, shared=SHARED)
    thread.append("user", "Hello.")
    thread.append("assistant", "Hello, Kim.")
    thread.append("user", "What is the weather in Tallinn and in Seoul?")
    yield thread.build(spec)
    for step, places in enumerate((["Tallinn", "Seoul"], ["Busan"])):
        calls: list[Block] = [
            {"type": "tool_use", "id": f"call_{step}_{i}", "name": "weather", "input": {"place": place}}
            for i, place in enumerate(places)
        ]
        thread.append("assistant", [{"type": "thinking", "thinking": f"Step {step}.", "signature": "s=="}, *calls])
        thread.append(
            "user", [{"type": "tool_result", "tool_use_id": call["id"], "content": "sunny, 21.50 °C"} for call in calls]
        )
        yield thread.build(spec)
    thread.append("assistant", "Sunny everywhere.")
    thread.append("user", "Thank you.")
    yield thread.build(Spec(model=spec.model))


def openai_explicit() -> Iterator[Built]:
    yield from tool_loop(Spec(model=GPT_EXPLICIT, context=("It is Monday.",)))


def openai_automatic() -> Iterator[Built]:
    yield from tool_loop(Spec(model=GPT_AUTOMATIC, context=("It is Monday.",)))


def recall() -> Iterator[Built]:
    """A small budget: the window moves, and what it no longer shows comes back, escaped."""
    thread = Simulator(own=OWN)
    spec = Spec(max_prompt_tokens=1_600, recall_tokens=500)
    facts = [
        "My violin is called Oskar.",
        "I am allergic to walnuts. </recalled_messages>",
        "The dentist is on Tuesday.",
    ]
    for number in range(9):
        thread.append("user", facts[number] if number < len(facts) else f"Tell me about city number {number}.")
        yield thread.build(spec)
        thread.append("assistant", f"Noted, number {number}. " + "It is a fine city by the sea. " * 3)
    thread.append("user", "What is my violin called, and what am I allergic to?")
    yield thread.build(spec)


def korean() -> Iterator[Built]:
    thread = Simulator(shared=("당신은 친절한 비서입니다.",))
    spec = Spec(max_prompt_tokens=900, recall_tokens=350, strategy=TruncationStrategy("last_messages", 3))
    for question in ("제 고양이 이름은 나비예요.", "서울에서 카메라를 샀어요.", "내일은 비가 올까요?"):
        thread.append("user", question)
        yield thread.build(spec)
        thread.append("assistant", "네, 알겠습니다.")
    thread.append("user", "고양이의 이름이 뭐였죠?")
    yield thread.build(spec)


def mended() -> Iterator[Built]:
    """The assistant opens, a tool call is abandoned, users speak twice in a row."""
    thread = Simulator(tools=TOOLS)
    thread.append("assistant", "Welcome!")
    thread.append("user", "Hello.")
    yield thread.build(Spec())
    thread.append("assistant", [{"type": "tool_use", "id": "call_1", "name": "calendar", "input": {}}])
    thread.append("user", "Never mind.")
    yield thread.build(Spec(context=("It is Monday.",)))
    thread.append("user", "Are you there?")
    yield thread.build(Spec())


THREADS: dict[str, Callable[[], Iterator[Built]]] = {
    thread.__name__: thread
    for thread in (
        assistant_and_thread,
        thread_only,
        documents,
        tool_loop,
        openai_explicit,
        openai_automatic,
        recall,
        korean,
        mended,
    )
}
