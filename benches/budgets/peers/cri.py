"""Drives containerd's CRI on one held connection, as the kubelet does.

cri.py SOCKET LOGS IMAGE CGROUP OUT MOUNT PROGRAM LIMIT NETWORK reads requests, one a line, and answers
each with `ok NANOSECONDS` or `error WHY`:

    until N               connects anew, and waits until N containers are running
    image NAME            succeeds if the image is known
    start N POD...        runs pods of N containers each, at most 8 at a time
    remove POD            stops and removes
    clear                 removes all
    list                  lists all containers with their states

Messages are encoded by hand (fields of kubernetes/cri-api, runtime/v1/api.proto), so that Debian's
python3-grpcio is all it takes.
"""

import concurrent.futures
import json
import sys
import time

import grpc

IN_FLIGHT = 8
RUNNING = 1  # ContainerState
POD, NODE, CONTAINER = 0, 2, 1  # NamespaceMode


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(*fields):
    """Encodes pairs of a field's number and its value: an integer, a text or a message."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def fields(data):
    """Decodes a message into pairs of a field's number and its value, integer or bytes."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
        elif tag & 7 == 2:
            length = number()
            yield tag >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {tag & 7}")


def first(data, wanted):
    return next((value for number, value in fields(data) if number == wanted), b"")


class Cri:
    def __init__(self, socket, logs, image, cgroup, out, mount, program, limit, network):
        self.address = f"unix://{socket}"
        self.logs, self.image, self.cgroup = logs, image, cgroup
        self.out, self.mount, self.program = out, mount, json.loads(program)
        self.limit = int(limit)
        self.network = POD if network == "pod" else NODE
        self.channel = None
        self.sandboxes = {}
        self.pool = concurrent.futures.ThreadPoolExecutor(IN_FLIGHT)

    def connect(self):
        if self.channel:
            self.channel.close()
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(self.address, options)
        self.methods = {}

    def call(self, method, request=b"", service="Runtime"):
        path = f"/runtime.v1.{service}Service/{method}"
        if path not in self.methods:
            self.methods[path] = self.channel.unary_unary(path)
        return self.methods[path](request, timeout=self.limit)

    def until(self, count):
        end = time.monotonic() + self.limit
        while True:
            self.connect()
            try:
                while self.running() != int(count):
                    if time.monotonic() > end:
                        raise TimeoutError(f"not {count} containers are running")
                    time.sleep(0.002)
                return
            except grpc.RpcError as error:
                # It does not listen yet, or its CRI is not there yet.
                if time.monotonic() > end:
                    raise TimeoutError(error.details()) from error
                time.sleep(0.002)

    def running(self):
        containers = fields(self.call("ListContainers"))
        return sum(first(container, 6) == RUNNING for _, container in containers)

    def known(self, name):
        status = self.call("ImageStatus", message((1, message((1, name)))), "Image")
        if not first(status, 1):
            raise LookupError(f"no image {name}")

    def start(self, containers, *pods):
        for done in [self.pool.submit(self.run, int(containers), pod) for pod in pods]:
            done.result()

    def run(self, containers, pod):
        # The host's network, as far as it goes, or one by plugins; everything else of its own.
        namespaces = message((1, self.network), (2, CONTAINER))
        security = message((1, namespaces))
        sandbox = message(
            (1, message((1, pod), (2, pod), (3, "default"))),
            (3, f"{self.logs}/{pod}"),
            (8, message((1, f"/{self.cgroup}"), (2, security))),
        )
        identifier = first(self.call("RunPodSandbox", message((1, sandbox))), 1)
        self.sandboxes[pod] = identifier
        for n in range(containers):
            container = message(
                (1, message((1, f"c{n}"))),
                (2, message((1, self.image))),
                *((3, word) for word in self.program),
                (7, message((1, self.mount), (2, self.out))),
                (11, f"c{n}.log"),
                (15, message((2, message((3, namespaces))))),
            )
            request = message((1, identifier), (2, container), (3, sandbox))
            created = first(self.call("CreateContainer", request), 1)
            self.call("StartContainer", message((1, created)))

    def remove(self, pod):
        sandbox = message((1, self.sandboxes.pop(pod)))
        self.call("StopPodSandbox", sandbox)
        self.call("RemovePodSandbox", sandbox)

    def clear(self):
        list(self.pool.map(self.remove, list(self.sandboxes)))

    def list(self):
        self.call("ListContainers")

    def answer(self, line):
        command, *arguments = line.split()
        requests = {
            "until": self.until,
            "image": self.known,
            "start": self.start,
            "remove": self.remove,
            "clear": self.clear,
            "list": self.list,
        }
        begin = time.monotonic_ns()
        requests[command](*arguments)
        return f"ok {time.monotonic_ns() - begin}"


def main():
    cri = Cri(*sys.argv[1:])
    for line in sys.stdin:
        try:
            answer = cri.answer(line)
        except grpc.RpcError as error:
            answer = f"error {error.code()} {error.details()}"
        except Exception as error:
            answer = f"error {error!r}"
        print(answer.replace("\n", " "), flush=True)


main()
