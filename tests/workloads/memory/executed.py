# What family.py becomes.
from known import pace, tell, told

kept = []

# A program's imports take longer than recognizing its interpreter does, unless the interpreter's file comes from a slow
# disk: what is allocated until then has native stacks only ("before an interpreter was recognized"), and CI has met that.
pace(4 << 20)


def leak_after_exec():
    for _ in range(12):
        kept.append(b"e" * (1 << 20))  # after the exec
        pace(1 << 20)


leak_after_exec()
tell(executed=True)
told()
