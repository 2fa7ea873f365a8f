"""A machine on which everything comes and goes: short processes of executables that nobody has seen before, code that is
made and thrown away, mappings of ever new files.

    load.py DIRECTORY BURN PYTHON SECONDS PROCESSES EXECUTABLES

PROCESSES and EXECUTABLES are spread over the SECONDS. BURN is a small program, PYTHON an interpreter, of which there is a
copy for each LOAD_EACH_PYTHON (20) of BURN; copies of both are run in DIRECTORY. At the end one more copy of each runs for
longer: `last-burn` and `last-python`.
"""

import mmap
import os
import shutil
import sys
import time

MADE = """
def made_{0}():
    total = 0
    for number in range(2000):
        total += number * number
    return total
made_{0}()
"""
CHILD = """
import time
def last_inner(until):
    while time.process_time() < until:
        sum(range(1000))
def last_outer(until):
    last_inner(until)
def short_inner():
    return sum(range(50000))
def short_outer():
    for _ in range(5):
        short_inner()
import sys
last_outer(float(sys.argv[1])) if len(sys.argv) > 1 else short_outer()
"""


def main():
    directory, burn, python = sys.argv[1:4]
    seconds, processes, executables = float(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6])
    each_python = int(os.environ.get("LOAD_EACH_PYTHON", 20))
    child = os.path.join(directory, "child.py")
    with open(child, "w") as file:
        file.write(CHILD)
    environment = {"PYTHONHOME": os.environ["LOAD_PYTHONHOME"], "PATH": os.environ["PATH"]}

    def copy(of, name):
        path = os.path.join(directory, name)
        shutil.copyfile(of, path)
        os.chmod(path, 0o755)
        return path

    def spawn(path, *arguments):
        return os.posix_spawn(path, [path, *arguments], environment)

    print("READY", flush=True)
    began = time.monotonic()
    made = copies = 0
    current = []
    while made < processes:
        elapsed = time.monotonic() - began
        due = min(processes, int(processes * elapsed / seconds) + 1)
        if made >= due:
            time.sleep(0.002)
            continue
        if copies * processes <= made * executables:
            copies += 1
            for path in current:
                os.unlink(path)
            current = [copy(burn, f"burn-{copies}"), copy(python, f"python-{copies}") if copies % each_python == 0 else None]
            current = [path for path in current if path]
        pids = [spawn(path, *([child] if "python" in path else [])) for path in current[-1:]]
        made += 1
        # Code that nobody will need again, and a file mapped as code.
        exec(compile(MADE.format(made), f"<made {made}>", "exec"), {})
        with open(current[0], "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
            mapped.close()
        for pid in pids:
            os.waitpid(pid, 0)
    late = time.monotonic() - began - seconds
    last = [spawn(copy(burn, "last-burn"), "2000"), spawn(copy(python, "last-python"), child, "2")]
    for pid in last:
        os.waitpid(pid, 0)
    print(f'{{"late": {max(0.0, late):.1f}, "made": {made}, "copies": {copies}}}', flush=True)
    sys.stdin.read()


main()
