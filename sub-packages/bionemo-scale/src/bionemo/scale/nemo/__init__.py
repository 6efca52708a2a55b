"""The nemo room is what `nemo scale ...` finds: recipes and executors for nemo-run."""

import sys

from bionemo.scale.quiet import hush_imports

if sys.argv[1:2] == ["scale"]:
    # nemo-run imports the entry points of all packages before it looks at the command.
    hush_imports()
