"""A server or a relay that does not say when it is ready: starts it on a free port, and ends it when it is ended itself.

`listener.py socat-relay SERVER`, or `listener.py NAME PROGRAM` for a super-server that starts the program for each connection.
Each has its usual best settings: no look-up of names, no access files, no log, no limits that would be met.
"""

import getpass
import os
import sys
import tempfile

from started import free_port, run

XINETD = """
defaults
{{
    instances = UNLIMITED
    per_source = UNLIMITED
    cps = 1000000 1
}}
service program
{{
    type = UNLISTED
    flags = NOLIBWRAP NODELAY
    socket_type = stream
    protocol = tcp
    wait = no
    user = {user}
    bind = 127.0.0.1
    port = {port}
    server = {program}
    log_on_success =
    log_on_failure =
}}
"""


def xinetd(port, program, directory):
    config, log, pid = (os.path.join(directory, name) for name in ("config", "log", "pid"))
    with open(config, "w") as file:
        file.write(XINETD.format(user=getpass.getuser(), port=port, program=program))
    return ["xinetd", "-dontfork", "-f", config, "-filelog", log, "-pidfile", pid]


def socat(port, *to):
    listen = "TCP-LISTEN:%d,bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=1024" % port
    return ["socat", listen, *to]


def command(name, argument, port, directory):
    if name == "tcpserver":
        limits = ["-c", "100000", "-b", "1024"]
        return ["tcpserver", "-DHRl0", *limits, "127.0.0.1", str(port), argument]
    if name == "xinetd":
        return xinetd(port, argument, directory)
    if name == "socat":
        # Without a process that copies.
        return socat(port, "EXEC:%s,nofork" % argument)
    if name == "socat-relay":
        return socat(port, "TCP:%s,nodelay" % argument)
    sys.exit("%s: tcpserver, xinetd, socat and socat-relay are known" % name)


def main():
    name, argument = sys.argv[1:]
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        run(command(name, argument, port, directory), port)


main()
