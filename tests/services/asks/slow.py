"""Answers after 0.15 s."""

import socket
import threading
import time


def answer(connection):
    with connection:
        while connection.recv(100):
            time.sleep(0.15)
            connection.sendall(b"42")


server = socket.create_server(("127.0.0.1", 7777))
while True:
    threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
