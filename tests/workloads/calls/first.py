"""A service whose first second matters: 3,000 calls of init_step at once, then it waits a little."""

import os
import time


def init_step(i):
    return i


for i in range(3000):
    init_step(i)
time.sleep(0.3)
os._exit(0)
