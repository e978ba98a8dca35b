from __future__ import annotations

from memory_service.core.rate import Bucket


def test_a_bucket_empties_and_fills_evenly() -> None:
    bucket = Bucket.full(6, 100)
    for left in range(5, -1, -1):
        assert bucket.has_one
        bucket = bucket.take()
        assert int(bucket.tokens) == left
    assert not bucket.has_one
    assert (bucket.seconds_to_one, bucket.seconds_to_full) == (10, 60)
    assert not bucket.at(109.9).has_one
    assert bucket.at(109.9).seconds_to_one == 1
    assert bucket.at(110).has_one
    assert bucket.at(110).seconds_to_full == 50
    assert bucket.at(1_000) == Bucket(6, 6, 1_000), "not fuller than full"


def test_taking_from_an_empty_one_makes_no_debt() -> None:
    bucket = Bucket.full(1, 0).take().take().take()
    assert bucket.at(60).has_one


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket.full(60, 100).take()
    assert bucket.at(50) == bucket
