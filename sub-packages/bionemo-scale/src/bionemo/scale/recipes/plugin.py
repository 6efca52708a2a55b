"""What `nemo scale ...` finds: the entry point of group ``nemo_run.cli``.

``nemo scale pretrain --factory scale_tiny store=... split=... out=... --yes``
"""

import nemo_run as run

import bionemo.scale.recipes.pretrain  # noqa: F401  registers the factories
from bionemo.scale.training import pretrain as _training

pretrain = run.cli.entrypoint(namespace="scale")(_training.pretrain)
