"""An asyncio loop that is kept from polling at two lines, and then one that polls all the time and never waits.

    waits_loop.py ROUNDS PAUSE [uvloop]
"""

import asyncio
import json
import sys
import time

ROUNDS = int(sys.argv[1])
PAUSE = float(sys.argv[2])
measured = {}


async def sleeps():
    time.sleep(PAUSE)


async def computes():
    end = time.perf_counter() + PAUSE
    while time.perf_counter() < end:
        sum(range(100))


async def around(function):
    began = time.perf_counter_ns()
    await function()
    took = time.perf_counter_ns() - began
    task = asyncio.current_task()
    one = measured.setdefault(
        function.__name__,
        {"first": function.__code__.co_firstlineno + 1, "ns": 0, "count": 0, "tasks": []},
    )
    one["ns"] += took
    one["count"] += 1
    one["tasks"].append(task.get_name())


async def main():
    loop = asyncio.get_running_loop()
    for round in range(ROUNDS):
        for function in (sleeps, computes):
            # The loop polls before and after.
            await asyncio.sleep(0.01)
            task = loop.create_task(around(function))
            # The others have the name that asyncio gives them.
            if function is sleeps:
                task.set_name(f"sleeper of round {round}")
            await task
    await asyncio.sleep(0.01)
    end = time.perf_counter() + 3 * PAUSE
    while time.perf_counter() < end:
        await asyncio.sleep(0)


print("READY", flush=True)
sys.stdin.readline()
if "uvloop" in sys.argv:
    import uvloop

    asyncio.set_event_loop(uvloop.new_event_loop())
    asyncio.get_event_loop().run_until_complete(main())
else:
    asyncio.run(main())
print(json.dumps(measured), flush=True)
sys.stdin.readline()
