from time import thread_time


def subprocess_work():
    end = thread_time() + 0.4
    while thread_time() < end:
        pass


subprocess_work()
