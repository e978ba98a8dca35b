"""Vectors of passages: written beside their message, compared in Postgres. Each embedder has a table of its own.

Vectors travel in Postgres's binary form, a tenth of the time of text. Reading returns whole threads as arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

from memory_service.store.db import IN_BINARY, Session
from memory_service.store.embedders import EmbedderRecord
from memory_service.store.session import text, unnested

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_BIGINT_OID = 20


@dataclass(frozen=True, slots=True)
class MessageVectors:
    """The vectors of a message's passages, in their order, and what made them."""

    embedder: EmbedderRecord
    rows: Vectors


@dataclass(frozen=True, slots=True)
class ThreadSimilarities:
    """How like a query the passages of a thread are, in the order of seq and passage."""

    thread_pk: int
    seq: Numbers
    passage: Numbers
    similarity: Floats


@dataclass(frozen=True, slots=True)
class _Halfvecs:
    """A parameter: one halfvec, or with `element_oid` an array of them."""

    rows: Vectors = field(repr=False)
    element_oid: int | None = None

    def dump(self) -> bytes:
        count, dimensions = self.rows.shape
        record = np.zeros(
            count, dtype=[("size", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("values", ">f2", dimensions)]
        )
        record["size"] = 4 + 2 * dimensions
        record["dim"] = dimensions
        record["values"] = self.rows
        if self.element_oid is None:
            return record.tobytes()[4:]
        return np.array([1, 0, self.element_oid, count, 1], dtype=">u4").tobytes() + record.tobytes()


class _BinaryDumper(Dumper):
    """Its type is what the statement casts the parameter to."""

    format = Format.BINARY

    def dump(self, obj: _Halfvecs | _Bigints) -> bytes:
        return obj.dump()


@dataclass(frozen=True, slots=True)
class _Bigints:
    """A parameter: an array of them. A list would be written number by number."""

    numbers: Sequence[int] | Numbers

    def dump(self) -> bytes:
        record = np.zeros(len(self.numbers), dtype=[("size", ">i4"), ("value", ">i8")])
        record["size"] = 8
        record["value"] = self.numbers
        return np.array([1, 0, _BIGINT_OID, len(self.numbers), 1], dtype=">u4").tobytes() + record.tobytes()


psycopg.adapters.register_dumper(_Halfvecs, _BinaryDumper)
psycopg.adapters.register_dumper(_Bigints, _BinaryDumper)


#: Vectors, if there are any, of the message (thread_pk, seq).
Made = tuple[int, int, MessageVectors | None]


def table_of(vectors: Sequence[Made]) -> str | None:
    """The table that vectors go to; None when there are none. They are all made by one embedder."""
    return next((made.embedder.table for *_, made in vectors if made is not None and len(made.rows)), None)


def vector_rows(vectors: Sequence[Made]) -> dict[str, Any]:
    """The parameters of INSERT_ROWS; there must be some."""
    given = [(pk, seq, made) for pk, seq, made in vectors if made is not None and len(made.rows)]
    assert len({made.embedder.pk for *_, made in given}) == 1
    return {
        "vector_threads": [pk for pk, _, made in given for _ in made.rows],
        "vector_seqs": [seq for _, seq, made in given for _ in made.rows],
        "vector_passages": [number for *_, made in given for number in range(1, len(made.rows) + 1)],
        "vectors": _Halfvecs(np.concatenate([made.rows for *_, made in given]), given[0][2].embedder.element_oid),
    }


_GIVEN = unnested({"vector_threads": "bigint", "vector_seqs": "int", "vector_passages": "int", "vectors": "halfvec"})
#: Into the table of one embedder, rows of one project.
INSERT_ROWS = f"""
    INSERT INTO {{table}} (thread_pk, seq, passage, project_id, embedding)
    SELECT thread_pk, seq, passage, :project_id, embedding
    FROM {_GIVEN} AS vector (thread_pk, seq, passage, embedding)
"""


#: Messages of one project, for every embedder that searches use or will use, but for the one that made their vectors.
ENQUEUE = """
    INSERT INTO pending_embeddings (thread_pk, seq, embedder_pk, project_id)
    SELECT new.thread_pk, new.seq, embedder.pk, :project_id FROM {new}, embedders embedder
    WHERE embedder.status <> 'retired' AND embedder.pk IS DISTINCT FROM new.embedded_by AND new.terms <> ''
"""


async def renew(session: Session, thread_pk: int, seq: int, made: MessageVectors | None) -> None:
    """Write the vectors of a message whose text is new, and queue it for the embedders that did not make any."""
    await forget(session, thread_pk, seq)
    place = {"project_id": session.info["project_id"]}
    if table := table_of([(thread_pk, seq, made)]):
        rows = vector_rows([(thread_pk, seq, made)])
        await session.execute(text(INSERT_ROWS.format(table=table)), place | rows)
    new = (
        "(SELECT thread_pk, seq, terms, CAST(:embedded_by AS bigint) AS embedded_by FROM message_terms"
        " WHERE thread_pk = :thread_pk AND seq = :seq) AS new"
    )
    place |= {"thread_pk": thread_pk, "seq": seq, "embedded_by": made and made.embedder.pk}
    await session.execute(text(ENQUEUE.format(new=new)), place)


@dataclass(frozen=True, slots=True)
class PlacedVectors:
    """The vectors of a message of any thread and project."""

    thread_pk: int
    seq: int
    project_id: int
    rows: Vectors


async def add_many(session: Session, embedder: EmbedderRecord, placed: Sequence[PlacedVectors]) -> None:
    """Write the vectors of many messages; of those that have some already, these."""
    rows = [(p.thread_pk, p.seq, number, p.project_id) for p in placed for number in range(1, len(p.rows) + 1)]
    if not rows:
        return
    thread_pks, seqs, passages, project_ids = zip(*rows, strict=True)
    await session.execute(
        text(
            f"INSERT INTO {embedder.table} (thread_pk, seq, passage, project_id, embedding)"
            " SELECT * FROM unnest(CAST(:thread_pks AS bigint[]), CAST(:seqs AS int[]), CAST(:passages AS int[]),"
            " CAST(:project_ids AS bigint[]), CAST(:vectors AS halfvec[]))"
            " ON CONFLICT (thread_pk, seq, passage) DO UPDATE SET embedding = excluded.embedding"
        ),
        {
            "thread_pks": list(thread_pks),
            "seqs": list(seqs),
            "passages": list(passages),
            "project_ids": list(project_ids),
            "vectors": _Halfvecs(np.concatenate([p.rows for p in placed]), embedder.element_oid),
        },
    )


async def forget(session: Session, thread_pk: int, seq: int) -> None:
    """Delete a message's vectors, and what waits to make some, of every embedder."""
    await session.execute(text("SELECT forget_vectors(:thread_pk, :seq)"), {"thread_pk": thread_pk, "seq": seq})


async def copy(session: Session, source_pk: int, target_pk: int, last_seq: int) -> None:
    """Give a fork the vectors of its source up to a seq; what has none yet is queued for it too."""
    await session.execute(
        text("SELECT copy_vectors(:source, :target, :last_seq)"),
        {"source": source_pk, "target": target_pk, "last_seq": last_seq},
    )


async def similarities(
    session: Session,
    embedder: EmbedderRecord,
    thread_pks: Sequence[int],
    query: Vectors,
    before_seq: int | None = None,
) -> list[ThreadSimilarities]:
    """Dot products of all passages of some threads with a query, or of those before a seq."""
    measure = "-(embedding <#> (SELECT CAST(:query AS halfvec)))"
    return await _compare(session, embedder, thread_pks, before_seq, measure, query)


@dataclass(frozen=True, slots=True)
class ThreadVectors:
    """The vectors of a thread's passages in their order, or their signs: eight in a byte."""

    seq: Numbers
    passage: Numbers
    rows: npt.NDArray[Any]


async def thread_vectors(
    session: Session, embedder: EmbedderRecord, thread_pk: int, first_seq: int, before_seq: int, *, signs: bool
) -> ThreadVectors:
    """Those of the messages between two seqs."""
    sent = "bit_send(signs)" if signs else "halfvec_send(embedding)"
    found = await session.execute(
        text(
            "SELECT string_agg(int8send(place), NULL) AS places, string_agg(vector, NULL) AS vectors FROM ("
            f"SELECT CAST(seq AS bigint) << 32 | passage AS place, {sent} AS vector FROM {embedder.table}"
            " WHERE thread_pk = :thread_pk AND seq >= :first_seq AND seq < :before_seq ORDER BY seq, passage) AS read"
        ),
        {"thread_pk": thread_pk, "first_seq": first_seq, "before_seq": before_seq},
        execution_options=IN_BINARY,
    )
    places, vectors = found.one()
    place = np.frombuffer(places or b"", dtype=">i8").astype(np.int64)
    header = 4  # the number of bits; or of dimensions, and a field that is not used
    number = ("u1", (embedder.dimensions + 7) // 8) if signs else (">f2", embedder.dimensions)
    record = np.frombuffer(vectors or b"", dtype=[("header", "u1", header), ("vector", *number)])
    rows = record["vector"] if signs else record["vector"].astype(np.float32)
    return ThreadVectors(place >> 32, place & 0xFFFFFFFF, rows)


async def sign_similarities(
    session: Session,
    embedder: EmbedderRecord,
    thread_pks: Sequence[int],
    query: Vectors,
    before_seq: int | None = None,
) -> list[ThreadSimilarities]:
    """Estimates of their cosines to it, from the signs alone: the share of them that differ is the angle over pi."""
    measure = f"signs <~> (SELECT binary_quantize(CAST(:query AS halfvec))::bit({embedder.dimensions:d}))"
    found = await _compare(session, embedder, thread_pks, before_seq, measure, query)
    turn = np.pi / embedder.dimensions
    return [ThreadSimilarities(t.thread_pk, t.seq, t.passage, np.cos(t.similarity * turn)) for t in found]


async def _compare(
    session: Session,
    embedder: EmbedderRecord,
    thread_pks: Sequence[int],
    before_seq: int | None,
    measure: str,
    query: Vectors,
) -> list[ThreadSimilarities]:
    """Two arrays for each thread; the subquery in `measure` is run once, not for each row."""
    rows = await session.execute(
        text(
            "SELECT thread_pk, string_agg(int8send(place), NULL) AS places,"
            f" string_agg(float4send(measure), NULL) AS measures FROM ("
            f"SELECT thread_pk, CAST(seq AS bigint) << 32 | passage AS place, CAST({measure} AS real) AS measure"
            f" FROM {embedder.table} WHERE thread_pk = ANY (CAST(:thread_pks AS bigint[]))"
            + (" AND seq < :before_seq" if before_seq is not None else "")
            + " ORDER BY thread_pk, seq, passage) AS compared GROUP BY thread_pk ORDER BY thread_pk"
        ),
        {"query": _Halfvecs(query[np.newaxis]), "thread_pks": list(thread_pks), "before_seq": before_seq},
        execution_options=IN_BINARY,
    )
    return [_thread_similarities(row.thread_pk, row.places, row.measures) for row in rows]


def _thread_similarities(thread_pk: int, places: bytes, measures: bytes) -> ThreadSimilarities:
    place = np.frombuffer(places, dtype=">i8").astype(np.int64)
    return ThreadSimilarities(thread_pk, place >> 32, place & 0xFFFFFFFF, _floats(measures))


def _floats(sent: bytes) -> Floats:
    return np.frombuffer(sent, dtype=">f4").astype(np.float64)


async def similarities_at(
    session: Session,
    embedder: EmbedderRecord,
    query: Vectors,
    thread_pks: Sequence[int] | Numbers,
    seqs: Sequence[int] | Numbers,
    passages: Sequence[int] | Numbers,
) -> Floats:
    """Dot products of single passages, in the order asked for; NaN where there is no vector."""
    rows = await session.execute(
        text(
            "SELECT string_agg(int8send(at), NULL) AS places, string_agg(float4send(measure), NULL) AS measures FROM ("
            "SELECT wanted.at, CAST(-(v.embedding <#> (SELECT CAST(:query AS halfvec))) AS real) AS measure FROM"
            " unnest(CAST(:thread_pks AS bigint[]), CAST(:seqs AS bigint[]), CAST(:passages AS bigint[]))"
            " WITH ORDINALITY AS wanted (thread_pk, seq, passage, at)"
            f" JOIN {embedder.table} v ON v.thread_pk = wanted.thread_pk AND v.seq = wanted.seq"
            " AND v.passage = wanted.passage) AS compared"
        ),
        {
            "query": _Halfvecs(query[np.newaxis]),
            "thread_pks": _Bigints(thread_pks),
            "seqs": _Bigints(seqs),
            "passages": _Bigints(passages),
        },
        execution_options=IN_BINARY,
    )
    row = rows.one()
    found = np.full(len(seqs), np.nan)
    if row.places is not None:
        found[np.frombuffer(row.places, dtype=">i8").astype(np.int64) - 1] = _floats(row.measures)
    return found


async def mean_at(
    session: Session,
    embedder: EmbedderRecord,
    thread_pks: Sequence[int] | Numbers,
    seqs: Sequence[int] | Numbers,
    passages: Sequence[int] | Numbers,
) -> tuple[Floats, int]:
    """The mean of those vectors of single passages that there are, zeros without any, and how many these are."""
    rows = await session.execute(
        text(
            "SELECT CAST(avg(v.embedding) AS real[]) AS mean, count(*) AS found FROM"
            " unnest(CAST(:thread_pks AS bigint[]), CAST(:seqs AS bigint[]), CAST(:passages AS bigint[]))"
            " AS wanted (thread_pk, seq, passage)"
            f" JOIN {embedder.table} v ON v.thread_pk = wanted.thread_pk AND v.seq = wanted.seq"
            " AND v.passage = wanted.passage"
        ),
        {"thread_pks": _Bigints(thread_pks), "seqs": _Bigints(seqs), "passages": _Bigints(passages)},
    )
    row = rows.one()
    return np.asarray(row.mean or [0.0] * embedder.dimensions), int(row.found)
