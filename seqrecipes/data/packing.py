"""Packing documents of one language into blocks of equal size.

Unrelated documents share a block, separated by [DOC] (Soltan et al. 2023, section 2.2). A document
that does not fit goes on in the next block, so no token is lost and only the last block of a
language can be short.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np


def pack(
    documents: Iterable[Sequence[int]] | Iterable[np.ndarray], payload: int, doc_id: int
) -> Iterator[np.ndarray]:
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
