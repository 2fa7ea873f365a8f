# A FastAPI server behind uvicorn that keeps what it should forget: a copy of something with each order. Answers what
# whole/load.py asks.
import json
import socket

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
history = []


class Order(BaseModel):
    name: str
    amounts: list[float]
    notes: dict[str, str] = {}


def audit(order):
    text = ", ".join(f"{key}={value}" for key, value in order.notes.items())
    history.append((order.name, text * 20))  # the leak


@app.get("/orders/{number}")
async def get_order(number: int, verbose: bool = False):
    return {"number": number, "verbose": verbose, "lines": [{"item": n, "text": "x" * n} for n in range(50)]}


@app.post("/orders")
def post_order(order: Order) -> Order:
    order.notes["sum"] = str(sum(order.amounts))
    audit(order)
    return order


listener = socket.create_server(("127.0.0.1", 0), backlog=100)
print(json.dumps({"port": listener.getsockname()[1]}))
print("READY", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="critical")).run([listener])
