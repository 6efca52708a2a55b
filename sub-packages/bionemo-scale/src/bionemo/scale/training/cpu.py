"""Put the CPU in the place of CUDA where Megatron and NeMo assume it, on a machine without a GPU.

:func:`redirect_cuda_to_cpu` is called by the training entry point, and only where it trains on the CPU. Each
redirection names the line that fails first without it (nemo-toolkit 2.7.3, megatron-core 0.15.3); none can be left out.
After an upgrade, try each.
"""

import functools

import torch

_CPU = torch.device("cpu")


class _NoStream:
    """A `_NoStream` stands in for a CUDA stream where work is already in order."""

    def __init__(self, *_args, **_kwargs):
        pass

    def wait_stream(self, _stream) -> None:
        pass

    def synchronize(self) -> None:
        pass


def _names_cuda(device) -> bool:
    return str(device).startswith("cuda")


def _on_cpu(factory):
    """Wrap a tensor factory so that ``device="cuda"`` and pinned memory mean the CPU."""

    @functools.wraps(factory)
    def create(*args, **kwargs):
        if _names_cuda(kwargs.get("device")):
            kwargs["device"] = _CPU
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return create


def redirect_cuda_to_cpu() -> None:
    """Make the CUDA calls that NeMo and Megatron make without asking mean the CPU, for this whole process.

    Where there is a GPU and the settings ask for the CPU, the libraries are told that there is none.
    """
    if getattr(torch.cuda.current_device, "redirected", False):
        return

    def current_device() -> torch.device:
        return _CPU

    current_device.redirected = True  # type: ignore[attr-defined]
    # megatron/core/distributed/param_and_grad_buffer.py:725, the device of the gradient buffer.
    torch.cuda.current_device = current_device  # type: ignore[assignment]
    torch.cuda.is_available = lambda: False
    # megatron/core/dist_checkpointing/strategies/filesystem_async.py:230, before tensors are written.
    torch.cuda.synchronize = lambda *_args, **_kwargs: None
    # nemo/lightning/megatron_parallel.py:617, DDP is set up inside `torch.cuda.stream(torch.cuda.Stream())`.
    torch.cuda.Stream = _NoStream  # type: ignore[assignment,misc]
    # megatron/core/optimizer/optimizer.py:903, the loss scale.
    torch.tensor = _on_cpu(torch.tensor)
    # megatron/core/pipeline_parallel/schedules.py:573, the token count.
    torch.zeros = _on_cpu(torch.zeros)

    move = torch.Tensor.to

    @functools.wraps(move)
    def to(self, *args, **kwargs):
        if args and _names_cuda(args[0]):
            args = (_CPU, *args[1:])
        return move(self, *args, **kwargs)  # type: ignore[call-overload,arg-type]

    # nemo/lightning/pytorch/strategies/megatron_strategy.py:801, each number that is logged.
    torch.Tensor.to = to  # type: ignore[method-assign]

    name_type = torch.Tensor.type

    @functools.wraps(name_type)
    def type_(self, *args, **kwargs):
        answer = name_type(self, *args, **kwargs)
        return answer.replace("torch.", "torch.cuda.", 1) if isinstance(answer, str) else answer

    # megatron/core/optimizer/clip_grads.py:167, asserts that a gradient's type is "torch.cuda.FloatTensor".
    torch.Tensor.type = type_  # type: ignore[method-assign]

    import nemo.lightning.io.pl as nemo_checkpoint

    # nemo/lightning/io/pl.py, loading a checkpoint asserts that CUDA is initialised before it moves tensors.
    nemo_checkpoint._fix_tensors_device = lambda checkpoint: checkpoint
