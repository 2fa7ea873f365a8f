# Greenlets that start one another from different places, and take turns. What calls a greenlet's function is not what
# lay below it on the stack when it began, nor what lies there now.
from time import thread_time

import greenlet


def spin():
    end = thread_time() + 0.004
    while thread_time() < end:
        for _ in range(300):
            pass


def leaf_a():
    spin()


def leaf_b():
    spin()


def body_a():
    while True:
        leaf_a()
        # From C, and deeper than the others at times.
        list(map(in_turn, range(1)))


def body_b():
    while True:
        leaf_b()
        in_turn(0)


def in_turn(_ignored):
    main.switch()


def starts_b(depth):
    if depth:
        return starts_b(depth - 1)
    sorted([1], key=lambda _ignored: second.switch())


def in_main():
    spin()
    first.switch()
    second.switch()


main = greenlet.getcurrent()
first = greenlet.greenlet(body_a)
second = greenlet.greenlet(body_b)
first.switch()
starts_b(20)
print("READY", flush=True)
while True:
    in_main()
