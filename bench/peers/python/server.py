"""Servers of CPython's socketserver: the argument is the name of the class."""

import socketserver
import sys


class Handler(socketserver.BaseRequestHandler):
    """Reads once, answers, ends."""

    def handle(self):
        self.request.sendall(self.request.recv(1024))


def main():
    base = getattr(socketserver, sys.argv[1])
    # The default backlog of 5 drops connections under load, and each costs its client a second.
    server = type("Server", (base,), {"request_queue_size": 128})
    with server(("127.0.0.1", 0), Handler) as serving:
        print("listening on tcp://%s:%d" % serving.server_address, file=sys.stderr, flush=True)
        serving.serve_forever()


main()
