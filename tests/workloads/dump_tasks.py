"""Tasks of asyncio in two loops, waiting in every way there is, and what the program itself says of them."""

import asyncio
import gc
import json
import sys
import threading
import time
import types


async def leaf(event):
    await event.wait()


async def middle(event):
    await leaf(event)


async def locker(lock):
    async with lock:
        await asyncio.sleep(3600)


async def numbers(event):
    yield 1
    await leaf(event)
    yield 2


async def consumer(event):
    async for _ in numbers(event):
        pass


async def sleeper(seconds):
    await asyncio.sleep(seconds)


async def getter(queue):
    return await asyncio.wait_for(queue.get(), 500)


async def gatherer(event):
    await asyncio.gather(middle(event), sleeper(1000), sleeper(1001))


async def grouper(event):
    async with asyncio.TaskGroup() as group:
        group.create_task(middle(event), name="group-a")
        group.create_task(sleeper(77), name="group-b")


async def waiter(tasks):
    await asyncio.wait(tasks)


async def joiner(task):
    await task


async def shielder(task):
    await asyncio.shield(task)


async def one_of_two(tasks):
    await tasks["two"]


async def two_of_two(tasks):
    await tasks["one"]


class Awaitable:
    def __init__(self, event):
        self.event = event

    def __await__(self):
        return (yield from leaf(self.event).__await__())


async def custom(event):
    await Awaitable(event)


@types.coroutine
def old_style(event):
    yield from leaf(event).__await__()


async def old(event):
    await old_style(event)


def chain(coroutine):
    """Functions and lines, outermost first."""
    told = []
    while coroutine is not None:
        if hasattr(coroutine, "cr_frame"):
            frame, coroutine = coroutine.cr_frame, coroutine.cr_await
        elif hasattr(coroutine, "ag_frame"):
            frame, coroutine = coroutine.ag_frame, coroutine.ag_await
        elif hasattr(coroutine, "gi_frame"):
            frame, coroutine = coroutine.gi_frame, coroutine.gi_yieldfrom
        else:
            kinds = ("async_generator", "coroutine")
            below = [x for x in gc.get_referents(coroutine) if type(x).__name__ in kinds]
            coroutine = below[0] if below else None
            continue
        if frame is None:
            break
        told.append([frame.f_code.co_name, frame.f_lineno])
    return told


def account(loop, tid, running):
    for task in asyncio.all_tasks(loop):
        if task is not running:
            yield {"name": task.get_name(), "tid": tid, "chain": chain(task.get_coro())}


async def other_main(told, ready):
    event = asyncio.Event()
    tasks = [asyncio.create_task(sleeper(2000 + number), name="other-%d" % number) for number in range(2)]
    tasks.append(asyncio.create_task(consumer(event), name="other-numbers"))
    await asyncio.sleep(0.3)
    running = asyncio.current_task()
    told.extend(account(asyncio.get_running_loop(), threading.get_native_id(), running))
    ready.set()
    await asyncio.sleep(1e6)


async def main():
    event, lock, queue, tasks = asyncio.Event(), asyncio.Lock(), asyncio.Queue(), []

    def make(coroutine, name):
        tasks.append(asyncio.create_task(coroutine, name=name))
        return tasks[-1]

    first = make(middle(event), "middle")
    for name in ("lock-1", "lock-2"):
        make(locker(lock), name)
    make(consumer(event), "агент")
    make(sleeper(999), "sleeper")
    make(getter(queue), "getter")
    make(gatherer(event), "gatherer")
    if hasattr(asyncio, "TaskGroup"):
        make(grouper(event), "grouper")
    make(waiter([first]), "waiter")
    make(joiner(first), "joiner")
    make(shielder(first), "shielder")
    make(custom(event), "custom")
    make(old(event), "old")
    circle = {}
    circle["one"] = make(one_of_two(circle), "one")
    circle["two"] = make(two_of_two(circle), "two")
    for number in range(30):
        make(sleeper(5000), "crowd-%d" % number)
    told, ready = [], threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(other_main(told, ready)), name="other", daemon=True)
    thread.start()
    await asyncio.sleep(0.5)
    ready.wait()
    make(sleeper(1), "fresh")
    told.extend(account(asyncio.get_running_loop(), threading.get_native_id(), asyncio.current_task()))
    awaits = [("joiner", "middle"), ("waiter", "middle"), ("shielder", "middle"), ("one", "two"), ("two", "one")]
    if hasattr(asyncio, "TaskGroup"):
        awaits += [("grouper", "group-a"), ("grouper", "group-b")]
    print(json.dumps({"tasks": told, "awaits": awaits, "tid": threading.get_native_id()}))
    print("READY", flush=True)
    # The loop does not go on: what was told stays true.
    sys.stdin.readline()


if "uvloop" in sys.argv[1:]:
    import uvloop

    uvloop.install()
asyncio.run(main())
