"""The built-in embedder: the same vectors everywhere, and Korean that is told apart."""

from __future__ import annotations

import asyncio
import threading
from hashlib import sha256
from importlib.resources import files

import numpy as np
import pytest

from memory_service.errors import EmbedderUnavailable
from memory_service.providers.base import Embedder
from memory_service.providers.embeddings import static
from memory_service.providers.embeddings.builtin import BuiltinEmbedder

TEXTS = [
    "The ferry to the island leaves at nine from pier five.",
    "what's GitHub",
    "Ünïcödé déjà vu, naïve façade",
    "고양이가 라디에이터 위에서 자고 있어요.",
    "내일 React 스터디는 몇 시에 시작해?",
    "東京タワーへ行きたい",
    "Как зовут мою собаку?",
    "ต้มยำกุ้งอร่อยมาก",
    "हिन्दी में लिखा हुआ वाक्य",
    "2026-11-21 14:30, 5번 선착장",
    "x" * 101 + " 🙂 ok",
    "word " * 400,
]
NOTHING = ["", " \n\t ", "🙂 👩‍👩‍👧", "… !? —", "\ud83d", "́"]


@pytest.fixture(scope="module")
def embedder() -> BuiltinEmbedder:
    return BuiltinEmbedder()


def similarity(embedder: BuiltinEmbedder, one: str, other: str) -> float:
    first, second = embedder.embed([one, other])
    return float(first @ second)


# Each vector in eight parts, each part added up: no number of it can change unseen.
GOLDEN = {
    "The ferry to the island leaves at nine from pier five.": [
        -0.485267,
        -0.158285,
        0.204104,
        0.145788,
        0.699784,
        0.064563,
        0.0,
        0.0,
    ],
    "what's GitHub": [-0.751637, 0.928041, -0.214753, -0.107377, 0.049853, 0.026844, 0.0, 0.0],
    "Ünïcödé déjà vu, naïve façade": [0.09277, -0.445295, -0.231924, -0.255117, -0.081173, -0.146112, 0.0, 0.0],
    "고양이가 라디에이터 위에서 자고 있어요.": [
        0.105986,
        0.347879,
        -0.166608,
        0.078049,
        0.233195,
        -0.287158,
        0.022028,
        -0.320345,
    ],
    "내일 React 스터디는 몇 시에 시작해?": [
        -0.263207,
        0.169731,
        0.223484,
        -0.205779,
        -0.357082,
        0.735209,
        0.335568,
        -0.3388,
    ],
    "東京タワーへ行きたい": [-0.229416, 0.458831, 0.229416, -0.229416, 0.229416, 0.229416, 0.0, -0.458831],
    "Как зовут мою собаку?": [-0.490554, -0.057902, -0.490554, 0.424671, 0.0, -0.444232, -0.334541, 0.207157],
    "ต้มยำกุ้งอร่อยมาก": [0.249332, -0.352609, 0.073028, -0.176305, 0.176305, 0.528914, -0.146056, -0.425637],
    "हिन्दी में लिखा हुआ वाक्य": [-0.148382, 0.185478, 0.49106, 0.165896, -0.259213, -0.212266, -0.72838, -0.259213],
}


@pytest.mark.parametrize("text", TEXTS[:9])
def test_vectors_never_change(embedder: BuiltinEmbedder, text: str) -> None:
    assert embedder.name == "builtin:1"  # other vectors are another embedder: give it another number
    parts = embedder.embed([text])[0].reshape(8, 48).sum(axis=1)
    assert parts == pytest.approx(GOLDEN[text], abs=1e-5)


def test_the_artefact_is_the_one_that_was_measured() -> None:
    folder = files("memory_service") / "assets" / "embedder"
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    for name in ("model.safetensors", "tokenizer.json"):
        assert sha256((folder / name).read_bytes()).hexdigest() in card


def test_a_damaged_artefact_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(static._ARTEFACT_SHA256, "model.safetensors", "0" * 64)
    with pytest.raises(EmbedderUnavailable, match=r"model\.safetensors is damaged") as caught:
        BuiltinEmbedder().load()
    assert not caught.value.is_retryable


def test_it_is_an_embedder(embedder: BuiltinEmbedder) -> None:
    async def use(it: Embedder) -> None:
        assert (it.name, it.dimensions, it.inline) == ("builtin:1", 384, True)
        passages = await it.embed_passages(TEXTS)
        assert passages.shape == (len(TEXTS), it.dimensions)
        assert passages.dtype == np.float32
        assert ((await it.embed_query(TEXTS[0])) == passages[0]).all()
        assert (await it.embed_passages([])).shape == (0, it.dimensions)
        await it.close()

    asyncio.run(use(embedder))


def test_a_long_batch_does_not_keep_the_event_loop_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = BuiltinEmbedder()
    threads: list[int] = []
    work = embedder._embed_batch
    monkeypatch.setattr(embedder, "_embed_batch", lambda texts: (threads.append(threading.get_ident()), work(texts))[1])
    asyncio.run(embedder.embed_passages(["short"]))
    asyncio.run(embedder.embed_passages(["long " * 1000]))
    assert threads[0] == threading.get_ident() != threads[1]


def test_a_text_gives_the_same_vector_whatever_stands_beside_it(embedder: BuiltinEmbedder) -> None:
    many = (TEXTS + NOTHING) * 40
    together = embedder.embed(many)
    backwards = embedder.embed(many[::-1])[::-1]
    alone = np.concatenate([embedder.embed([text]) for text in many[: len(TEXTS + NOTHING)]] * 40)
    assert np.array_equal(together, alone)
    assert np.array_equal(together, backwards)
    assert np.array_equal(together, BuiltinEmbedder().embed(many))


def test_every_vector_is_of_length_one_or_zero(embedder: BuiltinEmbedder) -> None:
    assert np.linalg.norm(embedder.embed(TEXTS), axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)
    assert not embedder.embed(NOTHING).any()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Kim's café", "KIM'S CAFÉ"),
        ("ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
        ("고양이 밥", "고양이 밥"),  # precomposed and in jamo
        ("ПРИВЕТ, МИР", "привет мир!"),
    ],
)
def test_how_a_text_is_written_does_not_matter(embedder: BuiltinEmbedder, one: str, other: str) -> None:
    assert similarity(embedder, one, other) == pytest.approx(1)


PARAPHRASES = [
    ("우리 강아지 이름이 뭐였지?", "강아지 이름을 뭐라고 지었더라"),
    ("이번 주말에 제주도로 여행을 가요", "주말에 제주도 여행 가기로 했어"),
    ("엄마 생신 선물로 스카프를 샀다", "스카프는 엄마 생신 선물이야"),
    ("견과류 알레르기가 있어서 땅콩은 못 먹어요", "땅콩 같은 견과류에 알레르기 있어"),
    ("회의를 세 시에서 네 시로 미뤄 주세요", "회의 시간을 네 시로 미루자"),
    ("요즘 허리가 아파서 수영을 배우고 있어", "허리 아픈 것 때문에 수영 배운다"),
    ("面接は来週の火曜日です", "来週火曜日に面接がある"),
    ("我对花生过敏，不能吃", "不能吃花生，因为过敏"),
    ("Завтра я лечу в Сеул", "лечу завтра утром в сеул"),
]


def test_other_scripts_are_told_apart(embedder: BuiltinEmbedder) -> None:
    """Every paraphrase is nearer than every unrelated sentence, and unrelated ones do not look alike."""
    ones = embedder.embed([one for one, _ in PARAPHRASES])
    others = embedder.embed([other for _, other in PARAPHRASES])
    similarities = ones @ others.T
    unrelated = similarities[~np.eye(len(PARAPHRASES), dtype=bool)]
    assert similarities.diagonal().min() > unrelated.max()
    assert similarities.diagonal().min() > 0.3
    assert abs(unrelated.mean()) < 0.1


def test_particles_and_endings_count_for_little(embedder: BuiltinEmbedder) -> None:
    assert similarity(embedder, "고양이가", "고양이를") > 2 * similarity(embedder, "고양이가", "강아지가")
    assert similarity(embedder, "먹었어요", "먹습니다") > similarity(embedder, "먹었어요", "잤어요")


def test_english_is_compared_by_meaning(embedder: BuiltinEmbedder) -> None:
    dog = "Her puppy is afraid of thunder"
    assert similarity(embedder, dog, "The dog hides during storms") > similarity(
        embedder, dog, "The car needs new tyres"
    )
    assert similarity(embedder, "what's github", "can you explain what GitHub is") > 0.8


def test_a_mixed_text_is_near_to_both_its_parts(embedder: BuiltinEmbedder) -> None:
    mixed = "어제 회의에서 PostgreSQL migration 일정을 정했어"
    korean, english = "회의에서 일정을 정했어", "postgresql migration"
    assert similarity(embedder, mixed, korean) > 0.4
    assert similarity(embedder, mixed, english) > 0.4
    assert abs(similarity(embedder, korean, english)) < 0.2
