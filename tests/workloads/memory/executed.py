# What family.py becomes.
from known import pace, tell, told

kept = []


def leak_after_exec():
    for _ in range(12):
        kept.append(b"e" * (1 << 20))  # after the exec
        pace(1 << 20)


leak_after_exec()
tell(executed=True)
told()
