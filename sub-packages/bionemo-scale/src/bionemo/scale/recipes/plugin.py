"""What `nemo scale ...` finds: the entry point of group ``nemo_run.cli``.

``nemo scale pretrain --factory scale_tiny store=... split=... out=... --yes``
"""

import logging
import sys
from collections.abc import Callable

import nemo_run as run
import typer
from nemo_run.cli.api import RunContext
from nemo_run.cli.cli_parser import CLIException

from bionemo.cellsets import InputError as CellsError
from bionemo.scale.errors import InputError, Stopped
from bionemo.scale.quiet import hush
from bionemo.scale.recipes.overrides import configured
from bionemo.scale.recipes.pretrain import RECIPES
from bionemo.scale.training import pretrain as _training


class OneSentence(RunContext):
    """nemo-run's context; a user's mistake ends the command with one sentence and exit code 2, as in our own."""

    def cli_execute(self, fn: Callable, args: list[str], *rest, **options) -> None:
        """Parse ``args`` and run ``fn``."""
        hush()
        # It logs, at length, what it raises.
        logging.getLogger("nemo_run.cli.cli_parser").setLevel(logging.CRITICAL)
        try:
            try:
                super().cli_execute(fn, args, *rest, **options)
            except CLIException:
                # nemo-run's message is its whole configuration; ours names the setting.
                if self.factory in RECIPES:
                    configured(self.factory, args)
                raise
        except (InputError, CellsError) as mistake:
            # fiddle adds lines about the call it made.
            typer.secho(f"error: {str(mistake).splitlines()[0]}", fg="red", err=True)
            sys.exit(2)
        except Stopped as stopped:
            typer.secho(f"stopped: {stopped}", fg="red", err=True)
            sys.exit(stopped.exit_code)


pretrain = run.cli.entrypoint(namespace="scale", run_ctx_cls=OneSentence)(_training.pretrain)
