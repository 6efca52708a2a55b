"""A real Slurm cluster that lives in a folder: munged, slurmctld and a slurmd for each node, all on this machine.

Debian's packages ``slurm-wlm`` and ``munge`` have what it needs. Nothing of it outlives `Cluster.stop`.
"""

import contextlib
import getpass
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo", "sdiag")

CONFIGURATION = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=20
KillWait=300
MessageTimeout=60
JobRequeue=1
MinJobAge=3600
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PartitionName=work Nodes=ALL Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=600
PartitionName=urgent Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
"""
NODE = "NodeName={name} NodeAddr={name} NodeHostname={host} Port={port} CPUs=2 RealMemory=4000 Gres=gpu:2\n"


def missing_programs() -> list[str]:
    """Return the programs of Slurm and munge that this machine lacks."""
    return [name for name in PROGRAMS if not shutil.which(name, path=_search_path())]


class Cluster:
    """A cluster of nodes, each with two slots for tasks, which Slurm counts as GPUs.

    The nodes are named 127.0.0.1, 127.0.0.2, ...: a job finds its first node by its name, which has to resolve.

    Parameters
    ----------
    folder
        An empty folder for keys, logs and state.
    nodes
        Number of nodes.
    """

    def __init__(self, folder: Path, nodes: int = 2):
        self.folder, self.nodes = folder, [f"127.0.0.{number + 1}" for number in range(nodes)]
        self.environment = {**os.environ, "PATH": _search_path(), "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Write the configuration, start every daemon, and wait until all nodes are idle."""
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        host, (port, *ports) = socket.gethostname(), _free_ports(1 + len(self.nodes))
        text = CONFIGURATION.format(folder=self.folder, host=host, user=getpass.getuser(), port=port)
        for name, own in zip(self.nodes, ports, strict=True):
            text += NODE.format(name=name, host=host, port=own)
        (self.folder / "slurm.conf").write_text(text)
        for slot in range(2):
            (self.folder / f"slot{slot}").touch()
        slots = f"Name=gpu File={self.folder}/slot[0-1]"
        (self.folder / "gres.conf").write_text("".join(f"NodeName={name} {slots}\n" for name in self.nodes))
        munge = {name: f"--{name}-file={self.folder}/munge/{name}" for name in ("key", "pid", "log", "seed")}
        self._run("munged", "--force", f"--socket={self.folder}/munge/socket", *munge.values())
        self._run("slurmctld", "-c")
        for name in self.nodes:
            self.start_node(name)
        self.wait_until_idle()

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        self._run("slurmd", "-N", name)

    def wait_until_idle(self) -> None:
        """Wait until every node is there and free, and the controller has nothing left to tell one."""
        idle = ["idle"] * len(self.nodes)
        wait_for(lambda: self.command("sinfo", "-hN", "-o", "%T", "-p", "work").split() == idle)
        # What is to be told, and what is being told.
        wait_for(lambda: re.search(r"Agent queue size: +0\nAgent count: +0\n", self.command("sdiag")))

    def kill_node(self, name: str) -> None:
        """Kill the daemon of a node and all that runs there, as a power cut would."""
        file = self.folder / f"{name}.pid"
        own = [int(file.read_text())] if file.exists() else []
        steps = processes_of("slurmstepd: ", self.folder / f"{name}.log")
        for pid in [*own, *(task for step in steps for task in _descendants(step)), *steps]:
            _kill(pid)

    def stop(self) -> None:
        """End every job and every daemon."""
        for name in self.nodes:
            self.kill_node(name)
        for file in (self.folder / "slurmctld.pid", self.folder / "munge" / "pid"):
            if file.exists():
                _kill(int(file.read_text()), signal.SIGTERM)

    def command(self, *arguments: str, check: bool = True) -> str:
        """Run one of Slurm's commands and return what it printed."""
        return self._run(*arguments, check=check)

    def job(self, number: str) -> dict[str, str]:
        """Return what ``scontrol show job`` says of a job, by field."""
        shown = self.command("scontrol", "--oneliner", "show", "job", number)
        return dict(re.findall(r"(\w+)=(\S*)", shown))

    def wait(self, number: str, *states: str, seconds: float = 900) -> dict[str, str]:
        """Wait until a job is in one of some states (RUNNING, COMPLETED, ...); return what is known of it then."""
        wait_for(lambda: self.job(number)["JobState"] in states, seconds)
        return self.job(number)

    def _run(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(arguments, env=self.environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 or not check, f"{' '.join(arguments)}: {done.stderr}"
        return done.stdout


def wait_for(condition: Callable[[], object], seconds: float = 900) -> None:
    """Wait until a condition holds, and fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def processes_of(program: str, file: Path) -> list[int]:
    """Return the processes whose command begins so, and that have a file open."""
    return [pid for pid, command in _processes() if command.startswith(program) and _has_open(pid, file)]


def _search_path() -> str:
    return os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))


def _free_ports(count: int) -> list[int]:
    """Return ports below those of the jobs, and of connections, which might take one while its daemon is down."""
    found: list[int] = []
    for port in random.sample(range(10_000, 20_000), 1000):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found


def _processes() -> list[tuple[int, str]]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found.append((int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
            except OSError:
                continue
    return found


def _has_open(pid: int, file: Path) -> bool:
    try:
        return any(os.readlink(link) == str(file) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [found for child in children for found in (child, *_descendants(child))]


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
