"""Where Megatron and NeMo assume CUDA, and what stands in for it on a machine without a GPU.

:func:`redirect_cuda_to_cpu` is called by the training entry point, and only where CUDA is absent. Each redirection
names the line that needs it (nemo-toolkit 2.7.3, megatron-core 0.15.3, lightning 2.4); the first thing to try after an
upgrade is to take one out.
"""

import contextlib
import functools

import torch

_CPU = torch.device("cpu")
_FACTORIES = ("tensor", "zeros", "ones", "empty", "full")


class _NoStream:
    """A CUDA stream where work is already in order."""

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

    Raises
    ------
    RuntimeError
        CUDA is available: nothing must be redirected.
    """
    if torch.cuda.is_available():
        raise RuntimeError("CUDA is available: train on it")
    if getattr(torch.cuda.current_device, "redirected", False):
        return

    def current_device() -> torch.device:
        return _CPU

    current_device.redirected = True  # type: ignore[attr-defined]
    # megatron.core.tensor_parallel.layers: default device of every parallel layer's weight.
    torch.cuda.current_device = current_device  # type: ignore[assignment]
    # megatron.core.pipeline_parallel.schedules and nemo.lightning's checkpoint connector synchronise around a step.
    torch.cuda.synchronize = lambda *_args, **_kwargs: None
    # nemo.lightning.megatron_parallel: DDP is set up inside `torch.cuda.stream(torch.cuda.Stream())`.
    torch.cuda.Stream = _NoStream  # type: ignore[assignment,misc]
    torch.cuda.stream = lambda *_args, **_kwargs: contextlib.nullcontext()  # type: ignore[assignment]
    torch.cuda.current_stream = lambda *_args, **_kwargs: _NoStream()  # type: ignore[assignment,return-value]
    # megatron.core.optimizer.clip_grads and distributed.finalize_model_grads collect scalars with `.cuda()`.
    torch.Tensor.cuda = lambda self, *_args, **_kwargs: self  # type: ignore[assignment,method-assign]
    # nemo.lightning megatron_strategy: `torch.tensor(step, pin_memory=True).to("cuda")` before each logged number;
    # megatron.core.optimizer: `torch.tensor(..., device="cuda")`.
    for name in _FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    move = torch.Tensor.to

    @functools.wraps(move)
    def to(self, *args, **kwargs):
        if args and _names_cuda(args[0]):
            args = (_CPU, *args[1:])
        return move(self, *args, **kwargs)  # type: ignore[call-overload,arg-type]

    torch.Tensor.to = to  # type: ignore[method-assign]
    # megatron.core.optimizer.clip_grads: asserts that a gradient's type is "torch.cuda.FloatTensor".
    name_type = torch.Tensor.type

    @functools.wraps(name_type)
    def type_(self, *args, **kwargs):
        answer = name_type(self, *args, **kwargs)
        return answer.replace("torch.", "torch.cuda.", 1) if isinstance(answer, str) else answer

    torch.Tensor.type = type_  # type: ignore[method-assign]
    # nemo.lightning.io.pl: loading a checkpoint asserts that CUDA is initialised before it moves tensors.
    import nemo.lightning.io.pl as nemo_checkpoint

    nemo_checkpoint._fix_tensors_device = lambda checkpoint: checkpoint
