// A process for each connection, with nothing around it: accept, fork, read, write, shut down, exit. At most 40 children,
// like ForkingMixIn.

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_CHILDREN 40

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void serve(int connection)
{
    char buffer[1024];
    ssize_t count = read(connection, buffer, sizeof buffer);
    if (count > 0 && write(connection, buffer, count) != count)
        _exit(1);
    shutdown(connection, SHUT_WR);
    _exit(0);
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0)
        fail("socket");
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind");
    if (listen(listener, 4096) < 0)
        fail("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        fail("getsockname");
    fprintf(stderr, "listening on tcp://127.0.0.1:%d\n", ntohs(address.sin_port));

    for (int children = 0;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0)
            fail("accept");
        pid_t pid = fork();
        if (pid < 0)
            fail("fork");
        if (pid == 0) {
            close(listener);
            serve(connection);
        }
        close(connection);
        children++;
        while (children > 0 && waitpid(-1, NULL, children < MAX_CHILDREN ? WNOHANG : 0) > 0)
            children--;
    }
}
