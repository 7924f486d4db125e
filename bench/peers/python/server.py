"""Servers of CPython's socketserver: the arguments are the name of the class, and once or echo."""

import socketserver
import sys


class Once(socketserver.BaseRequestHandler):
    """Reads once, answers, ends."""

    def handle(self):
        self.request.sendall(self.request.recv(1024))


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it receives until the client ends."""

    def handle(self):
        while data := self.request.recv(16 * 1024):
            self.request.sendall(data)


def main():
    base = getattr(socketserver, sys.argv[1])
    handler = {"once": Once, "echo": Echo}[sys.argv[2]]
    # The default backlog of 5 drops connections under load, and each costs its client a second.
    server = type("Server", (base,), {"request_queue_size": 4096, "daemon_threads": True})
    with server(("127.0.0.1", 0), handler) as serving:
        print("listening on tcp://%s:%d" % serving.server_address, file=sys.stderr, flush=True)
        serving.serve_forever()


main()
