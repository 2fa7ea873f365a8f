# What family.py becomes.
from known import tell, told

kept = []


def leak_after_exec():
    for _ in range(24):
        kept.append(b"e" * (1 << 20))  # after the exec


leak_after_exec()
tell(executed=True)
told()
