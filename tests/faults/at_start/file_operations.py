"""Do something to this process at its n-th file operation, which an audit hook counts.

The plan is JSON: `folder`, in which operations count; `at`, which of them; `do`, a signal or an errno by its name;
`only`, a part of the names of operations that count; `rank`, the only LOCAL_RANK that counts; `count`, a file that
grows by a byte an operation, which tells how many there are.
"""

import errno
import json
import os
import signal
import sys

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "mmap.__new__")


def watch(plan: dict) -> None:
    """Install the hook for a plan."""
    seen = 0
    folder, at, only = plan["folder"], plan.get("at", 0), plan.get("only", "")
    fails = not plan.get("do", "SIG").startswith("SIG")
    count = os.open(plan["count"], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if "count" in plan else None

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        if not (event in OPERATIONS or (event == "open" and (arguments[2] or 0) & WRITES)) or only not in event:
            return
        if fails and event in ("os.remove", "os.rmdir", "mmap.__new__"):  # what no full disk refuses
            return
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ""
        if path.startswith("/") and not path.startswith(folder):
            return
        seen += 1
        if count is not None:
            os.write(count, b".")
        if seen != at:
            return
        if fails:
            code = getattr(errno, plan["do"])
            raise OSError(code, os.strerror(code))
        os.kill(os.getpid(), getattr(signal, plan["do"]))

    sys.addaudithook(hook)


def watch_as_told() -> None:
    """Install the hook if the environment has a plan for this process."""
    plan = json.loads(os.environ.get("FAULTS_PLAN", "null"))
    if plan and plan.get("rank") in (None, int(os.environ.get("LOCAL_RANK", 0))):
        watch(plan)
