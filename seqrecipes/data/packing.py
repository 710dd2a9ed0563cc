"""From documents to records: packed blocks, or pairs of segments.

Unrelated documents share a block, separated by [DOC] (Soltan et al. 2023, section 2.2). A document
that does not fit goes on in the next block, so no token is lost and only the last block of a
shard can be short. A pair is two adjacent segments of a document (VECO, section 2.2), or a text
and its translation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

Tokens = Sequence[int] | np.ndarray
Pair = tuple[np.ndarray, np.ndarray]


def pack(documents: Iterable[Tokens], payload: int, doc_id: int) -> Iterator[np.ndarray]:
    """Cuts the stream `document [DOC] document ...` into blocks of exactly `payload` tokens.

    A separator that would be the first or the last token of a block is left out. Documents without
    tokens are skipped. With [DOC]=99 and a payload of 5:

        documents  [[10, 11], [20], [30, 31, 32, 33], [40]]
        blocks     [[10, 11, 99, 20, 30], [31, 32, 33, 99, 40]]

    (the separator between 20 and 30 would have ended the first block), and

        documents  [[10, 11, 12, 13, 14, 15], [20]]
        blocks     [[10, 11, 12, 13, 14], [15, 99, 20]]

    Args:
      documents: int sequences, one a document.
      payload: tokens per block, at least 1.
      doc_id: the separator.

    Yields:
      int32[payload] arrays; the last may be shorter.
    """
    block, filled = np.empty(payload, np.int32), 0
    for document in documents:
        taken, size = 0, len(document)
        if size and 0 < filled < payload - 1:
            block[filled] = doc_id
            filled += 1
        while taken < size:
            count = min(payload - filled, size - taken)
            block[filled : filled + count] = document[taken : taken + count]
            filled, taken = filled + count, taken + count
            if filled == payload:
                yield block
                block, filled = np.empty(payload, np.int32), 0
    if filled:
        yield block[:filled]


def adjacent_segments(documents: Iterable[Tokens], payload: int) -> Iterator[Pair]:
    """Pairs of neighbouring segments, each of at most `payload` tokens, of one document.

    A document is cut into pieces of 2 `payload` tokens, the last one shorter, and every piece into
    halves. Where one token is left over it has no neighbour and goes. With a payload of 3:

        documents  [[10, 11, 12, 13, 14, 15, 16, 17, 18], [20, 21], [30]]
        pairs      [10, 11, 12] [13, 14, 15]
                   [16, 17] [18]
                   [20] [21]
    """
    for document in documents:
        tokens = np.asarray(document, np.int32)
        for start in range(0, tokens.size - 1, 2 * payload):
            piece = tokens[start : start + 2 * payload]
            middle = (piece.size + 1) // 2
            yield piece[:middle], piece[middle:]


def join_pairs(pairs: Iterable[Pair], payload: int, doc_id: int) -> Iterator[Pair]:
    """Puts consecutive pairs together, [DOC] between them, while both segments fit.

    It fills segments of which most would be padding otherwise. With [DOC]=99 and a payload of 5:

        pairs   [10, 11] [20]    [12] [21]    [13, 14] [22, 23]
        joined  [10, 11, 99, 12] [20, 99, 21]    [13, 14] [22, 23]
    """
    firsts: list[np.ndarray] = []
    seconds: list[np.ndarray] = []
    sizes = [0, 0]
    separator = np.array([doc_id], np.int32)
    for first, second in pairs:
        if firsts and max(sizes[0] + first.size, sizes[1] + second.size) >= payload:
            yield np.concatenate(firsts), np.concatenate(seconds)
            firsts, seconds, sizes = [], [], [0, 0]
        if firsts:
            firsts.append(separator)
            seconds.append(separator)
        firsts.append(first)
        seconds.append(second)
        sizes = [sum(map(len, firsts)), sum(map(len, seconds))]
    if firsts:
        yield np.concatenate(firsts), np.concatenate(seconds)
