"""Similarities of vectors, brought into the order of the word index; exact ones, and estimates made nearly exact."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64] | npt.NDArray[np.int32]
Vectors = npt.NDArray[np.float32]

# Passages whose estimates are compared with the truth, to learn how the estimates lie.
_SAMPLE = 1_024
# The mean of a few vectors is mostly these few: it counts as if so many more had nothing in common with them.
_UNLIKE = 30


def align(seq: Ints, passage: Ints, found_seq: Ints, found_passage: Ints, found: Floats) -> Floats:
    """What was found, for each (seq, passage) asked for; NaN where nothing was. Both are in ascending order."""
    if np.array_equal(seq, found_seq) and np.array_equal(passage, found_passage):
        return found
    wanted, there = placed(seq, passage), placed(found_seq, found_passage)
    aligned = np.full(len(wanted), np.nan)
    if len(there):
        at = np.minimum(np.searchsorted(there, wanted), len(there) - 1)
        same = there[at] == wanted
        aligned[same] = found[at[same]]
    return aligned


def placed(seq: Ints, passage: Ints) -> npt.NDArray[np.int64]:
    """One number for each passage, in the same order."""
    return seq.astype(np.int64) << 32 | passage.astype(np.int64)


def sample(count: int) -> npt.NDArray[np.int64]:
    """Passages at even distances: the same ones for the same thread."""
    return np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))


def typical(count: int) -> npt.NDArray[np.int64]:
    """Passages that show what all have in common, taken from the first `steady` ones."""
    return sample(steady(count))


def steady(count: int) -> int:
    """How many passages there are, rounded down: the same until there are up to a quarter more."""
    low = max(count.bit_length() - 3, 0)
    return count >> low << low


def common_part(mean: npt.ArrayLike, count: int) -> Vectors:
    """What all passages have in common, by the mean of `count` of their vectors; it says nothing of any of them.

    The dot product with `query - common_part` is a passage's likeness to the query less its mean likeness to the others.
    """
    common: Vectors = (np.asarray(mean, np.float64) * (count / (count + _UNLIKE))).astype(np.float32)
    return common


def common_of(vectors: Vectors) -> Vectors:
    """As `common_part`, of the vectors of all passages; there must be some."""
    rows = vectors[typical(len(vectors))]
    return common_part(rows.mean(axis=0, dtype=np.float64), len(rows))


def calibrate(estimate: Floats, sampled: Ints, exact: Floats) -> Floats:
    """Estimates with the mean and the spread of the exact similarities, as far as a sample of these tells.

    What the sample's estimates have more or less of than all is taken into account by as much as estimates are right.
    """
    known = ~(np.isnan(exact) | np.isnan(estimate[sampled]))
    of_sample, truth = estimate[sampled][known], exact[known]
    if not len(truth) or not of_sample.std() or not truth.std():
        return estimate
    slope = float(np.mean((of_sample - of_sample.mean()) * (truth - truth.mean())) / of_sample.var())
    some_missing = np.isnan(estimate).any()  # to leave them out takes longer
    mean, spread = (np.nanmean(estimate), np.nanstd(estimate)) if some_missing else (estimate.mean(), estimate.std())
    true_mean = truth.mean() + slope * (mean - of_sample.mean())
    true_variance = truth.var() + slope**2 * (spread**2 - of_sample.var())
    calibrated: Floats = (estimate - mean) / spread * max(true_variance, 0.0) ** 0.5 + true_mean
    return calibrated


def pack_signs(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """The signs of vectors, a bit each, filled up to whole words."""
    bits = np.packbits(vectors > 0, axis=-1)
    return words_of(bits)


def words_of(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Rows of bytes as rows of words, the last filled up. In memory it is columns that stand in one piece."""
    padded = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, -bits.shape[-1] % 8)])
    return np.asfortranarray(np.ascontiguousarray(padded).view(np.uint64))


def cosines_by_signs(signs: npt.NDArray[np.uint64], query: npt.NDArray[np.uint64], dimensions: int) -> Floats:
    """Estimates of cosines: the share of signs that differ is the angle over pi."""
    differing = np.zeros(len(signs), dtype=np.uint16)
    for word, asked in zip(signs.T, query, strict=True):  # faster than sums of a few numbers for each row
        differing += np.bitwise_count(word ^ asked)
    cosines: Floats = np.cos(np.arange(dimensions + 1) * (np.pi / dimensions))[differing]
    return cosines
