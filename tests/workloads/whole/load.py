# Asks a server for something, again and again: `load.py PORT`. Says READY after the first answer.
import http.client
import json
import sys
import threading

BODY = json.dumps({"name": "a", "amounts": [n / 7 for n in range(100)], "notes": {str(n): "x" * n for n in range(20)}})


def ask(connection):
    connection.request("GET", "/orders/7?verbose=true")
    assert connection.getresponse().read()
    connection.request("POST", "/orders", BODY, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()


def ask_for_ever():
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
    while True:
        ask(connection)


ask(http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30))
for _ in range(3):
    threading.Thread(target=ask_for_ever, daemon=True).start()
print("READY", flush=True)
ask_for_ever()
