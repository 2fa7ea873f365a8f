# A receiver of OTLP profiles that has the official definitions (opentelemetry-proto), and knows nothing of the profiler.
# Says a line of JSON for each message: its sums by service and kind of value, and what is wrong with it. What comes as it
# does to Pyroscope is written into a directory, a file for each profile.
import base64
import collections
import concurrent.futures
import gzip
import http.server
import json
import os
import sys
import threading

import grpc
from opentelemetry.proto.collector.profiles.v1development import (
    profiles_service_pb2,
    profiles_service_pb2_grpc,
)

PATH = "/v1development/profiles"
PUSH = "/push.v1.PusherService/Push"


saying = threading.Lock()


def say(answer):
    """A line, whichever threads say one at the same time."""
    with saying:
        print(json.dumps(answer), flush=True)


def attribute(value):
    return value.string_value or value.int_value


def wrong(request):
    """Rules of the specification that a message breaks: tables that begin with nothing, indices that lead somewhere."""
    tables = request.dictionary
    found = []
    for name in ("mapping", "location", "function", "link", "string", "attribute", "stack"):
        table = getattr(tables, name + "_table")
        if not table:
            found.append(f"{name}_table is empty")
            continue
        first = table[0]
        if first if name == "string" else first.ByteSize():
            found.append(f"{name}_table does not begin with nothing")
        entries = [entry if name == "string" else entry.SerializeToString() for entry in table]
        if len(set(entries)) != len(entries):
            found.append(f"{name}_table has something twice")

    def within(index, name, what):
        if not 0 <= index < len(getattr(tables, name + "_table")):
            found.append(f"{what} leads out of {name}_table")

    for stack in tables.stack_table:
        for index in stack.location_indices:
            within(index, "location", "a stack")
    for location in tables.location_table:
        within(location.mapping_index, "mapping", "a location")
        for line in location.lines:
            within(line.function_index, "function", "a line")
    for function in tables.function_table:
        within(function.name_strindex, "string", "a function")
        within(function.filename_strindex, "string", "a function")
    for profile in profiles(request):
        seen = set()
        for sample in profile.samples:
            within(sample.stack_index, "stack", "a sample")
            for index in sample.attribute_indices:
                within(index, "attribute", "a sample")
            identity = (sample.stack_index, tuple(sorted(sample.attribute_indices)), sample.link_index)
            if identity in seen:
                found.append("a sample is there twice")
            seen.add(identity)
            if sample.timestamps_unix_nano and len(sample.timestamps_unix_nano) != len(sample.values):
                found.append("a sample has as many times as it has not values")
        if len(profile.profile_id) != 16:
            found.append("a profile has no id")
    return sorted(set(found))


def profiles(request):
    for resource in request.resource_profiles:
        for scope in resource.scope_profiles:
            yield from scope.profiles


def told(request):
    strings = request.dictionary.string_table
    services = collections.defaultdict(lambda: collections.defaultdict(int))
    hosts, labels, functions = set(), {}, set()
    causes = collections.defaultdict(int)
    for resource in request.resource_profiles:
        about = {pair.key: attribute(pair.value) for pair in resource.resource.attributes}
        hosts.add(about.get("host.name"))
        labels = about
        for scope in resource.scope_profiles:
            for profile in scope.profiles:
                kind = strings[profile.sample_type.type_strindex]
                for sample in profile.samples:
                    services[about["service.name"]][kind] += sum(sample.values)
                    if kind == "wait":
                        for index in sample.attribute_indices:
                            pair = request.dictionary.attribute_table[index]
                            if strings[pair.key_strindex] == "wait.cause":
                                causes[pair.value.string_value] += sum(sample.values)
    for function in request.dictionary.function_table:
        functions.update({strings[function.name_strindex]} & {"compute", "nap", "keep"})
    times = {profile.time_unix_nano for profile in profiles(request)}
    return {
        "services": services,
        "hosts": sorted(host or "" for host in hosts),
        "labels": {key: value for key, value in labels.items() if not isinstance(value, bytes)},
        "causes": causes,
        "functions": sorted(functions),
        "times": sorted(times),
        "wrong": wrong(request),
    }


def written(series):
    labels = {pair["name"]: pair["value"] for pair in series["labels"]}
    for sample in series["samples"]:
        path = os.path.join(sys.argv[2], f"{len(os.listdir(sys.argv[2]))}.pb.gz")
        with open(path, "wb") as file:
            file.write(base64.b64decode(sample["rawProfile"], validate=True))
        labels["file"] = path
    return labels


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == PATH and self.headers.get("content-type") == "application/x-protobuf":
            request = profiles_service_pb2.ExportProfilesServiceRequest.FromString(body)
            answer, status = {"by": "http", **told(request)}, 200
        elif self.path == PUSH and self.headers.get("content-type") == "application/json":
            answer, status = {"by": "pyroscope", "series": list(map(written, json.loads(body)["series"])), "wrong": []}, 200
        else:
            answer, status = {"wrong": [f"POST {self.path} as {self.headers.get('content-type')}"]}, 404
        say(answer)
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()


class Servicer(profiles_service_pb2_grpc.ProfilesServiceServicer):
    def Export(self, request, context):
        say({"by": "grpc", **told(request)})
        return profiles_service_pb2.ExportProfilesServiceResponse()


by_grpc = grpc.server(concurrent.futures.ThreadPoolExecutor(1), options=[("grpc.max_receive_message_length", -1)])
profiles_service_pb2_grpc.add_ProfilesServiceServicer_to_server(Servicer(), by_grpc)
grpc_port = by_grpc.add_insecure_port("127.0.0.1:0")
by_grpc.start()
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
print(json.dumps({"port": server.server_address[1], "grpc": grpc_port}))
print("READY", flush=True)
server.serve_forever()
