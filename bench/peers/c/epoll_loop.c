// The echo that one would write by hand for the least processor time: one thread, edge-triggered epoll, batches of
// accept4, one buffer for all connections; for each message one recv and one send.
//
// A connection is read before it is watched, so one whose request has already arrived is never put into the epoll
// instance. Sending is tried before it is waited for; only what did not fit is kept.
//
// The arguments: once or echo, and tcp or unix.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define EVENTS 512
#define DESCRIPTORS 65536

// What a peer that does not read has not taken yet.
struct rest {
    char *data;
    size_t start, end;
};

static char buffer[64 * 1024];
static struct rest rests[DESCRIPTORS];
static int poll_fd, once;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int listen_tcp(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        fail("socket");
    // Accepted sockets inherit it.
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        fail("setsockopt");
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind");
    if (listen(fd, 4096) < 0)
        fail("listen");
    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
        fail("getsockname");
    fprintf(stderr, "listening on tcp://127.0.0.1:%d\n", ntohs(address.sin_port));
    return fd;
}

static int listen_unix(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        fail("socket");
    int length = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "bench-epoll-%d", getpid());
    if (bind(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + length) < 0)
        fail("bind");
    if (listen(fd, 4096) < 0)
        fail("listen");
    fprintf(stderr, "listening on unix:@%s\n", address.sun_path + 1);
    return fd;
}

static void watch(int how, int fd, unsigned events)
{
    struct epoll_event event = {.events = events | EPOLLET, .data.fd = fd};
    if (epoll_ctl(poll_fd, how, fd, &event) < 0)
        fail("epoll_ctl");
}

static void drop(int fd)
{
    free(rests[fd].data);
    rests[fd].data = NULL;
    close(fd);
}

// Keeps what did not fit, and waits until there is room.
static void keep(int fd, const char *data, size_t size, int watched)
{
    struct rest *rest = &rests[fd];
    rest->data = malloc(size);
    if (rest->data == NULL)
        fail("malloc");
    memcpy(rest->data, data, size);
    rest->start = 0;
    rest->end = size;
    watch(watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, EPOLLOUT);
}

// Echoes until there is nothing more to read.
static void echo(int fd, int watched, unsigned events)
{
    for (;;) {
        ssize_t count = recv(fd, buffer, sizeof buffer, 0);
        if (count < 0 && errno == EAGAIN)
            break;
        if (count <= 0)
            return drop(fd);
        ssize_t sent = send(fd, buffer, count, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            return drop(fd);
        if (sent != count)
            return keep(fd, buffer + (sent < 0 ? 0 : sent), count - (sent < 0 ? 0 : sent), watched);
        if (once)
            return drop(fd);
        // A short read has emptied the socket, and more will be a new edge; but the end is not.
        if (watched && (size_t)count < sizeof buffer && !(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
            return;
    }
    if (!watched)
        watch(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP);
}

// Sends what was kept, and goes on reading when it is gone.
static void flush(int fd)
{
    struct rest *rest = &rests[fd];
    while (rest->start < rest->end) {
        ssize_t sent = send(fd, rest->data + rest->start, rest->end - rest->start, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            return;
        if (sent < 0)
            return drop(fd);
        rest->start += sent;
    }
    if (once)
        return drop(fd);
    free(rest->data);
    rest->data = NULL;
    // A changed interest reports what is there already.
    watch(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLRDHUP);
}

int main(int argc, char **argv)
{
    once = argc > 1 && strcmp(argv[1], "once") == 0;
    int listener = argc > 2 && strcmp(argv[2], "unix") == 0 ? listen_unix() : listen_tcp();
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (poll_fd < 0)
        fail("epoll_create1");
    watch(EPOLL_CTL_ADD, listener, EPOLLIN);
    static struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(poll_fd, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                if (rests[fd].data != NULL)
                    flush(fd);
                else
                    echo(fd, 1, events[i].events);
                continue;
            }
            int connection;
            while ((connection = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                if (connection >= DESCRIPTORS) {
                    close(connection);
                    continue;
                }
                echo(connection, 0, 0);
            }
            if (errno != EAGAIN && errno != ECONNABORTED)
                fail("accept4");
        }
    }
}
