"""Memory for batches that is used again: fresh memory costs a page fault for every 4 kB, as long as filling it does."""

import functools
import math
import weakref

import numpy as np
import torch

_LINE = 64
"""Bytes of a cache line: where one begins, whole ones can be written past the caches."""
_KEPT = 4
"""Pieces of memory that are kept though the one asked for fits none: those of cells and of pointers take turns."""


class Memory:
    """Hands out tensors, and takes their memory back when nothing refers to them any more.

    A batch, a view of one of its tensors, or a NumPy array of it keeps its memory. Where CUDA is there, memory is
    page-locked and torch's allocator takes it back, which waits for copies to a device that are under way.
    """

    def __init__(self):
        self._free: list[np.ndarray] = []
        self._pinned = torch.cuda.is_available()

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor of any content."""
        return self.take_side_by_side((math.prod(shape), dtype))[0].view(shape)

    def take_side_by_side(self, *parts: tuple[int, torch.dtype]) -> list[torch.Tensor]:
        """Return tensors of one dimension, given by length and type, in one piece of memory that they keep together."""
        begins, size = [], 0
        for length, dtype in parts:
            begins.append(size)
            size += -(-length * dtype.itemsize // _LINE) * _LINE
        if size == 0:
            return [torch.empty(0, dtype=dtype) for _, dtype in parts]
        if self._pinned:  # views of one tensor, so that the allocator knows of copies of each
            whole = torch.empty(size, dtype=torch.uint8, pin_memory=True)
            return [
                whole[begin : begin + length * dtype.itemsize].view(dtype)
                for begin, (length, dtype) in zip(begins, parts, strict=True)
            ]
        block = self._large_enough(size)
        lent = block[:size]
        weakref.finalize(lent, self._free.append, block).atexit = False
        # An array made of another would keep only what that one is made of. Of a memoryview it keeps that, and so
        # `lent`; and torch keeps the array.
        return [_tensor(lent.data, begin, *part) for begin, part in zip(begins, parts, strict=True)]

    def _large_enough(self, size: int) -> np.ndarray:
        for place in reversed(range(len(self._free))):  # the last one given back may still be in the cache
            block = self._free[place]
            # Not one far too large, or small things would keep large ones waiting.
            if size <= len(block) <= 2 * size + 4096:
                return self._free.pop(place)
        if len(self._free) > _KEPT:  # of other sizes; what no batch asks for must not add up
            self._free.pop(0)
        # An eighth more than asked for: batches of stored values differ a little in size.
        memory = np.empty(size + size // 8 + _LINE, dtype=np.uint8)
        return memory[-memory.ctypes.data % _LINE :]


def _tensor(memory: memoryview, begin: int, length: int, dtype: torch.dtype) -> torch.Tensor:
    if length == 0:
        return torch.empty(0, dtype=dtype)
    tensor = torch.from_numpy(np.frombuffer(memory, _numpy_type(dtype), length, begin))
    return tensor if tensor.dtype == dtype else tensor.view(dtype)


@functools.cache
def _numpy_type(dtype: torch.dtype) -> np.dtype:
    # NumPy knows no bfloat16.
    return np.dtype(np.uint16) if dtype == torch.bfloat16 else torch.empty(0, dtype=dtype).numpy().dtype
