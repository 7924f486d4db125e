#!/usr/bin/env python3
"""Processor time of `socketserver proxy` for each operation, beside HAProxy and socat in its place.

    cargo build --release -p socketserver-cli && python3 bench/proxy.py [ROUNDS]

Three loads through the proxy, to an echo server in C: 64 bytes back and forth on 64 connections; a connection for each
exchange; 256 MiB on one connection. The proxy has processor 0, its load and the echo server have processor 1. The rounds of all
proxies are interleaved. Printed are microseconds of processor time for each operation (a MiB, of the bulk), all processes of
the proxy together, and the ratio to HAProxy: the median, and the lowest and highest of the rounds.
"""
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OURS = os.environ.get("SOCKETSERVER", f"{ROOT}/target/release/socketserver")
MESSAGES, CONNECTIONS, MEBIBYTES = 20_000, 2_000, 256
TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def descendants(pid):
    yield pid
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            for child in children.read().split():
                yield from descendants(int(child))
    except OSError:
        pass


def cpu(pid):
    """Seconds of a process and its descendants, those that have ended too."""
    total = 0
    for each in descendants(pid):
        try:
            with open(f"/proc/{each}/stat") as stat:
                fields = stat.read().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / TICK


def connect(port):
    client = socket.create_connection(("127.0.0.1", port), 20)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def exactly(client, count):
    while count:
        count -= len(client.recv(count)) or sys.exit("the proxy has closed a connection")


def echo(port):
    clients = [connect(port) for _ in range(64)]
    poll = select.epoll()
    by_number = {client.fileno(): client for client in clients}
    for client in clients:
        poll.register(client, select.EPOLLIN)
        client.send(bytes(64))
    done = 0
    while done < MESSAGES:
        for number, _ in poll.poll(20):
            client = by_number[number]
            exactly(client, 64)
            client.send(bytes(64))
            done += 1
    for client in clients:
        client.close()
    return done


def new(port):
    for _ in range(CONNECTIONS):
        client = connect(port)
        client.send(bytes(64))
        exactly(client, 64)
        client.close()
    return CONNECTIONS


def bulk(port):
    client = connect(port)
    client.setblocking(False)
    chunk, size = bytes(1 << 18), MEBIBYTES << 20
    sent = received = 0
    while received < size:
        room = min(received + (1 << 18), size) - sent
        _, writable, _ = select.select([client], [client] if room else [], [], 20)
        if writable:
            sent += client.send(chunk[:room])
        try:
            received += len(client.recv(1 << 18))
        except BlockingIOError:
            pass
    client.close()
    return MEBIBYTES


def proxies(upstream, folder):
    """The name of each, its command, and its port."""
    def ours(name, *words):
        port = free_port()
        listen, to = f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{upstream}"
        return name, [OURS, "proxy", "--listen", listen, "--to", to, *words], port

    def haproxy(name, options):
        port = free_port()
        with open(f"{folder}/{name}.cfg", "w") as file:
            file.write(
                "global\n nbthread 1\n maxconn 1000\n"
                f"defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n{options}"
                f"listen one\n bind 127.0.0.1:{port}\n server one 127.0.0.1:{upstream}\n"
            )
        return name, ["haproxy", "-db", "-f", f"{folder}/{name}.cfg"], port

    if shutil.which("haproxy"):
        yield haproxy("HAProxy", "")
        yield haproxy("HAProxy, splice", " option splice-auto\n")
    yield ours("coroutines", "--model", "coroutines", "--workers", "1", "--driver", "epoll")
    yield ours("coroutines, io_uring", "--model", "coroutines", "--workers", "1", "--driver", "uring")
    yield ours("threading", "--model", "threading")
    if shutil.which("socat"):
        port = free_port()
        listen = f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=1024"
        yield "socat", ["socat", listen, f"TCP:127.0.0.1:{upstream},nodelay"], port


def start(command, processor, port):
    command = ["taskset", "-c", str(processor), *command]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(200):
        try:
            connect(port).close()
            return process
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{command} does not listen")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    os.sched_setaffinity(0, {1})
    loads = {"64 B echo, 64 connections": echo, "a connection each": new, "256 MiB, a MiB": bulk}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cc", "-O2", "-o", f"{folder}/echo", f"{ROOT}/bench/peers/c/epoll_loop.c"], check=True)
        server = subprocess.Popen([f"{folder}/echo", "echo", "tcp"], stderr=subprocess.PIPE, text=True)
        upstream = int(server.stderr.readline().rsplit(":", 1)[1])
        running = [(name, start(command, 0, port), port) for name, command, port in proxies(upstream, folder)]
        try:
            for title, load in loads.items():
                costs = {name: [] for name, _, _ in running}
                for _ in range(rounds):
                    for name, process, port in running:
                        before = cpu(process.pid)
                        count = load(port)
                        time.sleep(0.1)
                        costs[name].append((cpu(process.pid) - before) / count * 1e6)
                print(title)
                base = costs.get("HAProxy")
                for name, values in costs.items():
                    line = f"  {name:22} {statistics.median(values):8.2f} us"
                    if base:
                        ratios = [value / other for value, other in zip(values, base)]
                        line += f"   {statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                    print(line, flush=True)
        finally:
            for _, process, _ in running:
                process.send_signal(signal.SIGTERM)
            server.kill()


main()
