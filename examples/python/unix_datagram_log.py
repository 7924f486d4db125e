"""Collects log lines: every datagram that arrives at a Unix socket becomes a numbered line on standard output."""

import os
import socketserver
import sys


class Line(socketserver.BaseRequestHandler):
    def handle(self):
        text, _socket = self.request
        self.server.lines += 1
        print("%04d %s" % (self.server.lines, text.decode(errors="replace").rstrip()), flush=True)


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "/tmp/log.sock"
    with socketserver.UnixDatagramServer(path, Line) as server:
        # Whoever may write to the socket's file may log.
        os.chmod(path, 0o666)
        server.lines = 0
        print("listening on unixgram://" + path, file=sys.stderr, flush=True)
        server.serve_forever()


main()
