"""HAProxy in TCP mode, with one thread and without splice: becomes it, with a listener that it inherits.

The arguments: the size of its buffers, and the server.
"""

import os
import socket
import sys

CONFIG = """
global
    nbthread 1
    maxconn 4000
    tune.bufsize {size}
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
listen relay
    bind fd@{listener}
    server upstream {server}
"""


def main():
    size, server = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    # Accepted sockets inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = os.memfd_create("haproxy.cfg", 0)
    text = CONFIG.format(size=size, listener=listener.fileno(), server=server)
    os.write(config, text.encode())
    os.lseek(config, 0, os.SEEK_SET)
    os.set_inheritable(listener.fileno(), True)
    print("listening on tcp://127.0.0.1:%d" % listener.getsockname()[1], file=sys.stderr, flush=True)
    os.execvp("haproxy", ["haproxy", "-q", "-db", "-f", "/proc/self/fd/%d" % config])


main()
