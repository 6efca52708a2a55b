"""A plug-in of pytest that lets newer releases of Megatron-Core be imported where there is no Triton.

They import it for kernels that need a GPU. Torch and transformers, which look for it as well, are asked first.
"""

import sys
from unittest import mock

import torch._inductor.compile_fx  # noqa: F401
import transformers.utils  # noqa: F401

NAMES = ("triton", "triton.language")
sys.modules.update({name: mock.MagicMock(__version__="3.4.0") for name in NAMES})
import bionemo.scale.runs.load  # noqa: E402, F401

for name in NAMES:
    del sys.modules[name]
