"""A FastAPI service whose loop two of its pages keep from polling; each says how long it took."""

import json
import socket
import sys
import time

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.get("/asks")
async def asks(seconds: float):
    began = time.perf_counter_ns()
    time.sleep(seconds)
    return {"ns": time.perf_counter_ns() - began}


@app.get("/computes")
async def computes(seconds: float):
    began = time.perf_counter_ns()
    end = began + int(seconds * 1e9)
    while time.perf_counter_ns() < end:
        sum(range(100))
    return {"ns": time.perf_counter_ns() - began}


listener = socket.socket()
listener.bind(("127.0.0.1", 0))
print(json.dumps({"port": listener.getsockname()[1], "asks": 17, "computes": [23, 27]}))


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets=sockets)
        print("READY", flush=True)


Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
