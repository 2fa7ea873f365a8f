# Children by subprocess and by multiprocessing, when told to. The parent spins for as long as they do.
import multiprocessing
import os
import subprocess
import sys
from time import thread_time

HERE = os.path.dirname(os.path.abspath(__file__))


def spin():
    end = thread_time() + 0.4
    while thread_time() < end:
        pass


def pool_work(_number):
    spin()


def spawned_work():
    spin()


def parent_work():
    spin()


def main():
    print("READY", flush=True)
    sys.stdin.readline()
    # An own interpreter, for which this file is `__mp_main__`.
    spawned = multiprocessing.get_context("spawn").Process(target=spawned_work)
    spawned.start()
    started = subprocess.Popen([sys.executable, os.path.join(HERE, "family_child.py")])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        done = pool.map_async(pool_work, [1, 2], chunksize=1)
        parent_work()
        done.get()
    spawned.join()
    started.wait()
    print("DONE", flush=True)


if __name__ == "__main__":
    main()
