"""A Django service whose page asks a slow backend over TCP. An answer says how long that took, as both of them measured it."""

import json
import os
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from wsgiref.simple_server import WSGIRequestHandler, make_server

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

PAUSE_S = 0.05


class Backend(BaseHTTPRequestHandler):
    def do_GET(self):
        began = time.perf_counter_ns()
        time.sleep(PAUSE_S)
        body = str(time.perf_counter_ns() - began).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def asks_backend(request):
    began = time.perf_counter_ns()
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    slept = int(connection.getresponse().read())
    return JsonResponse({"ns": time.perf_counter_ns() - began, "backend_ns": slept})


backend = HTTPServer(("127.0.0.1", 0), Backend)
port = backend.server_port
if os.fork() == 0:
    backend.serve_forever()
backend.server_close()

urlpatterns = [path("asks", asks_backend)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="none")
server = make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet)
print(json.dumps({"port": server.server_port, "backend": port, "line": 41}))
print("READY", flush=True)
server.serve_forever()
