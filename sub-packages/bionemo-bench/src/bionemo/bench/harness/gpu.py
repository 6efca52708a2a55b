"""What NVML says of the GPUs: what they are, and the energy they use."""

from typing import Any

from bionemo.screens.errors import InputError


def gpu_facts(device: str, gpus: int) -> dict[str, Any]:
    """Return names of the GPUs that are used and versions of driver and CUDA; nothing for a CPU.

    Raises
    ------
    InputError
        If there are fewer GPUs.
    """
    if device == "cpu":
        return {"gpus": []}
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there < gpus:
        found = f"torch sees {there} GPUs" if there else "torch sees no GPU"
        raise InputError(f"--device cuda --gpus {gpus}: {found} here; use --device cpu, or fewer.")
    names = [torch.cuda.get_device_name(number) for number in range(gpus)]
    return {"gpus": names, "cuda": torch.version.cuda, "gpu_driver": _driver()}


class Energy:
    """A meter of the joules that the first `gpus` GPUs have used; None where they do not tell."""

    def __init__(self, gpus: int):
        self._handles = []
        if gpus:
            try:
                import pynvml

                pynvml.nvmlInit()
                self._handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(gpus)]
            except Exception:  # no library, no driver, or no right to ask: then nothing is told
                self._handles = []

    def read(self) -> float | None:
        """Return joules since the driver was loaded."""
        if not self._handles:
            return None
        import pynvml

        try:
            return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles) / 1000
        except pynvml.NVMLError:
            return None

    def since(self, before: float | None) -> float | None:
        """Return joules used since `before` was read."""
        now = self.read()
        return None if now is None or before is None else now - before


def _driver() -> str | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # as above
        return None
