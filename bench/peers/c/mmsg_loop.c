// Echo of datagrams in batches of 32 with recvmmsg and sendmmsg. The arguments: the size of each buffer, and udp or unix.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BATCH 32

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int bind_udp(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind");
    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
        fail("getsockname");
    fprintf(stderr, "listening on udp://127.0.0.1:%d\n", ntohs(address.sin_port));
    return fd;
}

static int bind_unix(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    int length = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "bench-mmsg-%d", getpid());
    if (bind(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + length) < 0)
        fail("bind");
    fprintf(stderr, "listening on unixgram:@%s\n", address.sun_path + 1);
    return fd;
}

int main(int argc, char **argv)
{
    size_t size = argc > 1 ? strtoul(argv[1], NULL, 10) : 65536;
    int fd = argc > 2 && strcmp(argv[2], "unix") == 0 ? bind_unix() : bind_udp();
    static struct sockaddr_storage peers[BATCH];
    static struct iovec vectors[BATCH];
    static struct mmsghdr messages[BATCH];
    for (int i = 0; i < BATCH; i++) {
        vectors[i].iov_base = malloc(size);
        if (vectors[i].iov_base == NULL)
            fail("malloc");
        messages[i].msg_hdr.msg_name = &peers[i];
        messages[i].msg_hdr.msg_iov = &vectors[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            vectors[i].iov_len = size;
            messages[i].msg_hdr.msg_namelen = sizeof peers[i];
        }
        int count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        if (count < 0)
            fail("recvmmsg");
        for (int i = 0; i < count; i++)
            vectors[i].iov_len = messages[i].msg_len;
        for (int done = 0; done < count;) {
            int sent = sendmmsg(fd, messages + done, count - done, 0);
            if (sent < 0)
                fail("sendmmsg");
            done += sent;
        }
    }
}
