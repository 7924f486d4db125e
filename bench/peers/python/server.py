"""Servers of CPython's socketserver: the arguments are the name of the class, and once, echo or wait.

With shutdown as a third argument SIGTERM calls the method of that name, which lets requests end; without, it ends the
process.
"""

import signal
import socketserver
import sys
import threading
import time


class Once(socketserver.BaseRequestHandler):
    """Reads once, answers, ends."""

    def handle(self):
        self.request.sendall(self.request.recv(1024))


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it receives until the client ends."""

    def handle(self):
        while data := self.request.recv(16 * 1024):
            self.request.sendall(data)


class Wait(socketserver.BaseRequestHandler):
    """Reads once, waits for 200 ms, answers, ends."""

    def handle(self):
        data = self.request.recv(1024)
        time.sleep(0.2)
        self.request.sendall(data)


def main():
    base = getattr(socketserver, sys.argv[1])
    handler = {"once": Once, "echo": Echo, "wait": Wait}[sys.argv[2]]
    options = {
        # The default backlog of 5 drops connections under load, and each costs its client a second.
        "request_queue_size": 4096,
        # A thread that waits for its client would never be joined.
        "daemon_threads": handler is not Wait,
    }
    server = type("Server", (base,), options)
    with server(("127.0.0.1", 0), handler) as serving:
        if "shutdown" in sys.argv[3:]:
            # It waits for the loop, so the thread of the loop must not call it.
            stop = threading.Thread(target=serving.shutdown)
            signal.signal(signal.SIGTERM, lambda *_: stop.start())
        print("listening on tcp://%s:%d" % serving.server_address, file=sys.stderr, flush=True)
        serving.serve_forever()


main()
