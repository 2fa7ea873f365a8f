# Matrix products, sorting and ufuncs, for ever.
import numpy

generator = numpy.random.default_rng(1)
a, b = generator.random((300, 300)), generator.random((300, 300))
small = generator.random((20, 20))
numbers = generator.random(50_000)


def products():
    for _ in range(3):
        a @ b
    for _ in range(300):
        small @ small


def sorting():
    for _ in range(5):
        numpy.sort(numbers)
        numpy.argsort(numbers[:5000], kind="stable")


def ufuncs():
    for _ in range(20):
        numpy.sin(numbers) + numpy.exp(numbers) * numpy.sqrt(numbers)
        (numbers > 0.5).sum()
        numpy.add.reduce(numbers)


print("READY", flush=True)
while True:
    products()
    sorting()
    ufuncs()
