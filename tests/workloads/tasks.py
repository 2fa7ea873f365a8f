"""An event loop with two tasks that compute, one three times as much as the other, and callbacks that compute as much as the
second. Now and then a task sleeps without awaiting. Says when it runs.

    tasks.py [uvloop]
"""

import asyncio
import sys
import time


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def inner(seconds):
    burn(seconds)


class Shop:
    async def alpha(self):
        while True:
            await inner(0.003)
            await asyncio.sleep(0)


async def beta():
    while True:
        burn(0.001)
        await asyncio.sleep(0)


async def sleeper():
    while True:
        await asyncio.sleep(0.05)
        time.sleep(0.01)


def callback(loop):
    burn(0.001)
    loop.call_soon(callback, loop)


async def main():
    loop = asyncio.get_running_loop()
    loop.call_soon(callback, loop)
    print("READY", flush=True)
    await asyncio.gather(Shop().alpha(), beta(), sleeper())


if sys.argv[1:] == ["uvloop"]:
    import uvloop

    uvloop.install()
asyncio.run(main())
