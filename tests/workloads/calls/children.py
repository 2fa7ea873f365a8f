"""Children that are exec'ed one after another and make 5,000 calls each at once: INTERPRETER and how many."""

import subprocess
import sys

CODE = """
def child_fn(x):
    return x
for i in range(5000):
    child_fn(i)
import os
os._exit(0)
"""

for _ in range(int(sys.argv[2])):
    subprocess.run([sys.argv[1], "-S", "-c", CODE], check=True)
