"""What only OpenAI's objects have, as an import brings it: checked so far that it can be shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memory_service.api.errors import invalid_input
from memory_service.api.openai.translate import native_tools

_Object = dict[str, Any]
_Seq = Annotated[int, Field(ge=0, le=10**9)]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Step(_Checked):
    """Of the step that a message is, where it is not as the message tells."""

    id: str | None = None
    created_at: int | None = None
    completed_at: int | None = None
    usage: _Object | None = None


class _Kept(_Checked):
    tools: list[_Object] = []
    details: _Object = {}
    attachments: list[_Object] = []
    step: _Step | None = None
    input: Annotated[list[_Seq], Field(min_length=2, max_length=2)] = [0, 0]
    instructions: str | None = None
    truncation_strategy: _Object | None = None


def check_kept(own: Mapping[str, Any]) -> None:
    """Raises InvalidInput naming the field."""
    _check(own)


def check_kept_of_assistant(own: Mapping[str, Any]) -> None:
    """As `check_kept`. Its tools are looked at whenever it is shown."""
    native_tools(_check(own).tools, "openai.tools")


def _check(own: Mapping[str, Any]) -> _Kept:
    try:
        return _Kept.model_validate(own)
    except ValidationError as error:
        raise invalid_input([{**one, "loc": ("openai", *one["loc"])} for one in error.errors()]) from None
