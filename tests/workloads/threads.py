# Three threads, each with work of its own, a name given by the program, and another one given to the kernel.
import json
import threading
import time


def name_this_thread(name):
    try:
        with open("/proc/self/task/%d/comm" % threading.get_native_id(), "w") as comm:
            comm.write(name)
    except OSError:
        pass  # There is no /proc where it runs.


def alpha_work(ready):
    name_this_thread("alpha")
    ready.wait()
    while True:
        pass


def beta_work(ready):
    name_this_thread("beta")
    ready.wait()
    while True:
        pass


def gamma_work(ready):
    name_this_thread("gamma ray 1")
    ready.wait()
    while True:
        pass


barrier = threading.Barrier(4)
names = {alpha_work: "QueueFeeder-1", beta_work: "loader;worker 2", gamma_work: "поток-3, a name of more than 15 bytes"}
threads = [threading.Thread(target=work, args=(barrier,), name=name, daemon=True) for work, name in names.items()]
for thread in threads:
    thread.start()
barrier.wait()
print(json.dumps([thread.native_id for thread in threads]))
print("READY", flush=True)
while True:
    time.sleep(100)
