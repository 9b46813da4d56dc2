"""`python -m bench gpu`: one command that measures EqIDs on one GPU, part by part.

| question | file |
|---|---|
| which parts exist, what does each measure, how long may it take? | `gpu_parts.py` |
| what are the sizes of a case? | `gpu_cases.py` |
| what are the flags? | `gpu_options.py` |
| how do parts share the time, and where do results go? | `run_parts.py` |
| what runs a part? | `part_process.py`, a process of its own |
| which card, driver and versions; how fast is a matrix product? | `card.py` |
| where do weights and histories come from? | `device_step.py`, `made_histories.py` |
| how is the result printed? | `gpu_tables.py` |

Each part has a file `…_part.py` with a function `measure(case, context)`. Nothing here
imports what only the preparation of data needs (ibis, duckdb, pyarrow and so on) but
`served_part.py`, which is left out where that is missing.
"""
