"""Side-by-side benchmarks: several arms, each in a process and an environment of its own, in turn in one run.

What any such benchmark needs is in `environments`, `worker`, `alternation`, `machine` and `page_cache`. The loader's
own part is `loader` (the run), `arms` (what is compared), `formats`, `screen` and `large_store` (the data) and `report`
(tables and plot). `drivers` holds the scripts that the arms' processes execute.
"""
