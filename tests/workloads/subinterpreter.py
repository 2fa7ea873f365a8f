# A thread inside a sub-interpreter, and the main thread outside.
import json
import threading

SOURCE = """
def inside_leaf():
    while True:
        pass

def inside():
    inside_leaf()

inside()
"""


def run_in_subinterpreter():
    try:
        import _interpreters  # 3.13 and later

        _interpreters.exec(_interpreters.create(), SOURCE)
    except ImportError:
        import _xxsubinterpreters

        _xxsubinterpreters.run_string(_xxsubinterpreters.create(), SOURCE)


def outside():
    while True:
        pass


thread = threading.Thread(target=run_in_subinterpreter, daemon=True)
thread.start()
print(json.dumps({"inside": thread.native_id, "outside": threading.main_thread().native_id}))
print("READY", flush=True)
outside()
