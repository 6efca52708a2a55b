"""Let one process at a time work in a directory."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import IO, Any

_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def locked(path: Path) -> IO[Any] | None:
    """Lock a file, which is made where there is none, until it is closed or this process ends.

    Return the open file, or None where another process has it. The one who holds the lock may remove the file. Some
    network file systems have no locks: there everybody gets one.

    Raises
    ------
    OSError
        The file cannot be made.
    """
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                file.close()
                if error.errno in _HELD:
                    return None
                raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # it was removed before the lock was taken
