"""A program whose start-up is its imports: of modules that take long."""

import os
import sys
import tempfile

with tempfile.TemporaryDirectory() as folder:
    for number in range(30):
        with open(os.path.join(folder, f"slow_{number}.py"), "w") as module:
            module.write("made = [n * n % 7 for n in range(400000)]\n")
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True

    def wrong():
        for number in range(30):
            __import__(f"slow_{number}")

    wrong()
