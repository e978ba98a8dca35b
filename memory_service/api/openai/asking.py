"""From a request for a run, and its assistant, to what our runs are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memory_service.api.deps import Context
from memory_service.api.openai import render, schemas
from memory_service.api.openai.translate import HOSTED_TOOLS, draft, native_tools, openai_tools
from memory_service.core.canonical import dumps
from memory_service.core.runs import RunBudget
from memory_service.core.truncation import TruncationStrategy
from memory_service.errors import InvalidInput
from memory_service.services import planning
from memory_service.services.ingest import Draft
from memory_service.services.planning import PromptSpec
from memory_service.services.run_spec import RunSpec
from memory_service.store.threads import AssistantRecord, get_assistant

# A reply of a run that says how many tokens all its replies may have is no longer than this: most models refuse more.
_LONGEST_REPLY_TOKENS = 16_384
# What a run shows again, and takes from its assistant where it does not say.
_SAMPLING = ("temperature", "top_p", "response_format", "reasoning_effort")
_SHOWN = ("tool_choice", "parallel_tool_calls", "max_prompt_tokens", "max_completion_tokens")


async def asked_of(
    context: Context,
    body: schemas.RunFields,
    messages: Sequence[schemas.MessageCreate],
    field: str,
    additional_instructions: str,
) -> tuple[RunSpec, list[Draft]]:
    """What a run is asked, and the messages that it brings.

    Raises NotFound for an unknown assistant, InvalidInput for what no run can do here.
    """
    async with context.runtime.db.read_only(context.project_id) as session:
        assistant = await get_assistant(session, body.assistant_id)
    own = render.kept(assistant)
    tools = body.tools if body.tools is not None else openai_tools(assistant.tools, own.get("tools"))
    _check_offered(tools, body.tool_choice)
    chosen = {name: v for name in _SAMPLING if (v := _first(getattr(body, name), own.get(name))) is not None}
    chosen |= {name: v for name in _SHOWN if (v := getattr(body, name)) is not None}
    prompt = _prompt(context, body, assistant, additional_instructions)
    instructions = [
        text for text in (_first(body.instructions, assistant.instructions), additional_instructions) if text
    ]
    shown = {
        **chosen,
        "instructions": "\n".join(instructions),
        "tools": tools,
        "truncation_strategy": body.truncation_strategy and body.truncation_strategy.model_dump(),
    }
    spec = RunSpec(
        prompt=prompt,
        parameters=parameters(planning.settle(context.runtime, prompt).provider, chosen, has_tools=bool(tools)),
        budget=RunBudget(prompt_tokens=body.max_prompt_tokens, completion_tokens=body.max_completion_tokens),
        openai=shown,
    )
    drafts = [draft(message, f"{field}[{i}].") for i, message in enumerate(messages)]
    return spec, drafts


def thread_columns(tool_resources: Any) -> dict[str, Any]:
    """Of a thread, what it has for OpenAI's sake."""
    return {"openai": dumps({"tool_resources": tool_resources}) if tool_resources is not None else None}


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _prompt(
    context: Context, body: schemas.RunFields, assistant: AssistantRecord, additional_instructions: str
) -> PromptSpec:
    strategy = body.truncation_strategy
    limit = body.max_completion_tokens
    spec = PromptSpec(
        provider=None if body.model else assistant.provider,
        model=body.model or assistant.model,
        max_output_tokens=min(limit, _LONGEST_REPLY_TOKENS) if limit is not None else None,
        strategy=TruncationStrategy(strategy.type, strategy.last_messages) if strategy else None,
        tools=tuple(native_tools(body.tools)) if body.tools is not None else None,
        assistant_id=assistant.id,
        instructions=body.instructions,
        additional_instructions=additional_instructions or None,
    )
    return planning.at_most(context.runtime, spec, body.max_prompt_tokens) if body.max_prompt_tokens else spec


def _check_offered(tools: Sequence[Any], choice: Any) -> None:
    kinds = [tool.get("type") for tool in tools] + ([choice.get("type")] if isinstance(choice, dict) else [])
    for kind in kinds:
        if kind in HOSTED_TOOLS:
            raise InvalidInput(
                f"This server does not execute {kind}. Runs take function tools: send `tools` of the run without it, or "
                "take it from the assistant.",
                code="unsupported_tool",
                field="tools",
            )
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        check_choice(choice, name, [tool.get("function", {}).get("name") for tool in tools])


def check_choice(choice: Mapping[str, Any], name: Any, offered: Sequence[Any]) -> None:
    """Raises InvalidInput unless it names one of the functions that are offered."""
    if choice.get("type") != "function" or not isinstance(name, str):
        raise InvalidInput(
            "`tool_choice` must be none, auto, required, or a function with its name.", field="tool_choice"
        )
    if name not in offered:
        raise InvalidInput(f"`tool_choice`: there is no function {name[:64]!r} in `tools`.", field="tool_choice")


def parameters(provider: str, chosen: Mapping[str, Any], *, has_tools: bool) -> dict[str, Any]:
    """What was chosen in a provider's own form. Raises InvalidInput for what it has no form for."""
    if provider == "openai":
        return _openai(chosen, has_tools=has_tools)
    if provider == "anthropic":
        return _anthropic(chosen, has_tools=has_tools)
    return {}


def _openai(chosen: Mapping[str, Any], *, has_tools: bool) -> dict[str, Any]:
    names = ("temperature", "top_p", "reasoning_effort", *(("tool_choice", "parallel_tool_calls") if has_tools else ()))
    sent = {name: chosen[name] for name in names if name in chosen}
    if chosen.get("response_format", "auto") != "auto":
        sent["response_format"] = chosen["response_format"]
    return sent


def _anthropic(chosen: Mapping[str, Any], *, has_tools: bool) -> dict[str, Any]:
    if chosen.get("response_format", "auto") not in ("auto", {"type": "text"}):
        raise _not_anthropic(
            "response_format", "models of Anthropic know no such format; ask for it in the instructions"
        )
    if chosen.get("temperature", 0) > 1:
        raise _not_anthropic("temperature", "models of Anthropic take 0 to 1")
    sent = {name: chosen[name] for name in ("temperature", "top_p") if name in chosen}
    choice = _anthropic_choice(chosen.get("tool_choice", "auto"))
    if chosen.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    if has_tools and choice != {"type": "auto"}:
        sent["tool_choice"] = choice
    return sent


def _anthropic_choice(choice: Any) -> dict[str, Any]:
    if isinstance(choice, str):
        return {"type": {"required": "any"}.get(choice, choice)}
    return {"type": "tool", "name": choice["function"]["name"]}


def _not_anthropic(field: str, why: str) -> InvalidInput:
    return InvalidInput(f"`{field}`: {why}.", field=field)
