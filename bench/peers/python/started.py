"""A server of another package that does not say when it is ready."""

import signal
import socket
import subprocess
import sys
import time


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def is_ready(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def run(command, port, end=signal.SIGTERM):
    """Runs it until it ends, and says when it is ready; SIGTERM ends it with the signal `end`."""
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: server.send_signal(end))
    while not is_ready(port):
        if server.poll() is not None:
            sys.exit("%s has ended with %d" % (command[0], server.returncode))
        time.sleep(0.01)
    print("listening on tcp://127.0.0.1:%d" % port, file=sys.stderr, flush=True)
    server.wait()
