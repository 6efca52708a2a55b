"""Stand-ins for ``srun``, ``scontrol`` and ``sbatch``: tasks are processes here, with the variables that Slurm sets.

``python fake_slurm.py srun ARGUMENTS`` starts them and ends with their highest exit code, as srun does; SIGTERM goes to
all of them, and with ``--kill-on-bad-exit`` they end when one fails. Every call is noted in ``$FAKE_SLURM_LOG``.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def srun(arguments: list[str]) -> int:
    """Run a command once a task; the container's options are noted and nothing else."""
    options, command = {}, []
    for number, argument in enumerate(arguments):
        if not argument.startswith("--"):
            command = arguments[number:]
            break
        key, _, value = argument.removeprefix("--").partition("=")
        options[key] = value
    tasks = int(options.get("ntasks", os.environ["SLURM_NTASKS"]))
    per_node = int(options.get("ntasks-per-node", os.environ["SLURM_NTASKS_PER_NODE"]))
    started = [
        subprocess.Popen(command, env={**os.environ, **_variables(rank, tasks, per_node)}, start_new_session=True)
        for rank in range(tasks)
    ]

    def end(*_) -> None:
        for task in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(task.pid, signal.SIGTERM)

    Path(os.environ["FAKE_SLURM_LOG"] + ".pid").write_text(str(os.getpid()))
    signal.signal(signal.SIGTERM, end)
    while any(task.poll() is None for task in started):
        if "kill-on-bad-exit" in options and any(task.returncode for task in started):
            end()
        time.sleep(0.05)
    return max(code if code >= 0 else 128 - code for code in (task.wait() for task in started))


def _variables(rank: int, tasks: int, per_node: int) -> dict[str, str]:
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank % per_node),
        "SLURM_NODEID": str(rank // per_node),
        "SLURM_NTASKS": str(tasks),
        "SLURM_NTASKS_PER_NODE": str(per_node),
        "SLURM_STEP_ID": "0",
    }


def main() -> int:
    """Do what the first argument says."""
    program, *arguments = sys.argv[1:]
    with Path(os.environ["FAKE_SLURM_LOG"]).open("a") as log:
        log.write(json.dumps([program, *arguments]) + "\n")
    if program == "srun":
        return srun(arguments)
    if program == "scontrol" and arguments[:2] == ["show", "hostnames"]:
        sys.stdout.write(arguments[2].replace(",", "\n") + "\n")
    if program == "sbatch":
        Path(os.environ["FAKE_SLURM_LOG"]).with_name("queued.sh").write_text(sys.stdin.read())
    return 0


if __name__ == "__main__":
    sys.exit(main())
