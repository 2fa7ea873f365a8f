# What `pstats` makes of a file: [file, line, name, calls, primitive calls, cumulative time] of each function, and that it
# can be printed.
import io
import json
import pstats
import sys

text = io.StringIO()
stats = pstats.Stats(sys.argv[1], stream=text)
rows = [
    [file, line, name, calls, primitive, cumulative]
    for (file, line, name), (primitive, calls, own, cumulative, callers) in stats.stats.items()
]
stats.sort_stats("ncalls").print_stats()
stats.print_callers()
stats.print_callees()
assert "function calls" in text.getvalue()
print(json.dumps({"rows": rows, "total": stats.total_calls, "primitive": stats.prim_calls}))
