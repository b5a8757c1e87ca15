#!/usr/bin/env bash
# memray 1.20.0, CPython 3.10-3.13: memory in use is laid to a function that has freed all of it.
#
# `warm_up` makes 2,000 tuples of ten and frees them; then `cache` makes as many and keeps them: some
# 240,000 bytes. Of what is in use in the end memray, which traces Python's allocators as well, lays
# these 240,000 bytes to `warm_up`, and to `cache` no more than its list.
#
# CPython keeps up to 2,000 freed tuples of each length below 20 for the next one that is wanted (other
# numbers of lists, dicts and floats): no allocator hears of their second life, so whoever follows
# allocators takes the first owner for the one that holds them. One would expect the function that holds
# the memory, as it is shown where a full collection, which empties these lists, stands between the two.
# So before memory is measured: gc.collect(), after whatever warms the program up.
set -euo pipefail

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/venv"
"$directory/venv/bin/python" -m pip install --quiet memray==1.20.0
cd "$directory"

"$directory/venv/bin/python" - <<'PYTHON'
import gc
import platform

import memray


def warm_up(kept):
    for number in range(2_000):
        kept.append(tuple([number] * 10))


def cache(held):
    for number in range(2_000):
        held.append(tuple([number] * 10))


def in_use(path, between):
    """Bytes in use in the end by function, as memray has them."""
    kept, held = [], []
    with memray.Tracker(path, trace_python_allocators=True):
        warm_up(kept)
        kept.clear()
        between()
        cache(held)
    found = dict.fromkeys(("warm_up", "cache"), 0)
    with memray.FileReader(path) as reader:
        for record in reader.get_leaked_allocation_records(merge_threads=True):
            for function, _, _ in record.stack_trace():
                if function in found:
                    found[function] += record.size
                    break
    return found


print("CPython", platform.python_version(), "memray", memray.__version__)
plain = in_use("plain.bin", lambda: None)
collected = in_use("collected.bin", gc.collect)
print("in use                      ", plain)
print("with a collection in between", collected)
# Nearly all of them: one or two may have been in the free list before.
tuples = 0.95 * 2_000 * 120
assert plain["warm_up"] >= tuples and plain["cache"] < tuples / 2, plain
assert collected["warm_up"] < tuples / 10 and collected["cache"] >= tuples, collected
PYTHON
