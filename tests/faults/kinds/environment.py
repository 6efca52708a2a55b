"""Variables of the environment that say nonsense, and places that cannot be written or printed to."""

from faults.trials import ERROR, IDENTICAL, Trial, register_each

ANY = (
    "LC_ALL=C|PYTHONIOENCODING=ascii|LANG=POSIX|OMP_NUM_THREADS=abc|"
    "OMP_NUM_THREADS=0|OMP_NUM_THREADS=-3|OMP_NUM_THREADS=|COLUMNS=1|COLUMNS=x|TERM=dumb|TERM|HOME=/nothing|HOME|"
    "TMPDIR=/nothing|XDG_CACHE_HOME=/proc/x|USER=a/b|NUMBA_CACHE_DIR=/proc/x|NUMBA_NUM_THREADS=1|MPLCONFIGDIR=/proc/x|"
    "TZ=Nowhere/X|FORCE_COLOR=1 NO_COLOR=1"
)
TRAINING = (
    "LOCAL_RANK=1|LOCAL_RANK=x|RANK=1|RANK=-1|WORLD_SIZE=2|WORLD_SIZE=x|MASTER_PORT=x|MASTER_PORT=99999999|MASTER_PORT=1|"
    "MASTER_ADDR=nowhere.invalid|SLURM_JOB_ID=1|SLURM_NTASKS=2 SLURM_JOB_ID=1|SLURM_PROCID=x SLURM_NTASKS=x|"
    "CUDA_VISIBLE_DEVICES=abc|TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1|NODE_RANK=3|GROUP_RANK=x"
)
"""Variables, for one trial each between bars; one without a value is removed."""
PRINTING = ("/dev/full", "closed", "pipe")


def said(trial: Trial, name: str, variables: str) -> str:
    """Run a command line with an environment variable that says nonsense: it works, or says why not."""
    command = trial.command(name)
    pairs = (word.partition("=") for word in trial.turn(variables.split("|")).split())
    done = trial.run(command, environment={key: value if equals else None for key, equals, value in pairs}, real=True)
    if done.code:
        done.check_error()
        return ERROR
    if command.out:  # what is printed depends on the terminal
        trial.compare(command, done)
    return IDENTICAL


def printing(trial: Trial, name: str) -> str:
    """Run a command whose output cannot be printed."""
    command = trial.commands[name]
    done = trial.run(command, real=True, printed_to=trial.turn(PRINTING))
    if command.out:
        trial.compare(command, done)
    return ERROR if done.code else IDENTICAL


register_each(
    "environment",
    said,
    "simulate 14 2, split 14 2, prepare 14 4, inspect 14 2, check 7 2, perteval 7 1, predict 7 1, pretrain 7 1, "
    "reference 3 1, submission 4 0, challenge 6 1, serving 5 0, throughput 6 1, loader 2 0",
    variables=ANY,
)
register_each("ranks-environment", said, "pretrain 17 1, predict 11 1, profile 2 1", variables=TRAINING)
register_each(
    "printing",
    printing,
    "simulate 4 1, prepare 6 1, inspect 6 2, check 4 1, predict 2 1, throughput 3 1, challenge 3 0",
)
