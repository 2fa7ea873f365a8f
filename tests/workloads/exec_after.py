from time import thread_time


def after_exec():
    end = thread_time() + 1
    while thread_time() < end:
        pass


after_exec()
