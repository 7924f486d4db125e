"""A read-only TFTP server (RFC 1350): each transfer has a thread and a socket of its own."""

import os
import socket
import socketserver
import sys

BLOCK = 512


def wanted(packet):
    """The file that a read request wants: opcode 1, a name, a mode, each ended by a zero byte."""
    if not packet.startswith(b"\0\1"):
        return None
    name = packet[2:].split(b"\0")[0].decode(errors="replace")
    return None if "/" in name else name


class Transfer(socketserver.BaseRequestHandler):
    def handle(self):
        packet, listener = self.request
        try:
            name = wanted(packet)
            if name is None:
                raise FileNotFoundError
            with open(os.path.join(self.server.directory, name), "rb") as file:
                data = file.read()
        except OSError:
            listener.sendto(b"\0\5\0\1no such file\0", self.client_address)
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as transfer:
            transfer.connect(self.client_address)
            transfer.settimeout(1)
            # The last block is shorter than the others, and perhaps empty.
            for index, start in enumerate(range(0, len(data) + 1, BLOCK)):
                number = ((index + 1) % 65536).to_bytes(2, "big")
                self.deliver(transfer, number, data[start : start + BLOCK])

    def deliver(self, transfer, number, block):
        """Sends a block until the client has acknowledged it, five times at most."""
        for _ in range(5):
            transfer.send(b"\0\3" + number + block)
            try:
                if transfer.recv(BLOCK) == b"\0\4" + number:
                    return
            except socket.timeout:
                pass
        raise socket.timeout


def main():
    host, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:6969").rsplit(":", 1)
    with socketserver.ThreadingUDPServer((host, int(port)), Transfer) as server:
        server.directory = sys.argv[2] if len(sys.argv) > 2 else "."
        print("listening on udp://%s:%d" % server.server_address, file=sys.stderr, flush=True)
        server.serve_forever()


main()
