"""A key-value store that many clients share: `set KEY VALUE`, `get KEY`, `del KEY`, a line each."""

import socketserver
import sys
import threading

# The longest line that a client may send.
LINE_MAX = 4096


class Store(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, *args):
        super().__init__(*args)
        self.map, self.lock = {}, threading.Lock()

    def answer(self, line):
        words = line.split(" ", 2)
        with self.lock:
            if len(words) == 3 and words[0] == "set":
                value = self.map.get(words[1])
                self.map[words[1]] = words[2]
            elif len(words) == 2 and words[0] == "get":
                value = self.map.get(words[1])
            elif len(words) == 2 and words[0] == "del":
                value = self.map.pop(words[1], None)
            else:
                return "error: set KEY VALUE, get KEY or del KEY"
        return "none" if value is None else "value " + value


class Client(socketserver.StreamRequestHandler):
    def handle(self):
        while True:
            line = self.rfile.readline(LINE_MAX)
            if not line.endswith(b"\n"):
                return
            self.wfile.write(self.server.answer(line.decode().rstrip()).encode() + b"\n")


def main():
    host, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000").rsplit(":", 1)
    with Store((host, int(port)), Client) as server:
        print("listening on tcp://%s:%d" % server.server_address, file=sys.stderr, flush=True)
        server.serve_forever()


main()
