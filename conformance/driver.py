"""Plays the server of a scenario on CPython's `socketserver`.

Started by the runner as `driver.py TRANSPORT MODEL [NAME=VALUE]...` in a directory of its own. It takes
commands from standard input, says on standard output how each ended, and appends to the file `trace` what
the module called, one JSON line for each event. `src/driver.rs` does the same on the Rust crate.
"""

import errno
import fcntl
import json
import os
import queue
import resource
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import warnings

# Newer versions warn of a fork in a process with threads: every server in the background does that.
warnings.simplefilter("ignore")
# Scenarios send it to interrupt what waits.
signal.signal(signal.SIGUSR1, lambda number, frame: None)

TRANSPORT, MODEL = sys.argv[1:3]
OPTIONS = dict(argument.split("=", 1) for argument in sys.argv[3:])
IS_STREAM = TRANSPORT in ("tcp", "tls", "unix")
MAIN = (os.getpid(), threading.get_ident())
TRACE = os.open("trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
# What is noted in every scenario; the option `trace` adds to it.
NOTED = {"verify_request", "handle_error", "handle_timeout", "setup", "handle", "finish"}
NOTED |= set(OPTIONS.get("trace", "").split(","))
NOTED -= set(OPTIONS.get("untraced", "").split(","))
if TRANSPORT == "tls":
    import ssl

    TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    TLS.load_cert_chain("server.pem", "server.key")
# Over TLS, an end without close_notify.
CUT = (ssl.SSLEOFError,) if TRANSPORT == "tls" else ()
CURRENT = threading.local()
OUTPUT_LOCK = threading.Lock()


class Refused(ValueError):
    """What a scenario asks a hook to raise."""


def say(text):
    with OUTPUT_LOCK:
        os.write(1, (text + "\n").encode())


def note(event, number=None, detail=""):
    """Notes an event in the lane where it happened: that of the server, or that of a request."""
    if event not in NOTED:
        return
    here = (os.getpid(), threading.get_ident()) == MAIN
    lane = "server" if here else "request %s" % (number or getattr(CURRENT, "number", "?"))
    os.write(TRACE, (json.dumps([lane, event + detail]) + "\n").encode())


def kind(error):
    """What an error is called in a trace, in both languages."""
    kinds = [
        (SystemExit, "Exit"),
        (KeyboardInterrupt, "Interrupt"),
        (AssertionError, "Panic"),
        ((BrokenPipeError, ConnectionResetError) + CUT, "PeerGone"),
        ((socket.timeout, TimeoutError), "Timeout"),
        (ConnectionRefusedError, "Refused"),
        (FileNotFoundError, "NotFound"),
        (socket.gaierror, "Unresolved"),
        (ValueError, "Value"),
        (TypeError, "NoAddress"),
    ]
    for cls, name in kinds:
        if isinstance(error, cls):
            return name
    if isinstance(error, OSError) and "timed out" in str(error):
        return "Timeout"
    if isinstance(error, OSError):
        return errno.errorcode.get(error.errno, "OSError")
    return type(error).__name__


def shown(data):
    """Bytes as text that is the same in both languages."""
    if len(data) > 60:
        return "<%d bytes>" % len(data)
    escapes = {10: "\\n", 13: "\\r", 92: "\\\\"}
    return "".join(escapes.get(b) or (chr(b) if 32 <= b < 127 else "\\x%02x" % b) for b in data)


def unescaped(text):
    return text.replace("\\n", "\n").replace("\\s", " ").encode()


def fail(what):
    if what == "value":
        raise Refused(what)
    if what == "panic":
        raise AssertionError(what)
    if what == "gone":
        raise BrokenPipeError(what)
    if what == "exit":
        raise SystemExit(0)
    if what == "io":
        raise ConnectionAborted("as asked")
    raise RuntimeError("unknown kind " + what)


class ConnectionAborted(OSError):
    """An error as accept(2) has them."""


def at_gate(name):
    """Tells the runner, and waits until it lets go."""
    with socket.socket(socket.AF_UNIX) as gate:
        gate.connect("gate")
        gate.sendall(name.encode() + b"\n")
        gate.recv(1)


# --- the hooks of the server


class Traced:
    taken = 0
    counted = 0
    numbers = {}

    def get_request(self):
        how = OPTIONS.get("get_request")
        if how and not self.taken:
            self.taken = 1
            note("get_request", 1)
            request, _ = super().get_request()
            super().shutdown_request(request)
            fail(how)
        request, address = super().get_request()
        if TRANSPORT == "tls":
            # The handshake is in the handler's thread, at its first read or write.
            request = TLS.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        self.taken += 1
        self.numbers[id(request)] = self.taken
        note("get_request", self.taken)
        return request, address

    def verify_request(self, request, client_address):
        number = self.numbers[id(request)]
        note("verify_request", number)
        how = OPTIONS.get("verify")
        if how == "raise":
            fail("value")
        return not (how == "no" or (how == "first" and number == 1))

    def process_request(self, request, client_address):
        note("process_request", self.numbers[id(request)])
        super().process_request(request, client_address)

    def finish_request(self, request, client_address):
        CURRENT.number = self.numbers[id(request)]
        note("finish_request")
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        number = self.numbers[id(request)]
        note("handle_error", number, "(%s)" % kind(sys.exc_info()[1]))
        how = OPTIONS.get("on_error", "")
        if how == "raise":
            fail("value")
        if how.startswith("gate"):
            at_gate(how.split(":")[1])

    def shutdown_request(self, request):
        note("shutdown_request", self.numbers.get(id(request)))
        super().shutdown_request(request)

    def close_request(self, request):
        note("close_request", self.numbers.get(id(request)))
        super().close_request(request)

    def handle_timeout(self):
        note("handle_timeout")
        super().handle_timeout()

    def service_actions(self):
        note("service_actions")
        super().service_actions()
        if OPTIONS.get("actions") == "raise":
            fail("value")

    def server_bind(self):
        note("server_bind")
        super().server_bind()

    def server_activate(self):
        note("server_activate")
        super().server_activate()

    def server_close(self):
        note("server_close")
        super().server_close()


# --- the handler: a script of operations on the request


class Script:
    """Runs the operations of a scenario on a request, whatever the handler's class."""

    def __init__(self, handler, request, address, server):
        self.handler, self.request, self.address, self.server = handler, request, address, server
        self.last, self.count = b"", 0
        self.buffered = OPTIONS.get("handler", "class") == "class"
        self.socket = request if IS_STREAM else request[1]

    def run(self, part):
        for operation in OPTIONS.get(part, "").split(";"):
            name, _, argument = operation.strip().partition(" ")
            if name:
                getattr(self, "op_" + name)(argument)

    def write(self, data):
        if self.buffered:
            self.count = self.handler.wfile.write(data)
        elif IS_STREAM:
            self.request.sendall(data)
        else:
            self.socket.sendto(data, self.address)

    def op_line(self, _):
        if not self.buffered:
            self.last = self.request.recv(65536) if IS_STREAM else self.request[0]
        else:
            self.last = self.handler.rfile.readline()
        note_text("line", self.last)

    def op_try_line(self, _):
        try:
            self.op_line(_)
        except (OSError, ValueError) as error:
            # A second read of a stream that has timed out says so in another way.
            note_text("line failed", kind(error).encode())

    def op_read(self, count):
        self.last = self.handler.rfile.read(int(count))
        note_text("read", self.last)

    def op_rest(self, _):
        self.last = self.handler.rfile.read()
        note_text("rest", self.last)

    def op_size(self, _):
        data = self.last if IS_STREAM else self.request[0]
        note_text("size", str(len(data)).encode())

    def op_raw(self, _):
        try:
            data = self.request.recv(1000, socket.MSG_DONTWAIT)
        except BlockingIOError:
            data = b"(nothing)"
        note_text("raw", data)

    def op_echo(self, _):
        self.write(self.last)

    def op_write(self, text):
        self.write(unescaped(text))

    def op_fill(self, count):
        self.write(b"x" * int(count))

    def op_written(self, _):
        note_text("written", str(self.count).encode())

    def op_flush(self, _):
        self.handler.wfile.flush()

    def op_close(self, _):
        self.handler.wfile.close()
        self.handler.rfile.close()

    def op_count(self, _):
        self.server.counted += 1
        self.write(b"%d" % self.server.counted)

    def op_where(self, _):
        pid, thread = os.getpid(), threading.get_ident()
        here = "process" if pid != MAIN[0] else "thread" if thread != MAIN[1] else "here"
        self.write(here.encode())

    def op_peer(self, _):
        address = self.address
        if isinstance(address, tuple):
            text = ("[%s]:%d" if ":" in address[0] else "%s:%d") % address[:2]
        elif not address:
            text = "unnamed"
        elif isinstance(address, bytes):
            text = "abstract"
        else:
            text = os.path.basename(address)
        self.write(text.encode())

    def op_nodelay(self, _):
        value = self.request.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        self.write(b"on" if value else b"off")

    def op_blocking(self, _):
        flags = fcntl.fcntl(self.request.fileno(), fcntl.F_GETFL)
        self.write(b"no" if flags & os.O_NONBLOCK else b"yes")

    def op_same_descriptor(self, _):
        self.write(b"yes" if self.handler.wfile.fileno() == self.request.fileno() else b"no")

    def op_gate(self, name):
        at_gate(name)

    def op_shutdown(self, _):
        self.server.shutdown()

    def op_raise(self, what):
        fail(what)


def note_text(name, data):
    NOTED.add(name)
    note(name, None, "(%s)" % shown(data))


def fail_once():
    """Lets the next start of a thread or a process fail as the system would."""

    def failing(module, name, error):
        original = getattr(module, name)

        def start(*arguments):
            setattr(module, name, original)
            raise error

        setattr(module, name, start)

    if MODEL == "forking":
        failing(os, "fork", BlockingIOError(errno.EAGAIN, "as asked"))
    else:
        failing(threading.Thread, "start", RuntimeError("as asked"))


def make_handler():
    style = OPTIONS.get("handler", "class")
    if style == "function":

        def function(request, client_address, server):
            note("handle")
            Script(None, request, client_address, server).run("handle")

        return function
    bases = {
        ("class", True): socketserver.StreamRequestHandler,
        ("class", False): socketserver.DatagramRequestHandler,
        ("base", True): socketserver.BaseRequestHandler,
        ("base", False): socketserver.BaseRequestHandler,
    }

    class Handler(bases[style, IS_STREAM]):
        rbufsize = int(OPTIONS.get("rbuf", -1))
        wbufsize = int(OPTIONS.get("wbuf", 0))
        timeout = float(OPTIONS["read_timeout"]) / 1000 if "read_timeout" in OPTIONS else None
        disable_nagle_algorithm = OPTIONS.get("nodelay") == "1"

        def setup(self):
            note("setup")
            super().setup()
            self.script = Script(self, self.request, self.client_address, self.server)
            self.script.run("setup")

        def handle(self):
            note("handle")
            self.script.run("handle")

        def finish(self):
            note("finish")
            super().finish()
            self.script.run("finish")

    return Handler


def make_class():
    base = {
        "tcp": socketserver.TCPServer,
        "tls": socketserver.TCPServer,
        "udp": socketserver.UDPServer,
        "unix": socketserver.UnixStreamServer,
        "unixgram": socketserver.UnixDatagramServer,
    }[TRANSPORT]
    mixin = {
        "sequential": (),
        "threading": (socketserver.ThreadingMixIn,),
        "forking": (socketserver.ForkingMixIn,),
    }[MODEL]
    # The mix-ins' own process_request calls the others: Traced goes before them all.
    cls = type("Server", (Traced,) + mixin + (base,), {})
    flag = lambda name: OPTIONS[name] == "1"
    attributes = {
        "backlog": ("request_queue_size", int),
        "max_packet": ("max_packet_size", int),
        "max_children": ("max_children", int),
        "timeout": ("timeout", lambda text: float(text) / 1000),
        "reuse_address": ("allow_reuse_address", lambda text: text == "1"),
        "reuse_port": ("allow_reuse_port", lambda text: text == "1"),
        "block_on_close": ("block_on_close", lambda text: text == "1"),
        "daemon_threads": ("daemon_threads", lambda text: text == "1"),
    }
    for option, (attribute, convert) in attributes.items():
        if option in OPTIONS:
            setattr(cls, attribute, convert(OPTIONS[option]))
    if OPTIONS.get("family") == "6":
        cls.address_family = socket.AF_INET6
    return cls


# --- the commands of the runner


class Driver:
    server = None
    other = None
    foreign = None
    open_first = None

    def address(self):
        if TRANSPORT in ("tcp", "tls", "udp"):
            host = OPTIONS.get("host", "127.0.0.1")
            return (host, int(OPTIONS.get("port", 0)))
        # Servers of other cells run at the same time.
        return "\0%s-%d" % (OPTIONS["abstract"], os.getpid()) if "abstract" in OPTIONS else "s"

    def make(self, address, activate=True):
        return make_class()(address, make_handler(), activate)

    def bind(self, how="now"):
        self.server = self.make(self.address(), how == "now")
        if how == "only":
            self.server.server_bind()
        self.say_address()

    def say_address(self):
        address = self.server.server_address
        if isinstance(address, tuple):
            host = "[%s]" % address[0] if ":" in address[0] else address[0]
            say("address inet %s:%d" % (host, address[1]))
        elif isinstance(address, bytes):
            say("address abstract %s" % address[1:].decode())
        else:
            say("address path %s" % address)

    def activate(self):
        self.server.server_activate()

    def serve(self):
        if OPTIONS.get("dispatch") == "fails":
            fail_once()
        if OPTIONS.get("poll") == "none":
            return self.server.serve_forever(None)
        self.server.serve_forever(int(OPTIONS.get("poll", 20)) / 1000)

    def request(self):
        if "socket_timeout" in OPTIONS:
            self.server.socket.settimeout(float(OPTIONS["socket_timeout"]) / 1000)
        self.server.handle_request()

    def poll(self):
        ready, _, _ = select.select([self.server], [], [], float(5))
        return "ready" if ready else "not ready"

    def close(self):
        self.server.server_close()

    def leave(self):
        with self.server:
            pass

    def shutdown(self):
        self.server.shutdown()

    def rebind(self):
        """A second server on the address of the first."""
        address = self.server.server_address
        if TRANSPORT == "unix" or TRANSPORT == "unixgram":
            address = "s"
        self.other = self.make(address)
        return "bound"

    def leak(self, times):
        """Binding in vain, again and again."""
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(int(times)):
            try:
                self.rebind()
                return "bound"
            except OSError as error:
                if kind(error) != "EADDRINUSE":
                    raise
        return "leaks %d" % (len(os.listdir("/proc/self/fd")) - before)

    def file(self):
        return "there" if os.path.exists("s") else "gone"

    def fd(self):
        return "closed" if self.server.fileno() == -1 else "open"

    def foreign_child(self):
        """A child that the server knows nothing of."""
        self.foreign = subprocess.Popen(["sh", "-c", "exit 72"])
        # Ended, and not yet waited for.
        os.waitid(os.P_PID, self.foreign.pid, os.WEXITED | os.WNOWAIT)

    def foreign_status(self):
        try:
            return "exit status %d" % os.waitstatus_to_exitcode(os.waitpid(self.foreign.pid, 0)[1])
        except ChildProcessError:
            return "stolen"

    def children(self):
        """How many children there are, ended ones too."""
        with open("/proc/self/task/%d/children" % os.getpid()) as children:
            return str(len(children.read().split()))

    def nofile(self, how):
        """Allows no further descriptor, or as many as before."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if how == "none":
            self.soft = soft
            # The lowest free descriptor is the first that is refused.
            probe = os.dup(0)
            os.close(probe)
            resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
        else:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.soft, hard))

    def threads(self, most):
        """How many threads there are, if they are not fewer."""
        count = len(os.listdir("/proc/self/task"))
        return "fewer" if count < int(most) else str(count)

    def fds(self):
        """How many descriptors are open, compared with the first time."""
        open_now = len(os.listdir("/proc/self/fd"))
        first, self.open_first = self.open_first is None, self.open_first or open_now
        return "noted" if first else "%+d" % (open_now - self.open_first)

    def interrupt(self):
        """What Ctrl-C does."""
        os.kill(os.getpid(), signal.SIGINT)


# These do not wait for their turn.
AT_ONCE = {"shutdown", "nofile", "close_now", "interrupt", "fds"}


def obey(driver, command, arguments):
    start = time.monotonic()
    try:
        method = driver.close if command == "close_now" else getattr(driver, command)
        result = method(*arguments) or "returned"
    except BaseException as error:
        result = "raised " + kind(error)
    say("done %s %d %s" % (command, (time.monotonic() - start) * 1000, result))


def listen(driver, commands):
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "exit":
            break
        if command in AT_ONCE:
            threading.Thread(target=obey, args=(driver, command, arguments), daemon=True).start()
        else:
            commands.put((command, arguments))
    os._exit(0)


def main():
    driver, commands = Driver(), queue.Queue()
    threading.Thread(target=listen, args=(driver, commands), daemon=True).start()
    say("version %d.%d.%d" % sys.version_info[:3])
    while True:
        command, arguments = commands.get()
        obey(driver, command, arguments)


main()
