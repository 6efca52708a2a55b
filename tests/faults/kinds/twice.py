"""Two operators start the same thing at once, or one reads what the other replaces."""

import time

from faults.kinds.kill import prepared
from faults.sandbox import Found
from faults.trials import ERROR, IDENTICAL, Trial, register, register_each


def at_once(trial: Trial, name: str) -> str:
    """Start a command twice, the second a little later: one result, and each ends well or says why not."""
    command = prepared(trial, name)
    first = trial.start(command, real=trial.number % 8 == 0)
    time.sleep(trial.rng.uniform(0, command.seconds) * trial.rng.random())
    ends = [trial.start(command, real=trial.number % 8 == 0).finish(), first.finish()]
    for end in ends:
        if end.code:
            end.check_error()
    if all(end.code for end in ends):
        raise Found("lost", f"neither works: {ends[0].sentence} | {ends[1].sentence}")
    trial.settle(command)
    return ERROR if any(end.code for end in ends) else IDENTICAL


def different(trial: Trial) -> str:
    """Start two trainings that differ in one directory: the run is the one or the other, whole."""
    one = trial.commands["pretrain"]
    first = trial.start(one)
    time.sleep(trial.rng.uniform(0, one.seconds))
    second = trial.run([*one.words, "training.learning_rate=0.0123"])
    end = first.finish()
    for each in (second, end):
        if each.code:
            each.check_error()
    if end.code:
        raise Found("lost", f"the first one was stopped: {end.sentence}")
    trial.settle(one)
    return ERROR if second.code else IDENTICAL


def read_while_replaced(trial: Trial) -> str:
    """Look at a store over and over while it is replaced: it is always one or the other."""
    command = prepared(trial, "overwrite")
    writer, looks = trial.start(command), 0
    while not writer.ended():
        look = trial.run(["bionemo-scale", "inspect", "store"])
        looks += 1
        if look.code:
            raise Found("lost", f"look {looks}: {look.sentence}")
    writer.finish()
    return trial.settle(command)


register_each(
    "twice",
    at_once,
    "simulate 11 2, split 11 2, prepare 26 3, overwrite 19 3, predict 11 2, export 11 2, import 13 3, evaluate 7 1, "
    "pretrain 13 2, finetune 3 1, shards 6 1, merged 6 1, submission 4 0, challenge 4 0, serving 4 1, throughput 4 0",
)
register("twice-different-pretrain", 11, 2, different)
register("read-while-overwrite", 19, 2, read_while_replaced)
