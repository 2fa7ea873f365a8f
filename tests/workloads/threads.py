# Three named threads, each with work of its own.
import json
import threading
import time


def name_this_thread(name):
    # 3.14 and later do this by themselves; here the kernel is told in the same way for every version.
    with open("/proc/self/task/%d/comm" % threading.get_native_id(), "w") as comm:
        comm.write(name)


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
threads = [threading.Thread(target=work, args=(barrier,), daemon=True) for work in (alpha_work, beta_work, gamma_work)]
for thread in threads:
    thread.start()
barrier.wait()
print(json.dumps([thread.native_id for thread in threads]))
print("READY", flush=True)
while True:
    time.sleep(100)
