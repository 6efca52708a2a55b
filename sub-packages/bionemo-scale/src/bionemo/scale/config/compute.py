"""`ComputeConfig` says how a model is computed: on which device, by how many processes, in which precision."""

from dataclasses import dataclass, replace
from enum import StrEnum

from bionemo.scale.config.checking import check_fields
from bionemo.screens.errors import InputError


class Device(StrEnum):
    """Where the tensors are: ``auto`` is ``cuda`` where there is a GPU, and ``cpu`` elsewhere."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class LayerKind(StrEnum):
    """Whose layers a block is made of: torch's, Transformer Engine's, or by ``auto`` the latter where they work."""

    AUTO = "auto"
    LOCAL = "local"
    TRANSFORMER_ENGINE = "transformer_engine"


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass. With ``bf16`` weights and activations are bf16; master weights and
    the optimizer's state stay float32.
    """

    FP32 = "fp32"
    BF16 = "bf16"


class MatmulPrecision(StrEnum):
    """Torch's names for how products of float32 tensors may round their factors."""

    HIGHEST = "highest"
    HIGH = "high"
    MEDIUM = "medium"


class Fp8(StrEnum):
    """How the products of the blocks are scaled to 8 bits: by past maxima, by the tensor's own, or in blocks of 32."""

    NONE = "none"
    DELAYED = "delayed"
    CURRENT = "current"
    MXFP8 = "mxfp8"


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How a model is computed; a run may go on with any of it changed, since the weights mean the same.

    With the defaults it is how a model predicts: in one process, without FP8.
    """

    device: Device = Device.AUTO
    """``auto``, ``cpu`` or ``cuda``."""
    devices: int = 1
    """Processes on each node: a GPU each, or CPU processes where there is no GPU."""
    nodes: int = 1
    """Machines that share a training."""
    threads: int = 1
    """CPU threads of each process. Small models gain nothing from a second one."""
    tensor_parallel: int = 1
    """Processes that share one copy of the model; the others are data-parallel."""
    sequence_parallel: bool = False
    """Split the members of a set over the tensor-parallel ranks wherever their projections are not."""
    layer_spec: LayerKind = LayerKind.AUTO
    """``local`` (torch), ``transformer_engine``, or ``auto``: Transformer Engine where it works."""
    precision: Precision = Precision.FP32
    matmul_precision: MatmulPrecision = MatmulPrecision.HIGHEST
    """Products of float32 tensors: ``highest``, or ``high`` or ``medium``, which round their factors where the machine
    is faster with that (TF32 on a GPU; bf16 on a CPU that multiplies it)."""
    fp8: Fp8 = Fp8.NONE
    """8-bit products in the blocks, in training; needs Transformer Engine, a chip that has them, and
    ``precision=bf16``."""
    recompute: bool = False
    """Compute the inside of a block again in the backward pass instead of keeping it: less memory, more time."""
    compile: bool = False
    """Compile each block (torch.compile): minutes at the start, less time a step where small operations dominate."""
    upload_counts: bool = False
    """Upload cells as the store keeps them and make them dense on the GPU, beside the computation. Same numbers."""

    def __post_init__(self):
        check_fields(self)
        if self.recompute and self.fp8 is not Fp8.NONE:
            raise InputError(f"recompute and fp8={self.fp8} do not go together: leave one out.")
        if self.sequence_parallel and self.tensor_parallel == 1:
            raise InputError(
                "sequence_parallel=true splits over tensor-parallel ranks, and tensor_parallel is 1: raise it, or set "
                "sequence_parallel=false."
            )

    @property
    def on_gpu(self) -> bool:
        """Tell whether the tensors are on a GPU."""
        if self.device is Device.AUTO:
            import torch

            return torch.cuda.is_available()
        return self.device is Device.CUDA

    @property
    def world_size(self) -> int:
        """Count the processes of the whole run."""
        return self.devices * self.nodes

    @property
    def data_parallel(self) -> int:
        """Count the ranks that share the sets of a step."""
        return self.world_size // self.tensor_parallel

    def resolved(self) -> "ComputeConfig":
        """Return these settings with the device of this machine in the place of ``auto``."""
        return replace(self, device=Device.CUDA if self.on_gpu else Device.CPU)
