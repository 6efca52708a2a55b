"""Copy batches to a GPU and make them dense there, while the batch before is computed with."""

from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import torch

from bionemo.cellsets.loading.batches import SetBatch
from bionemo.cellsets.loading.csr_batches import CsrBatch
from bionemo.cellsets.loading.loader import SetLoader
from bionemo.screens.errors import InputError


class DeviceBatches:
    """A `DeviceBatches` iterates over the batches of a staged loader, their cells dense on a device.

    On a GPU the next batch is copied from page-locked memory and made dense on a stream of its own, and the stream of
    the computation waits for it on the device, never the host. Elsewhere the same happens in order.

    Parameters
    ----------
    loader : SetLoader
        A loader made with `staged`.
    device : torch.device or str
        The device that the cells go to.
    dtype : {torch.float32, torch.bfloat16}
        Type of the dense cells.

    Raises
    ------
    InputError
        If the loader is not staged.
    """

    def __init__(self, loader: SetLoader, device: torch.device | str, dtype: torch.dtype = torch.float32):
        if not loader.staged:
            raise InputError("The loader hands out dense batches: make it with staged=True to upload stored values")
        self.loader, self.device, self.dtype = loader, torch.device(device), dtype
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._state: dict[str, Any] | None = None
        self._running: Generator[SetBatch, None, None] | None = None

    def __len__(self) -> int:
        """Return the batches of a pass from its beginning."""
        return len(self.loader)

    def __iter__(self) -> Iterator[SetBatch]:
        """Yield batches: `perturbed` and `control` on the device, what describes them on the host.

        As with the loader, an iterator that was begun before ends.
        """
        self.close()
        self._running = self._batches()
        return self._running

    def close(self) -> None:
        """End the iteration, if one runs; what was uploaded ahead is read again."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _batches(self) -> Generator[SetBatch, None, None]:
        source = iter(self.loader)
        ahead: deque[tuple[_Upload, dict[str, Any]]] = deque()
        try:
            for staged in source:
                ahead.append((_Upload(staged, self.device, self.dtype, self._stream), self.loader.state_dict()))
                if len(ahead) > 1:
                    yield self._hand_over(*ahead.popleft())
            while ahead:
                yield self._hand_over(*ahead.popleft())
        finally:
            source.close()
            if ahead and self._state is not None and self.loader.epochs is None:
                self.loader.load_state_dict(self._state)  # what was uploaded ahead is read again

    def _hand_over(self, upload: "_Upload", state: dict[str, Any]) -> SetBatch:
        self._state = state
        return upload.finish()

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's state as of the last batch that was handed out, not of those uploaded ahead."""
        return dict(self._state) if self._state is not None else self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a place; see `SetLoader.load_state_dict`."""
        self.close()
        self.loader.load_state_dict(state)
        self._state = None


class _Upload:
    """An `_Upload` is a batch on its way to the device."""

    def __init__(self, staged: CsrBatch, device: torch.device, dtype: torch.dtype, stream: "torch.cuda.Stream | None"):
        self._done = None
        self._staged = staged  # its memory must not be filled anew before it is copied
        with torch.cuda.stream(stream):
            cells = {
                name: getattr(staged, name).to(device, non_blocking=True).densify(dtype)
                for name in ("perturbed", "control")
            }
            if stream is not None:
                self._done = stream.record_event()
        self._batch = SetBatch(**vars(staged) | cells)

    def finish(self) -> SetBatch:
        """Return the batch, in order with what the current stream does next."""
        if self._done is not None:
            current = torch.cuda.current_stream(self._batch.perturbed.device)
            current.wait_event(self._done)
            for cells in (self._batch.perturbed, self._batch.control):
                cells.record_stream(current)
        return self._batch
