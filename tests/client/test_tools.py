"""Plain functions as tools: what is told of them, and what becomes of a call."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Optional

import pytest
from memory_client import MemoryClient, Toolbox, ToolCall
from memory_client.tools import definition


class Unit(Enum):
    CELSIUS = "c"
    KELVIN = "k"


@dataclass
class Weather:
    city: str
    degrees: float


def weather(
    city: Annotated[str, "Its name, in English"],
    days: int = 1,
    *,
    unit: Unit = Unit.CELSIUS,
    detail: Literal["short", "long"] | None = None,
    near: list[str] | None = None,
    limits: Optional[dict[str, float]] = None,  # noqa: UP045
    more: Any = None,
) -> Weather:
    """The weather in a city.

    Up to ten days ahead.
    """
    if days > 10:
        raise ValueError("ten days at most")
    return Weather(city, 7.5 if unit is Unit.CELSIUS else 280.65)


async def later(city: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": city}]


def call(name: str = "weather", **arguments: Any) -> ToolCall:
    return ToolCall(id="call_1", name=name, input=arguments, raw={})


def output(*tools: Any, call: ToolCall) -> dict[str, Any]:
    """By the blocking way and the other, which agree."""
    (found,) = asyncio.run(Toolbox(tools).outputs_async([call]))
    if later not in tools:
        assert Toolbox(tools).outputs([call]) == [found]
    return found


def test_a_definition() -> None:
    assert definition(weather) == {
        "name": "weather",
        "description": "The weather in a city.\n\nUp to ten days ahead.",
        "input_schema": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name, in English"},
                "days": {"type": "integer"},
                "unit": {"enum": ["c", "k"]},
                "detail": {"anyOf": [{"enum": ["short", "long"]}, {"type": "null"}]},
                "near": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
                "limits": {"anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}]},
                "more": {},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    }
    assert "description" not in definition(later)


def test_a_method_is_a_function_too() -> None:
    class Shed:
        def look(self, where: str) -> str:
            return f"{where}: a rod"

    assert definition(Shed().look)["input_schema"]["required"] == ["where"]
    assert output(Shed().look, call=call("look", where="left"))["content"] == "left: a rod"


def test_what_cannot_be_a_tool() -> None:
    def untyped(city): ...  # type: ignore[no-untyped-def]
    def many(*cities: str) -> None: ...
    def odd(when: Weather) -> None: ...

    for function, reason in (
        (lambda city: city, "with a name of its own"),
        (functools.partial(weather, "Seoul"), "with a name of its own"),
        (Weather, "with a name of its own"),
        (untyped, r"untyped\(city\) needs a type hint"),
        (many, "by name only"),
        (odd, r"odd\(when\): a tool cannot take"),
    ):
        with pytest.raises(TypeError, match=reason):
            definition(function)
    with pytest.raises(TypeError, match="two tools have the same name"):
        Toolbox([weather, weather])


def test_what_a_function_returns() -> None:
    assert output(weather, call=call(city="Seoul")) == {
        "tool_use_id": "call_1",
        "content": '{"city": "Seoul", "degrees": 7.5}',
    }
    assert (
        '"degrees": 280.65'
        in output(weather, call=call(city="Seoul", unit="k", near=["a"], limits={"x": 1}))["content"]
    )
    assert output(later, call=call("later", city="서울"))["content"] == [{"type": "text", "text": "서울"}]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (call(city="Seoul", days=11), "ValueError: ten days at most"),
        (call(), "TypeError: missing a required argument: 'city'"),
        (call(city="Seoul", country="KR"), "TypeError: got an unexpected keyword argument 'country'"),
        (call(city=7), "TypeError: city: 7 is not of type str"),
        (call(city="Seoul", days=True), "TypeError: days: True is not of type int"),
        (call(city="Seoul", unit="f"), "TypeError: unit: 'f' is none of 'c', 'k'"),
        (call(city="Seoul", near=["a", 1]), "TypeError: near: ['a', 1] does not fit"),
        (call("wether", city="Seoul"), "LookupError: there is no tool 'wether'"),
    ],
)
def test_a_call_that_goes_wrong_is_told_to_the_model(made: ToolCall, said: str) -> None:
    assert output(weather, call=made) == {"tool_use_id": "call_1", "content": said, "is_error": True}


def test_a_result_that_cannot_be_sent() -> None:
    def things() -> Any:
        return object()

    assert (
        output(things, call=call("things"))["content"]
        == "TypeError: object cannot be sent: use JSON values or SDK objects"
    )


def test_definitions_stand_among_functions() -> None:
    search = {"type": "web_search_20260209", "name": "web_search"}
    assert Toolbox([search, weather]).definitions == [search, definition(weather)]
    assert not Toolbox([search]).has_functions


def test_calls_side_by_side() -> None:
    met = asyncio.Event()

    async def waits() -> str:
        await met.wait()
        return "met"

    async def comes() -> str:
        met.set()
        return "came"

    async def both() -> list[Any]:
        return await asyncio.wait_for(Toolbox([waits, comes]).outputs_async([call("waits"), call("comes")]), 10)

    assert [one["content"] for one in asyncio.run(both())] == ["met", "came"]


def test_a_coroutine_function_needs_the_other_client() -> None:
    with MemoryClient("http://127.0.0.1:1", "msk_x") as client, pytest.raises(TypeError, match="AsyncMemoryClient can"):
        client.chat("thread_1", "Hi", tools=[later])
