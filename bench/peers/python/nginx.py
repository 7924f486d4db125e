"""One page on nginx with one worker: starts it on a free port, and ends it when it is ended itself.

With graceful as an argument the end is SIGQUIT, on which nginx lets requests end; with files the files of BENCH_FILES are
served.
"""

import os
import signal
import sys
import tempfile

from started import free_port, run

CONFIG = """
daemon off;
worker_processes 1;
{user}
pid {directory}/pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {directory};
    proxy_temp_path {directory};
    fastcgi_temp_path {directory};
    uwsgi_temp_path {directory};
    scgi_temp_path {directory};
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        {served}
    }}
}}
"""


PAGE = 'location / { default_type text/plain; return 200 "hello world\\n"; }'
FILES = "sendfile on; default_type text/plain; root %s;"


def main():
    port = free_port()
    served = FILES % os.environ["BENCH_FILES"] if "files" in sys.argv[1:] else PAGE
    # It gives up the rights of root otherwise, and the files need not lie where another user can read.
    user = "user root;" if os.geteuid() == 0 else ""
    with tempfile.TemporaryDirectory() as directory:
        # The worker gives up the rights of its user.
        os.chmod(directory, 0o755)
        config = os.path.join(directory, "nginx.conf")
        with open(config, "w") as file:
            file.write(CONFIG.format(directory=directory, port=port, user=user, served=served))
        end = signal.SIGQUIT if "graceful" in sys.argv[1:] else signal.SIGTERM
        run(["nginx", "-c", config], port, end)


main()
