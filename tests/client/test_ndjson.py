from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memory_client import APIConnectionError, ImportReport, NotFoundError

from .driver import Driver
from .peer import Answer, Drop, Peer, error

LINES = [
    b'{"type":"thread","id":"thread_1"}\n',
    '{"type":"message","content":"한국어 \u2028 \x85","n":1.10}\n'.encode(),
    b"\n",
    b'{"type":"end"}\r\n',
]
EXPORT = Answer(body=b"".join(LINES), headers={"content-type": "application/x-ndjson"})
IMPORTED = Answer({"threads": 1, "messages": 2, "renamed": {"a": "b"}, "prompts": 0}, 201)


def export(client: Any) -> Any:
    return client.threads.export("thread_1")


def test_an_export_is_iterated_by_lines_of_exact_bytes(driver: Driver, peer: Peer) -> None:
    peer.plays(EXPORT, Answer(body=b"a\nb"), Answer(body=b""))
    assert driver.collect(export) == LINES
    assert (peer.only_request.method, peer.only_request.path) == ("GET", "/v1/threads/thread_1/export")
    assert driver.collect(export) == [b"a\n", b"b"]
    assert driver.collect(export) == []


def test_an_export_is_written_to_a_file(driver: Driver, peer: Peer, tmp_path: Path) -> None:
    peer.plays(error(503, retry_after="0"), EXPORT)
    driver.run(lambda client: export(client).write_to(tmp_path / "thread.ndjson"))
    assert (tmp_path / "thread.ndjson").read_bytes() == b"".join(LINES)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cut_export_is_an_error_and_leaves_the_old_file(driver: Driver, peer: Peer, tmp_path: Path) -> None:
    old = tmp_path / "thread.ndjson"
    old.write_bytes(b"old")
    peer.plays(Drop(after=LINES[0]), Drop(after=LINES[0]))
    with pytest.raises(APIConnectionError):
        driver.run(lambda client: export(client).write_to(old))
    with pytest.raises(APIConnectionError):
        driver.collect(export)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_an_export_that_cannot_be_had(driver: Driver, peer: Peer, tmp_path: Path) -> None:
    peer.plays(error(404, "not_found"), error(404, "not_found"))
    with pytest.raises(NotFoundError, match="404 not_found"):
        driver.collect(export)
    with pytest.raises(NotFoundError):
        driver.run(lambda client: export(client).write_to(tmp_path / "thread.ndjson"))
    assert list(tmp_path.iterdir()) == []


def test_an_error_cut_short_is_a_connection_error(
    new_driver: Callable[..., Driver], peer: Peer, tmp_path: Path
) -> None:
    peer.plays(Drop(after=b'{"error": {', status=500), EXPORT)
    driver = new_driver(max_retries=0)
    with pytest.raises(APIConnectionError):
        driver.run(lambda client: export(client).write_to(tmp_path / "thread.ndjson"))
    assert driver.collect(export) == LINES


def test_an_export_need_not_be_read_to_its_end(driver: Driver, peer: Peer) -> None:
    peer.plays(Answer(body=b"x\n" * 2_000), IMPORTED)
    assert driver.run(lambda client: first_line(export(client))) == b"x\n"
    driver.run(lambda client: client.import_ndjson(b""))


def first_line(lines: Any) -> Any:
    if hasattr(lines, "__aiter__"):
        return anext(aiter(lines))
    return next(iter(lines))


def test_what_was_exported_is_imported_byte_for_byte(driver: Driver, peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / "thread.ndjson"
    path.write_bytes(b"".join(LINES))
    for source in (LINES, b"".join(LINES), path, str(path), (line.decode() for line in LINES)):
        peer.plays(IMPORTED)
        report = driver.run(import_of(source))
        assert (peer.only_request.method, peer.only_request.path) == ("POST", "/v1/import")
        assert peer.only_request.headers["content-type"] == "application/x-ndjson"
        assert peer.only_request.body == b"".join(LINES)
        assert peer.only_request.key
    assert isinstance(report, ImportReport)
    assert (report.threads, report.messages, report.renamed, report.raw["prompts"]) == (1, 2, {"a": "b"}, 0)


def import_of(source: Any) -> Callable[[Any], Any]:
    return lambda client: client.import_ndjson(source)


def test_lines_without_ends_get_them(driver: Driver, peer: Peer) -> None:
    peer.plays(IMPORTED)
    driver.run(lambda client: client.import_ndjson(["{}", b"{}\n", "{}"]))
    assert peer.only_request.body == b"{}\n{}\n{}\n"


@pytest.mark.parametrize(("source", "refusal"), [('{"type":"thread"}\n', ValueError), ([{"a": 1}], TypeError)])
def test_what_is_not_a_source(driver: Driver, peer: Peer, source: Any, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        driver.run(lambda client: client.import_ndjson(source))
    assert not peer.received


def test_an_import_is_sent_again_whole(new_driver: Callable[..., Driver], peer: Peer) -> None:
    peer.plays(error(503, retry_after="0"), IMPORTED)
    new_driver().run(lambda client: client.import_ndjson(iter(LINES)))
    first, second = peer.received
    assert first.body == second.body == b"".join(LINES)
    assert first.key == second.key
