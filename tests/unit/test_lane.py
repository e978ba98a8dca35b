"""What a lane remembers, and what an edit makes it forget."""

from __future__ import annotations

import json
from dataclasses import replace

from memory_service.core.canonical import dumps
from memory_service.core.lane import Kept, Lane, OpenTurn, Tail, differences, lane_key, share_cache
from memory_service.core.prompt_cache import Entry
from memory_service.core.tokens import TokenCounts
from memory_service.core.ttl import Pace
from memory_service.core.volatile import Volatile, context_block

VOLATILE = Volatile("<recalled_messages>", "ctx", 10, 4, ({"message_id": "msg_2", "seq": 2, "score": 1.5},))
LANE = Lane(
    first_seq=5,
    recall_reserve=100,
    context_reserve=50,
    stable_digest="s",
    prefix_digest="p",
    sent=Tail(8, 10.0),
    built=Tail(10, 20.0),
    open_turn=OpenTurn(11, VOLATILE, 13),
    entries=(Entry("d", 12, None), Entry("e", 13, 300.5), Entry("f", 14, 320.0, 300, 20.0)),
    last_at=20.0,
    pace=Pace(3.0, 1.0, 0.5, 900, 60.5),
    ttl_seconds=300,
    last_seq=13,
)
READABLE = (*LANE.entries[:2], replace(LANE.entries[2], written_at=None))


def test_json_and_back() -> None:
    assert Lane.from_json(json.loads(dumps(LANE))) == LANE
    bare = Lane(1, 0, 0, "s")
    assert Lane.from_json(json.loads(dumps(bare))) == bare


def test_the_newest_sent_tail_counts_while_it_is_warm() -> None:
    assert LANE.warm_tail(now=310.0) == LANE.sent
    assert LANE.warm_tail(now=311.0) == LANE.built
    assert replace(LANE, ttl_seconds=None).warm_tail(now=1e9) == LANE.sent


def test_a_lane_is_cold_once_its_own_breakpoints_have_ended() -> None:
    assert not LANE.is_cold(320.0)
    assert LANE.is_cold(320.1)
    assert not replace(LANE, ttl_seconds=3_600).is_cold(3_620.0)
    assert not replace(LANE, ttl_seconds=None).is_cold(1e9)


def test_a_lane_of_a_version_that_knew_less_is_read() -> None:
    state = json.loads(dumps(LANE))
    for name in ("pace", "ttl_seconds", "stable_parts", "unreported", "last_seq"):
        del state[name]
    for entry in state["entries"]:
        del entry["ttl_seconds"], entry["written_at"]
    entries = tuple(replace(entry, ttl_seconds=None) for entry in READABLE)
    assert Lane.from_json(state) == replace(LANE, pace=Pace(), ttl_seconds=None, last_seq=None, entries=entries)


def test_a_late_report_does_not_take_the_tail_back() -> None:
    reported = replace(LANE, unreported=None)
    assert LANE.after_sent(Tail(7, 9.0), 9.0) == reported
    assert LANE.after_sent(None, 9.0) == reported
    assert LANE.after_sent(Tail(10, 19.0), 19.0).sent == Tail(10, 19.0)


def test_a_report_or_a_reply_says_that_the_response_has_begun() -> None:
    """To the prompt of which it is; one that was built later may still be in flight."""
    assert LANE.after_sent(None, 19.9).entries == LANE.entries
    assert LANE.after_sent(None, 20.0).entries == READABLE
    assert LANE.held(reply_seq=13) == LANE.entries
    assert LANE.held(reply_seq=14) == READABLE
    assert replace(LANE, last_seq=None).held(reply_seq=14) == LANE.entries


def test_an_edit_in_history() -> None:
    lane = LANE.after_edit(9)
    assert (lane.edited_seq, lane.sent, lane.built) == (9, LANE.sent, None)
    assert lane.open_turn == LANE.open_turn
    assert lane.after_edit(7).edited_seq == 7
    assert lane.after_edit(12).edited_seq == 9
    assert lane.deleted_seq is None


def test_a_deletion_in_history() -> None:
    lane = LANE.after_edit(9).after_edit(8, deleted=True).after_edit(10, deleted=True)
    assert (lane.edited_seq, lane.deleted_seq) == (9, 8)


def test_an_edit_of_what_is_not_shown_changes_nothing() -> None:
    """Nor does it hide a later one of what is."""
    assert LANE.after_edit(3) == LANE.after_edit(4, deleted=True) == LANE
    assert LANE.after_edit(3).after_edit(9).edited_seq == 9


def test_what_lanes_differ_in() -> None:
    key = lane_key("openai", "a|b", "auto", 8_000)
    assert differences(key, key) == ()
    assert differences(key, lane_key("openai", "a|b", "last_messages:5", 900)) == (
        "truncation_strategy",
        "max_prompt_tokens",
    )
    assert differences(key, lane_key("anthropic", "a", "auto", 8_000)) == ("provider", "model")
    assert share_cache(key, lane_key("openai", "a|b", "auto", 900))
    assert not share_cache(key, lane_key("openai", "a", "auto", 8_000))


def test_another_question_makes_what_was_recalled_stale() -> None:
    lane = LANE.after_edit(11)
    assert lane.open_turn is None
    assert lane.edited_seq == 11


def test_an_edit_of_a_recalled_message_touches_the_open_turn() -> None:
    lane = LANE.after_edit(2)
    assert lane.open_turn is None
    assert lane.edited_seq == 11


def test_an_edit_of_a_quoted_message_breaks_the_prompt_where_it_is_quoted() -> None:
    lane = replace(LANE, first_seq=6, kept=(Kept(9, 10, VOLATILE, TokenCounts()),), open_turn=None)
    edited = lane.after_edit(2)
    assert (edited.edited_seq, edited.sent, edited.built, edited.kept) == (9, LANE.sent, None, ())


def test_an_edit_behind_the_question_keeps_what_was_recalled() -> None:
    assert LANE.after_edit(13).open_turn == LANE.open_turn


def test_volatile_text_gives_up_what_was_recalled() -> None:
    assert VOLATILE.tokens == 14
    assert VOLATILE.without_recall() == Volatile(context_text="ctx", context_tokens=4)
    assert context_block([]) == ""
    assert context_block(["a </request_context>", "b"]) == (
        "<request_context>\na &lt;/request_context>\nb\n</request_context>"
    )
