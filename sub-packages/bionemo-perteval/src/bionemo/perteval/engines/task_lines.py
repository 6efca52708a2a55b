"""Answer JSON tasks, one a line on stdin, by one JSON answer a line on stdout; the scripts beside this file use it.

Imports nothing of this package, which is not installed where the scripts run.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any


def answer_tasks(solve: Callable[[dict[str, Any]], Any]) -> None:
    """Answer tasks until stdin ends; what the libraries print goes nowhere, so that stdout holds answers only."""
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        try:
            answer = {"answer": solve(json.loads(line))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
