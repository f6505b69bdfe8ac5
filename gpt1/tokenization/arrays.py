"""Every different chunk of a text is looked up once; from there to the ids of the text, whole arrays are worked on.

numpy and pyarrow are for what encodes. A tokenizer that is only loaded does without them, and without this file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.compute

IdArray = npt.NDArray[np.uint32]


def ids_from_bytes(ids: bytes) -> IdArray:
    """What bpe.packed packed."""
    return np.frombuffer(ids, np.uint32)


def concat_ids(parts: Sequence[IdArray]) -> IdArray:
    return parts[0] if len(parts) == 1 else np.concatenate([ids_from_bytes(b""), *parts])


def unique_chunks(blocks: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The different chunks of the blocks; which of them each chunk is [chunks]; after how many chunks each block ends.

    A block is text without white space at its ends; its chunks are what `block.split()` gives, four times as fast.
    """
    pool = pyarrow.system_memory_pool()  # as fast here as pyarrow's own, and it holds no memory back: 30 MB a process
    split = pyarrow.compute.utf8_split_whitespace(to_arrow_strings(blocks), memory_pool=pool)
    encoded = pyarrow.compute.dictionary_encode(split.values, memory_pool=pool)
    ends = arrow_to_numpy(split.offsets)[1:].astype(np.int64)
    return encoded.dictionary.to_pylist(), arrow_to_numpy(encoded.indices), ends


def to_arrow_strings(texts: Sequence[str]) -> pyarrow.LargeStringArray:
    """As pyarrow.array, which would import pandas where there is one."""
    data = [text.encode() for text in texts]
    starts = np.cumsum([0, *map(len, data)], dtype=np.int64)
    return pyarrow.LargeStringArray.from_buffers(
        len(data), pyarrow.py_buffer(starts), pyarrow.py_buffer(b"".join(data))
    )


def arrow_to_numpy(array: pyarrow.Int32Array) -> npt.NDArray[np.int32]:
    """As array.to_numpy(), which would import pandas, too."""
    return np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array)]


def gather_ids(table: Sequence[bytes], indices: npt.NDArray[np.int32]) -> tuple[IdArray, npt.NDArray[np.int64]]:
    """The ids of row `indices[0]` of a table of packed ids, then of row `indices[1]` and so on; where each of them ends."""
    ids = ids_from_bytes(b"".join(table))
    sizes = np.fromiter(map(len, table), np.int64, len(table)) // ids.itemsize
    n = sizes[indices]
    ends = n.cumsum()
    shift = (sizes.cumsum() - sizes)[indices] - (ends - n)  # from its place in the result to that in the table
    return ids[np.arange(ends[-1]) + shift.repeat(n)], ends
