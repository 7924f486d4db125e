"""The files of BENCH_FILES, as `python3 -m http.server` serves them, without its log."""

import functools
import http.server
import os
import sys


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 4096

    def handle_error(self, *_):
        # The load ends amid answers.
        pass


def main():
    handler = functools.partial(Handler, directory=os.environ["BENCH_FILES"])
    with Server(("127.0.0.1", 0), handler) as server:
        print("listening on tcp://127.0.0.1:%d" % server.server_port, file=sys.stderr, flush=True)
        server.serve_forever()


main()
