"""Ask NVML and torch about the GPUs: what they are, and the energy that they have used."""

from typing import Any

from bionemo.screens.errors import InputError


def gpu_facts(gpus: int) -> dict[str, Any]:
    """Return the names of the first GPUs and the versions of driver and CUDA; without GPUs only that there are none.

    Raises
    ------
    InputError
        There are fewer GPUs.
    """
    if not gpus:
        return {"gpus": []}
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there < gpus:
        found = f"torch sees {there} GPUs" if there else "torch sees no GPU"
        raise InputError(f"--device cuda --gpus {gpus}: {found} here; use --device cpu, or fewer.")
    names = [torch.cuda.get_device_name(number) for number in range(gpus)]
    driver = _told(lambda nvml: nvml.nvmlSystemGetDriverVersion())
    return {"gpus": names, "cuda": torch.version.cuda, "gpu_driver": driver}


def joules(gpus: int) -> float | None:
    """Return the joules that the first GPUs have used since the driver was loaded; None where they do not tell."""

    def used(nvml: Any) -> float:
        handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(gpus)]
        return sum(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1000

    return _told(used) if gpus else None


def _told(ask: Any) -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
        return ask(pynvml)
    except Exception:  # no library, no driver, or no right to ask: then nothing is told
        return None
