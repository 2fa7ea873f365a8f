"""A service that asks a slow server for each request (`slow.py`): what `profiler why` shows in the README."""

import socket

from fastapi import FastAPI

app = FastAPI()


@app.get("/price")
def price():
    with socket.create_connection(("127.0.0.1", 7777)) as connection:
        connection.sendall(b"price")
        return {"price": connection.recv(100).decode()}
