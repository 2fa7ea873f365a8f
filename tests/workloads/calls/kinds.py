"""Calls of every kind, each to a function of its own, for comparing counts with cProfile's.

    kinds.py                  runs all of them, writes "R" to standard output, waits for a byte, runs all again under
                              cProfile, writes "D", waits for a byte, and ends
    kinds.py counts           runs all of them, then again under cProfile, whose counts it writes: {"name:first line": n}
    kinds.py bare             as the first, but without cProfile

From 3.13.18 on cProfile changes what is counted (a suspended generator that is closed is resumed only while a tool is
active), so counts are equal if cProfile is active in both runs, or in neither. Left out by cProfile: `once_more`,
`in_thread` before 3.12, and up to 3.10 the call of `deep_more` that is too deep, once in each of 5 recursions, is not
one for cProfile but enters the evaluation loop.
"""

import contextlib
import cProfile
import functools
import json
import os
import sys
import threading
import types

N = 200
FILE = __file__
CODE_MOD = compile("x = 1\ny = 2\n", FILE, "exec")
CODE_EVAL = compile("1 + 1", FILE, "eval")

def plain(i): return i
def keyword(a, b=1, *, c=2): return a
def star(*a, **k): return a
lam = lambda x: x + 1
def sort_key(x): return -x
def mapped(x): return x
def recursive(n): return n and recursive(n - 1)
def raises(): raise KeyError(1)
def catches():
    try: raise KeyError(1)
    except KeyError: pass
def passes_through(): raises()
def wrong_args(a): pass
def closure_outer():
    v = 1
    def closure_inner(): return v
    return closure_inner()
class Init:
    def __init__(self, a): self.a = a
class InitBase:
    def __init__(self): self.b = 1
class InitSuper(InitBase):
    def __init__(self): super().__init__()
class InitRaises:
    def __init__(self): raise ValueError
class InitNone:
    pass
class New:
    def __new__(cls): return object.__new__(cls)
class Meth:
    def method(self): return 1
    @property
    def prop(self): return 1
    @staticmethod
    def smeth(): return 1
    @classmethod
    def cmeth(cls): return 1
    def __getattr__(self, n): return 1
    def __getitem__(self, i): return i
    def __setitem__(self, i, v): pass
    def __call__(self): return 1
    def __lt__(self, o): return False
    def __eq__(self, o): return False
    def __len__(self): return 1
    def __bool__(self): return True
    def __enter__(self): return self
    def __exit__(self, *a): return None
    def __contains__(self, x): return True
class Del:
    def __del__(self): pass
class Iter:
    def __init__(self): self.n = 0
    def __iter__(self): return self
    def __next__(self):
        self.n += 1
        if self.n > 5: raise StopIteration
        return self.n
def gen_for(n):
    for i in range(n): yield i
def gen_list(n):
    for i in range(n): yield i
def gen_send():
    x = 0
    while True: x = yield x
def gen_throw():
    while True:
        try: yield 1
        except KeyError: pass
def gen_throw_out(): yield 1
def gen_throw_new(): yield 1
def gen_close(): 
    yield 1
    yield 2
def gen_close_finally():
    try: yield 1
    finally: pass
def gen_never(): yield 1
def gen_freed():
    yield 1
    yield 2
def gen_raises():
    yield 1
    raise KeyError
def gen_sub(n):
    for i in range(n): yield i
def gen_from(n): yield from gen_sub(n)
def gen_made_by_c(n):
    yield n
async def coro_made_by_c(n): pass
@types.coroutine
def sleep0():
    yield 1
async def coro_leaf(): return 1
async def coro_sleep():
    await sleep0()
    await sleep0()
async def coro_mid(): return await coro_leaf()
async def coro_top():
    await coro_mid()
    await coro_sleep()
async def coro_never(): pass
async def agen(n):
    for i in range(n):
        await sleep0()
        yield i
async def coro_afor():
    async for i in agen(3): pass
class ACM:
    async def __aenter__(self): return self
    async def __aexit__(self, *a): return None
async def coro_awith():
    async with ACM(): pass
def drive(c):
    try:
        while True: c.send(None)
    except StopIteration: pass
@contextlib.contextmanager
def cm(): yield 1
def deco(f):
    @functools.wraps(f)
    def wrapper(*a): return f(*a)
    return wrapper
@deco
def decorated(x): return x
def partial_target(a, b): return a
part = functools.partial(partial_target, 1)
@functools.lru_cache(maxsize=None)
def cached(i): return i
def in_thread(): return 1
def deep(): deep_more(0)
def deep_more(n): deep_more(n + 1)
def cell_arg(a):
    def inner(): return a
    return a
def many(a,b,c,d,e,f,g,h): return a
def reduce_f(a, b): return a

def run():
    m = Meth()
    for i in range(N): plain(i)
    for i in range(N): keyword(i, c=3)
    for i in range(N): star(i, k=1)
    t = (1, 2); d = {"b": 2}
    for i in range(N): keyword(*t)
    for i in range(N): keyword(i, **d)
    for i in range(N): lam(i)
    sorted(range(N), key=sort_key)
    list(map(mapped, range(N)))
    for i in range(10): recursive(20)
    for i in range(N):
        try: passes_through()
        except KeyError: pass
        catches()
    for i in range(N):
        try: wrong_args()
        except TypeError: pass
        try: wrong_args(1, x=2)
        except TypeError: pass
    for i in range(N): closure_outer()
    for i in range(N): Init(i)
    for i in range(N): InitSuper()
    for i in range(N):
        try: InitRaises()
        except ValueError: pass
    for i in range(N): InitNone(); New(); Del()
    for c in [Init] * N: list(map(c, (1,)))
    for i in range(N):
        m.method(); m.prop; Meth.smeth(); m.cmeth(); m.nothing; m[i]; m(); m < m; m == m; len(m); bool(m); 3 in m
        m[i] = 1
        if m: pass
        with m: pass
    for i in range(20):
        for x in Iter(): pass
        list(Iter())
    for i in range(N):
        for x in gen_for(3): pass
        list(gen_list(3))
    g = gen_send(); next(g)
    for i in range(N): g.send(i)
    g = gen_throw(); next(g)
    for i in range(N): g.throw(KeyError())
    for i in range(N):
        g = gen_throw_out(); next(g)
        try: g.throw(KeyError())
        except KeyError: pass
        g = gen_throw_new()
        try: g.throw(KeyError())
        except KeyError: pass
        g = gen_close(); next(g); g.close()
        g = gen_close_finally(); next(g); g.close()
        gen_never()
        g = gen_never(); g.close()
        g = gen_freed(); next(g); del g
        try: list(gen_raises())
        except KeyError: pass
        for x in gen_from(3): pass
        sum(x for x in range(3))
        any(x > 0 for x in range(3))
        for x in (y for y in range(3)): pass
    for g in list(map(gen_made_by_c, range(N))):
        list(g)
    for c in list(map(coro_made_by_c, range(N))):
        drive(c)
    for i in range(N):
        drive(coro_top()); drive(coro_afor()); drive(coro_awith())
        c = coro_never(); c.close()
    for i in range(N):
        with cm(): pass
        decorated(i); part(i); cached(i); cached(i); cell_arg(i); many(1,2,3,4,5,6,7,8)
    functools.reduce(reduce_f, range(N))
    for i in range(N):
        [x for x in range(3)]; {x for x in range(3)}; {x: x for x in range(3)}
        [(lambda: x)() for x in range(3)]
    for i in range(N):
        exec(CODE_MOD, {}); eval(CODE_EVAL, {})
        class Body: z = 1
    for i in range(5):
        try: deep()
        except RecursionError: pass
    for i in range(20):
        th = threading.Thread(target=in_thread); th.start(); th.join()

def counts(profile):
    found = {}
    for entry in profile.getstats():
        code = entry.code
        if not isinstance(code, str) and code.co_filename == FILE:
            key = "%s:%d" % (code.co_name, code.co_firstlineno)
            found[key] = found.get(key, 0) + entry.callcount
    return found


def once_more(profile):
    cached.cache_clear()
    if profile:
        profile.enable()
    run()
    if profile:
        profile.disable()


# What is specialised, and what is cached, is the same in all ways to run this.
run()
how = sys.argv[1] if len(sys.argv) > 1 else ""
profile = None if how == "bare" else cProfile.Profile()
if how == "counts":
    once_more(profile)
    json.dump(counts(profile), sys.stdout)
else:
    os.write(1, b"R")
    os.read(0, 1)
    once_more(profile)
    os.write(1, b"D")
    os.read(0, 1)
    # No calls of functions of this file while it ends.
    os._exit(0)
