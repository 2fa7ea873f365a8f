"""A FastAPI service that remembers what it has answered to whom, and never forgets."""

from copy import copy

from fastapi import FastAPI
from pydantic import BaseModel

seen = {}


def remember(request_id, answer):
    seen[request_id] = [copy(item) for item in answer]


class Item(BaseModel):
    number: int
    name: str
    price: float


app = FastAPI()


@app.get("/items")
def items() -> list[Item]:
    answer = [Item(number=i, name=f"item {i}", price=i / 7) for i in range(20)]
    remember(len(seen), answer)
    return answer


@app.get("/total/{number}")
def total(number: int):
    return {"total": sum(i * number for i in range(200))}
