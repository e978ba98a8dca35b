"""The example backend against the real service."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from tests.chat.conftest import PASSPHRASE, Person, serving
from tests.conftest import REPOSITORY, Service
from tests.providers.scripted import ScriptedProvider, cut, ok, stall, status
from tests.runs.cutting import cutting

HERE = REPOSITORY / "clients" / "chat"


def text(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["type"] == "text")


def test_a_conversation(person: Person, provider: ScriptedProvider) -> None:
    used = {"input_tokens": 10, "cache_read_input_tokens": 9_000, "cache_creation_input_tokens": 0}
    provider.script(ok("Welcome, Mina."), ok("On 12 October.", delay=0.03, usage=used))
    first, second = person.say("I am Mina. I move on 12 October."), person.say("When do I move?")
    for events in (first, second):
        assert [event["type"] for event in events] == ["started", *["text"] * (len(events) - 2), "ended"]
    assert (text(first), text(second)) == ("Welcome, Mina.", "On 12 October.")
    assert len(second) > 3, "the reply did not stream"
    cost = second[-1]["ending"]["cost"]
    assert (cost["prompt_tokens"], cost["cache_read_tokens"]) == (9_010, 9_000)
    assert cost["saved_usd"] > cost["usd"] > 0

    shown = person.read()
    assert [message["text"] for message in shown["messages"]] == [
        "I am Mina. I move on 12 October.",
        "Welcome, Mina.",
        "When do I move?",
        "On 12 October.",
    ]
    assert [message["ending"] for message in shown["messages"][1::2]] == [first[-1]["ending"], second[-1]["ending"]]
    assert shown["active_run"] is None


def test_conversations_are_listed_by_what_was_said_first_and_can_be_deleted(person: Person) -> None:
    long = person.api.post("/api/threads", json={"text": "Where  is\n" + "the rod? " * 20}).json()
    listed = person.api.get("/api/threads").json()
    assert listed == [long, {"id": person.thread, "title": "Hello"}]
    assert long["title"].startswith("Where is the rod?")
    assert len(long["title"]) == 60
    assert person.api.delete(f"/api/threads/{long['id']}").status_code == 204
    assert [one["id"] for one in person.api.get("/api/threads").json()] == [person.thread]


def test_other_users_see_nothing(new_person: Callable[[], Person], provider: ScriptedProvider) -> None:
    owner, stranger = new_person(), new_person()
    run = owner.say("Hi")[0]["run"]
    assert [one["id"] for one in stranger.api.get("/api/threads").json()] == [stranger.thread]
    theirs = f"/api/threads/{owner.thread}"
    for method, path, body in (
        ("GET", theirs, None),
        ("DELETE", theirs, None),
        ("POST", f"{theirs}/messages", {"text": "hi"}),
        ("GET", f"{theirs}/runs/{run}", None),
        ("POST", f"{theirs}/runs/{run}/cancel", None),
        ("GET", f"/api/threads/{stranger.thread}/runs/{run}", None),
        ("POST", f"/api/threads/{stranger.thread}/runs/{run}/cancel", None),
    ):
        assert stranger.api.request(method, path, json=body).status_code == 404, path
        nobody = httpx2.request(method, f"{stranger.api.base_url}{path}", json=body)
        assert nobody.status_code == 401, path
    assert len(owner.read()["messages"]) == 2


def test_signing_in(person: Person, service: Service, chat_key: str, chat_data: Path) -> None:
    assert person.sign_in(new=True).status_code == 409
    person.name = f"  {person.name.upper()} "
    assert person.sign_in(passphrase="wrong horse").status_code == 401
    assert person.sign_in(passphrase="short").status_code == 422
    answer = person.sign_in()
    assert answer.status_code == 204
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    assert [one["id"] for one in person.api.get("/api/threads").json()] == [person.thread]
    with (
        serving(service.url, chat_key, chat_data) as again,
        httpx2.Client(base_url=again, cookies=person.api.cookies) as api,
    ):
        assert api.get("/api/session").json()["name"] == person.name.strip().casefold()
    assert PASSPHRASE.encode() not in (chat_data / "accounts.sqlite").read_bytes()
    person.api.delete("/api/session")
    assert person.api.get("/api/threads").status_code == 401


def test_a_cookie_that_was_not_made_here(new_person: Callable[[], Person]) -> None:
    mine, theirs = new_person(), new_person()
    (user, until, signature) = mine.api.cookies["chat_session"].split(".")
    (other, _, _) = theirs.api.cookies["chat_session"].split(".")
    for forged in (
        f"{other}.{until}.{signature}",
        f"{user}.{int(until) + 1}.{signature}",
        f"{user}.{until}.",
        f"{user}.{until}",
        "x",
        "",
    ):
        answer = httpx2.get(f"{mine.api.base_url}/api/threads", headers={"cookie": f"chat_session={forged}"})
        assert answer.status_code == 401, forged


def test_a_reader_who_leaves_finds_the_reply_again(person: Person, provider: ScriptedProvider) -> None:
    words = " ".join(f"word{number}" for number in range(12))
    provider.script(ok(words, delay=0.1))
    reading = person.hear("Count.")
    heard = [next(reading), next(reading)]
    reading.close()
    run = person.read()["active_run"]
    assert run == heard[0]["run"]
    whole = person.follow(run)
    assert (whole[0]["type"], text(whole)) == ("started", words)
    rest = person.follow(run, heard[-1]["seq"])
    assert text(heard + rest) == words
    assert rest[-1] == whole[-1]
    assert len(person.read()["messages"]) == 2


def test_a_reader_who_leaves_leaves_no_connection(
    service: Service, chat_key: str, tmp_path: Path, provider: ScriptedProvider
) -> None:
    provider.script(stall("One two three.", after=2))
    with cutting(service.url) as way, serving(way.url, chat_key, tmp_path) as url:
        person = Person(url)
        reading = person.hear("Count.")
        run = next(reading)["run"]
        reading.close()
        way.wait_until_open(0)
        assert person.read()["active_run"] == run
        person.api.post(f"/api/threads/{person.thread}/runs/{run}/cancel")
        person.api.close()


def test_stopped(person: Person, provider: ScriptedProvider) -> None:
    provider.script(stall("One two three.", after=2))
    reading = person.hear("Count.")
    heard = [next(reading), next(reading)]
    refused = person.api.post(f"/api/threads/{person.thread}/messages", json={"text": "And?"})
    assert refused.status_code == 409
    assert refused.json()["detail"] == "A reply is still being written here. Wait for it, or stop it."
    assert person.api.post(f"/api/threads/{person.thread}/runs/{heard[0]['run']}/cancel").status_code == 202
    heard += reading
    assert heard[-1]["ending"]["problem"] == "Stopped."
    assert person.read()["messages"][-1]["text"] == text(heard)


def test_a_failure_is_told_in_words_and_the_turn_can_be_taken_again(person: Person, provider: ScriptedProvider) -> None:
    provider.script(status(401), ok("Now."), cut("One two three.", after=2))
    failed = person.say("Hi")
    assert [event["type"] for event in failed] == ["started", "ended"]
    assert failed[-1]["ending"]["problem"].startswith("The model does not accept the key of this service.")
    assert text(person.say(None)) == "Now."
    broken = person.say("And?")
    assert broken[-1]["ending"]["problem"] == "The reply broke off."
    last = person.read()["messages"][-1]
    assert (last["text"], last["ending"]) == (text(broken), broken[-1]["ending"])
    assert person.api.post(f"/api/threads/{person.thread}/messages", json={"text": None}).status_code == 422


def test_the_page_has_all_that_its_script_looks_for(chat: str) -> None:
    page = httpx2.get(f"{chat}/")
    script = httpx2.get(f"{chat}/page.js").text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    ids = set(re.findall(r'id="([\w-]+)"', page.text))
    assert set(re.findall(r"\$\(\"([\w-]+)\"\)", script)) <= ids
    assert "//" not in page.text, "it loads nothing from elsewhere"
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|https?://", script)
    assert httpx2.get(f"{chat}/page.css").headers["content-type"].startswith("text/css")
    assert httpx2.get(f"{chat}/page.py").status_code == 404


def test_every_code_that_has_words_is_one_of_the_service() -> None:
    documented = (REPOSITORY / "docs" / "errors.md").read_text() + (REPOSITORY / "docs" / "providers.md").read_text()
    words = re.search(r"^WORDS = \{\n(.*?)^\}", (HERE / "app.py").read_text(), re.DOTALL | re.MULTILINE)
    assert words
    for code in re.findall(r'^    "(\w+)"', words[1], re.MULTILINE):
        assert f"`{code}`" in documented, code
