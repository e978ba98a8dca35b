from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memory_service.demo import sources
from memory_service.demo.conversation import Conversation, Line
from memory_service.demo.sources import load_conversation, load_conversations
from memory_service.errors import InvalidInput

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(*values: Any, name: str = "talk.json") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(value, ensure_ascii=False) for value in values), encoding="utf-8")
        return path

    return _write


def locomo(sample_id: str = "conv-1") -> dict[str, Any]:
    return {
        "sample_id": sample_id,
        "qa": [],
        "conversation": {
            "speaker_a": "Ann",
            "speaker_b": "Bo",
            "session_10_date_time": "12:09 am on 13 September, 2023",
            "session_10": [{"speaker": "Ann", "dia_id": "D10:1", "text": "Later"}],
            "session_2_date_time": "1:56 pm on 8 May, 2023",
            "session_2": [
                {"speaker": "Bo", "dia_id": "D2:1", "text": "Hi"},
                {"speaker": "Ann", "dia_id": "D2:2", "text": "Look", "blip_caption": "a dog"},
            ],
            "session_11_date_time": "1:00 am on 1 October, 2023",
        },
    }


def call(identifier: str, arguments: str = "{}", name: str = "find") -> dict[str, Any]:
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


# --- our own export ---


def test_export_keeps_blocks_and_times(write: Write) -> None:
    blocks = [{"type": "text", "text": "안녕"}]
    played = load_conversation(
        write(
            {"type": "thread", "id": "thread_1", "instructions": "Be kind."},
            {"type": "message", "role": "user", "content": blocks, "created_at": "2026-09-07T08:00:00Z"},
            {"type": "usage", "tokens": 3},
            {"type": "message", "role": "assistant", "content": blocks, "thread_id": "thread_1"},
            {"type": "message", "role": "user", "content": blocks, "thread_id": "thread_2"},
        )
    )
    assert played == Conversation(
        title="thread_1",
        system="Be kind.",
        lines=[Line("user", blocks, datetime(2026, 9, 7, 8, tzinfo=UTC)), Line("assistant", blocks)],
    )


def test_an_export_without_messages_is_refused(write: Write) -> None:
    with pytest.raises(InvalidInput, match="export without messages"):
        load_conversation(write({"type": "thread", "id": "thread_1"}, {"type": "usage"}))


def test_all_threads_of_an_export_are_read_with_what_they_begin_with(write: Write) -> None:
    path = write(
        {"type": "assistant", "id": "asst_1", "instructions": "Be kind.", "tools": [{"name": "find"}]},
        {"type": "thread", "id": "thread_1", "assistant_id": "asst_1", "documents": [{"text": "Menu", "title": "m"}]},
        {"type": "message", "role": "user", "content": "one", "thread_id": "thread_1"},
        {"type": "thread", "id": "thread_2", "tools": [{"name": "own"}]},
        {"type": "thread", "id": "thread_3"},
        {"type": "message", "role": "user", "content": "two", "thread_id": "thread_2"},
    )
    first, second = load_conversations(path)
    assert (first.title, first.shared, first.tools) == ("thread_1", ("Be kind.",), ({"name": "find"},))
    assert first.documents == ('<document title="m">\nMenu\n</document>',)
    assert (second.title, second.shared, second.tools) == ("thread_2", (), ({"name": "own"},))
    assert [one.title for one in load_conversations(f"{path}#thread_2")] == ["thread_2"]
    with pytest.raises(InvalidInput, match="it has thread_1, thread_2"):
        load_conversation(path, pick="thread_3")


def test_a_conversation_on_each_line(write: Write) -> None:
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
    lines = [{"id": n, "messages": [{"role": "user", "content": f"talk {n}"}], "tools": tools} for n in (1, 2)]
    found = list(load_conversations(write(*lines, name="talks.jsonl")))
    assert [one.lines[0].content for one in found] == ["talk 1", "talk 2"]
    assert found[0].tools == ({"name": "find", "description": "", "input_schema": {"type": "object"}},)


# --- LoCoMo ---


def test_locomo_sessions_in_order_a_minute_apart(write: Write) -> None:
    played = load_conversation(write([locomo()]))
    assert played.lines == [
        Line("assistant", "Hi", datetime(2023, 5, 8, 13, 56, tzinfo=UTC)),
        Line("user", "Look [photo: a dog]", datetime(2023, 5, 8, 13, 57, tzinfo=UTC)),
        Line("user", "Later", datetime(2023, 9, 13, 0, 9, tzinfo=UTC)),
    ]
    assert played.title == "conv-1 (Ann, Bo)"


def test_one_of_several_is_picked_by_id_or_position(write: Write) -> None:
    path = write([locomo("conv-1"), locomo("conv-2")])
    assert load_conversation(f"{path}#conv-2").title.startswith("conv-2")
    assert load_conversation(path, pick="1").title.startswith("conv-2")
    assert load_conversation(path).title.startswith("conv-1")
    with pytest.raises(InvalidInput, match="no conversation 'conv-9'; it has conv-1, conv-2"):
        load_conversation(path, pick="conv-9")


def test_a_single_locomo_conversation_with_or_without_its_wrapper(write: Write) -> None:
    wrapped = load_conversation(write(locomo()))
    bare = locomo()["conversation"] | {"session_1": []}
    assert load_conversation(write(bare)).lines == wrapped.lines


def test_a_wrong_locomo_time_names_its_session(write: Write) -> None:
    broken = locomo()
    broken["conversation"]["session_2_date_time"] = "yesterday"
    with pytest.raises(InvalidInput, match="session_2: expected a time like"):
        load_conversation(write([broken]))


# --- OpenAI messages ---

MESSAGES = [
    {"role": "system", "content": "Help."},
    {"role": "user", "content": "first"},
    {"role": "user", "content": "second"},
    {"role": "assistant", "content": "reply"},
]


@pytest.mark.parametrize("shape", ["list", "ndjson", "object", "list of objects"])
def test_openai_messages_in_every_wrapping(write: Write, shape: str) -> None:
    wrapped = {"id": "a", "messages": MESSAGES}
    path = {
        "list": lambda: write(MESSAGES),
        "ndjson": lambda: write(*MESSAGES),
        "object": lambda: write(wrapped),
        "list of objects": lambda: write([wrapped]),
    }[shape]()
    played = load_conversation(path)
    assert played.system == "Help."
    assert played.lines == [Line("user", "first"), Line("user", "second"), Line("assistant", "reply")]


def test_tool_calls_become_blocks_with_unique_ids(write: Write) -> None:
    played = load_conversation(
        write(
            [
                {"role": "user", "content": "go"},
                {"role": "assistant", "content": None, "tool_calls": [call("same", '{"a": 1.5}')]},
                {"role": "tool", "tool_call_id": "same", "content": "one"},
                {
                    "role": "assistant",
                    "content": "again",
                    "tool_calls": [call("same"), call("same", "not json")],
                },
                {"role": "tool", "tool_call_id": "same", "content": "two"},
                {"role": "tool", "tool_call_ids": ["same"], "content": "three"},
            ]
        )
    )
    use = [("toolu_0001", {"a": 1.5}), ("toolu_0002", {}), ("toolu_0003", {"arguments": "not json"})]
    uses = [{"type": "tool_use", "id": one, "name": "find", "input": given} for one, given in use]
    assert [line.content for line in played.lines] == [
        "go",
        [uses[0]],
        [{"type": "tool_result", "tool_use_id": "toolu_0001", "content": "one"}],
        [{"type": "text", "text": "again"}, uses[1], uses[2]],
        [{"type": "tool_result", "tool_use_id": "toolu_0002", "content": "two"}],
        [{"type": "tool_result", "tool_use_id": "toolu_0003", "content": "three"}],
    ]
    assert [line.role for line in played.lines[1:3]] == ["assistant", "user"]


def test_images_are_respelled(write: Write) -> None:
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    (line,) = load_conversation(write([{"role": "user", "content": [url]}])).lines
    assert line.content == [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]


def test_times_and_expectations_are_kept(write: Write) -> None:
    entry = {"role": "user", "content": "x", "created_at": 0, "expects": ["y"]}
    (line,) = load_conversation(write(entry)).lines
    assert line == Line("user", "x", datetime(1970, 1, 1, tzinfo=UTC), ("y",))


# --- what cannot be read ---


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty. Expected an export"),
        (b"hello", "line 1: not JSON"),
        (b"[1, 2]", "JSON of another kind. Expected"),
        (b"[]", "JSON of another kind"),
        (b"42", "JSON of another kind"),
        (b'{"role": "user", "content": "a"}\n{"role": "user"', "line 2: not JSON"),
        (b'{"role": "user", "content": "a"}\n[1]', "line 2: not a JSON object"),
        (b'{"role": "user", "content": "a"}\n{"role": "robot", "content": "a"}', "line 2: role 'robot'"),
        (b'{"role": "user", "content": "a"}\n{"role": "user", "content": 7}', "line 2: content must be"),
        (
            b'{"role": "user", "content": "ok"}\n{"role": "user", "content": "\xff"}',
            r"line 2: not UTF-8 \(byte 0xff\)",
        ),
        (b'{"role": "user", "content": "a", "created_at": "soon"}', "message 1: created_at"),
        (b'{"role": "user", "content": "a", "expects": "b"}', "expects must be"),
        (b'[{"role": "tool", "tool_call_id": "x", "content": "a"}]', "message 1: answers a tool call"),
        (b'[{"role": "assistant", "content": "", "tool_calls": [{"id": "x"}]}]', "tool_calls must be"),
        (b'[{"role": "system", "content": "a"}]', "no user or assistant message"),
        (b"[" * 100_000, "not JSON .nested too deeply|not JSON"),
    ],
)
def test_errors_say_where_and_what_was_expected(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=complaint):
        load_conversation(path)


def test_too_long_a_line_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 60)
    path = write({"role": "user", "content": "a"}, {"role": "user", "content": "a" * 60})
    with pytest.raises(InvalidInput, match="line 2: longer than 60 bytes"):
        load_conversation(path)


def test_too_large_a_file_and_a_missing_one(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_conversation(tmp_path / "absent.json")
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 10)
    with pytest.raises(InvalidInput, match="the limit is 10"):
        load_conversation(write(MESSAGES))


# --- real files ---


def test_every_locomo_conversation_loads(evaluation_data: Path) -> None:
    path = evaluation_data / "locomo" / "locomo_dev6.json"
    for name in ("conv-26", "conv-30", "conv-41", "conv-42", "conv-43", "conv-44"):
        played = load_conversation(f"{path}#{name}")
        times = [line.created_at for line in played.lines if line.created_at]
        assert played.title.startswith(name)
        assert len(times) == len(played.lines) > 300
        assert times == sorted(times)
        assert {line.role for line in played.lines} == {"user", "assistant"}


def test_tool_trajectories_load_with_pairs_intact(evaluation_data: Path) -> None:
    path = evaluation_data / "agentlogs" / "tau_airline_dev.json"
    for position in range(0, 120, 10):
        played = load_conversation(path, pick=str(position))
        assert_tool_pairs(played)
        assert played.system


def test_coding_trajectories_load(evaluation_data: Path) -> None:
    paths = sorted((evaluation_data / "agentlogs" / "sweagent").glob("*.traj"))
    assert paths
    for path in paths:
        assert_tool_pairs(load_conversation(path))


def assert_tool_pairs(played: Conversation) -> None:
    blocks = [block for line in played.lines if isinstance(line.content, list) for block in line.content]
    used = [block["id"] for block in blocks if block["type"] == "tool_use"]
    answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    assert len(set(used)) == len(used)
    assert set(answered) <= set(used)
