"""The views, and what is true of them: `truth` tells how often each ran and how long it took, by the program's own clock."""

import time

from django.http import HttpResponse, JsonResponse
from django.shortcuts import render

from .models import Order

KEPT = []
TRUTH = {}


def measured(view):
    def run(request):
        began = time.perf_counter_ns()
        answer = view(request)
        row = TRUTH.setdefault(view.__name__, [0, 0])
        row[0] += 1
        row[1] += time.perf_counter_ns() - began
        return answer

    return run


@measured
def orders(request):
    # One query for the list, and one more for each of its 120 rows: 121 calls of `execute`.
    lines = [f"{order.text} for {order.customer.name}" for order in Order.objects.all()[:120]]
    return HttpResponse("\n".join(lines))


@measured
def page(request):
    items = [{"number": i, "name": f"item {i}", "tags": ["a", "b", str(i)]} for i in range(150)]
    return render(request, "page.html", {"items": items})


@measured
def rows(request):
    return HttpResponse(str(len(list(Order.objects.select_related("customer").all()[:300]))))


@measured
def leaky(request):
    KEPT.append([{"number": i, "at": time.time(), "text": "x" * (i % 7)} for i in range(50)])
    return HttpResponse("kept")


def truth(request):
    return JsonResponse({name: {"calls": calls, "ns": ns} for name, (calls, ns) in TRUTH.items()})
