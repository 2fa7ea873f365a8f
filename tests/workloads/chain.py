# One chain of calls after another, each ending in spin(), which in the first round says who called it.
# Every shape is called from the same line, before READY and after, so what spin() saw stays true.
import functools
import importlib
import json
import os
import re
import sys
import tempfile
from time import thread_time

HERE = tempfile.mkdtemp(dir=os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, HERE)
TRUTH = []
SHAPE = None
IS_FIRST_ROUND = True


def spin(_ignored=None):
    if IS_FIRST_ROUND:
        TRUTH.append({"shape": SHAPE, "frames": truth(sys._getframe())})
    end = thread_time() + 0.02
    while thread_time() < end:
        pass


def truth(frame):
    leaf = frame
    frames = []
    while frame:
        code = frame.f_code
        lines = [frame.f_lineno] * 2 if frame is not leaf else [code.co_firstlineno + 1, code.co_firstlineno + 5]
        name = getattr(code, "co_qualname", code.co_name)
        frames.append([name, code.co_filename, code.co_firstlineno] + lines)
        frame = frame.f_back
    return frames[::-1]


def recursion(depth=7):
    if depth:
        return recursion(depth - 1)
    return spin()


def generator():
    def generate():
        yield 1
        spin()
        yield 2

    for _ in generate():
        pass


def yield_from():
    def outer():
        result = yield from middle()
        return result

    def middle():
        yield from inner()

    def inner():
        yield spin()

    for _ in outer():
        pass


def list_comprehension():
    return [spin() for _ in "x"]


def nested_comprehension():
    return {
        x: [
            spin()
            for _ in x
        ]
        for x in ["y"]
    }


def generator_expression():
    return any(
        spin() for _ in "x"
    )


def set_and_dict_comprehension():
    return {(spin(), x)[1] for x in ({1: 2 for _ in "x"})}


def lambda_from_c():
    return sorted([1], key=lambda _: spin())


def mapped():
    return list(map(spin, [1]))


def regular_expression():
    return re.sub("x", lambda match: spin() or "", "axb")


def class_body():
    class Body:
        one = 1
        two = spin()

        class Inner:
            three = spin()


class Thing:
    def __init__(self, wanted=False):
        if wanted:
            self.method()

    @property
    def attribute(self):
        return spin()

    def method(self):
        return self.static(
            self)

    @staticmethod
    def static(_self):
        return Thing.of_class()

    @classmethod
    def of_class(cls):
        spin()

    def __getattr__(self, name):
        spin()

    def __enter__(self):
        return spin()

    def __exit__(self, *_):
        return None

    def __add__(self, other):
        return spin()


class Child(Thing):
    def __init__(self):
        super().__init__(
            wanted=True,
        )


class Dying:
    def __del__(self):
        spin()


def a_property():
    return Thing().attribute


def initializer():
    return Child()


def missing_attribute():
    return Thing().missing


def context_manager():
    with Thing() as entered:
        return entered


def operator():
    return (Thing()
            +
            Thing())


def destructor():
    dying = Dying()
    del dying


def coroutine():
    async def outer():
        return await middle()

    async def middle():
        async for _ in ticks():
            pass

    async def ticks():
        yield await leaf()

    async def leaf():
        spin()

    driven = outer()
    try:
        driven.send(None)
    except StopIteration:
        pass


def decorate(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        # A line that is not executed.
        return function(*args, **kwargs)

    return wrapper


@decorate
@decorate
def decorated(
    one=1,
    two=2,
):
    return spin()


def multi_line_call():
    return max(
        1,
        2,
        key=lambda value: (
            value,
            spin(
            ) or
            value,
        ),
    )


def partial():
    return functools.partial(functools.partial(recursion, 1))()


def exception_handlers():
    try:
        raise KeyError
    except KeyError:
        try:
            raise ValueError
        except ValueError:
            pass
        finally:
            spin()


def long_line_distance():
    scope = {"spin": spin}
    exec(FAR, scope)


def made_up_file():
    exec(MADE_UP, {"spin": spin})


def größe_файл_計算_𐐷():
    class Länge:
        def метод(self):
            spin()

    Länge().метод()


def non_ascii_everything():
    import größe_файл_𐐷

    größe_файл_𐐷.größe(spin)


def module_body():
    sys.modules.pop("body_of_module", None)
    importlib.import_module("body_of_module")


def match_and_walrus():
    if (value := spin()) is None:
        return value


def default_argument():
    def function(value=spin()):
        return value

    return function


def closure():
    cell = [spin]

    def inside():
        return cell[0]()

    return inside()


def many_arguments():
    def take(*args, **kwargs):
        return spin()

    return take(*range(50), **{"k%d" % n: n for n in range(50)})


# Line numbers beyond 16 bits, a step of more than 127 lines between two instructions, and a step back.
FAR = compile(
    "\n" * 70000 + "def far():\n    x = 1\n" + "\n" * 500 + "    spin(\n" + "\n" * 300 + "        x)\nfar()\n",
    "<far away>",
    "exec",
)
MADE_UP = compile("\n\n\ndef dynamic():\n\n  spin()\n\ndynamic()\n", "no/such/dir/made up: ü.py", "exec")
with open(os.path.join(HERE, "größe_файл_𐐷.py"), "w", encoding="utf-8") as file:
    file.write("def größe(\n    rückruf,\n):\n    return rückruf()\n")
with open(os.path.join(HERE, "body_of_module.py"), "w", encoding="utf-8") as file:
    file.write("import __main__\n\nif True:\n    __main__.spin()\n")

SHAPES = [
    recursion,
    generator,
    yield_from,
    list_comprehension,
    nested_comprehension,
    generator_expression,
    set_and_dict_comprehension,
    lambda_from_c,
    mapped,
    regular_expression,
    a_property,
    initializer,
    missing_attribute,
    context_manager,
    operator,
    destructor,
    coroutine,
    decorated,
    multi_line_call,
    partial,
    exception_handlers,
    long_line_distance,
    made_up_file,
    größe_файл_計算_𐐷,
    non_ascii_everything,
    module_body,
    match_and_walrus,
    default_argument,
    closure,
    many_arguments,
    class_body,
]


def rounds():
    global SHAPE, IS_FIRST_ROUND
    while True:
        for shape in SHAPES:
            SHAPE = shape.__name__
            shape()
        if IS_FIRST_ROUND:
            IS_FIRST_ROUND = False
            for chain in TRUTH:
                print(json.dumps(chain))
            print("READY", flush=True)


rounds()
