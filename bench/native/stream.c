/* The epoll loop and its sockets. Edge-triggered: one registration serves
 * reading and writing, and a short read needs no second look at the socket,
 * which keeps the generator cheaper than the servers that it measures. */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_SIZE = 1 << 18, MAX_EVENTS = 512 };

static int poller = -1;
static uint8_t *incoming;
static size_t incoming_room;

void loop_start(void)
{
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        fail(SETUP, "epoll_create1: %s", strerror(errno));
}

int loop_watch(int fd, struct source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) == 0)
        return 1;
    if (errno != EPERM)
        fail(SETUP, "epoll_ctl: %s", strerror(errno));
    return 0;
}

void loop_forget(int fd)
{
    if (epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL) < 0)
        fail(SETUP, "epoll_ctl: %s", strerror(errno));
}

void pump(int milliseconds)
{
    struct epoll_event events[MAX_EVENTS];
    int count = epoll_wait(poller, events, MAX_EVENTS, milliseconds);
    if (count < 0 && errno != EINTR)
        fail(SETUP, "epoll_wait: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct source *source = events[i].data.ptr;
        source->ready(source, events[i].events);
    }
}

void pump_until(int (*done)(void), const uint64_t *progress, void (*missing)(void))
{
    uint64_t seen = *progress, since = nanoseconds();
    while (!done()) {
        pump(100);
        if (*progress != seen) {
            /* The clock is read only when nothing moves. */
            seen = *progress;
            since = 0;
        } else if (!since) {
            since = nanoseconds();
        } else if ((double)(nanoseconds() - since) > options.timeout * 1e9) {
            missing();
        }
    }
}

static void ended(struct stream *stream)
{
    stream_close(stream);
    stream->on_close(stream);
}

static void flush(struct stream *stream)
{
    ssize_t sent = send(stream->fd, stream->out, stream->out_size, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR)
            ended(stream);
        return;
    }
    stream->out_size -= (size_t)sent;
    memmove(stream->out, stream->out + sent, stream->out_size);
}

void stream_write(struct stream *stream, const uint8_t *data, size_t size)
{
    if (stream->state == STREAM_CLOSED)
        return;
    if (!stream->out_size) {
        ssize_t sent = send(stream->fd, data, size, MSG_NOSIGNAL);
        if (sent == (ssize_t)size)
            return;
        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                ended(stream);
                return;
            }
            sent = 0;
        }
        data += sent;
        size -= (size_t)sent;
    }
    stream->out = allocated(stream->out, stream->out_size + size);
    memcpy(stream->out + stream->out_size, data, size);
    stream->out_size += size;
}

static void receive(struct stream *stream)
{
    for (;;) {
        size_t kept = stream->in_size;
        if (incoming_room < kept + READ_SIZE) {
            incoming_room = kept + READ_SIZE;
            incoming = allocated(incoming, incoming_room);
        }
        ssize_t got = recv(stream->fd, incoming + kept, READ_SIZE, 0);
        if (got <= 0) {
            if (got == 0 || (errno != EAGAIN && errno != EINTR))
                ended(stream);
            return;
        }
        if (kept)
            memcpy(incoming, stream->in, kept);
        size_t size = kept + (size_t)got;
        size_t taken = stream->on_bytes(stream, incoming, size);
        if (stream->state != STREAM_OPEN)
            return;
        stream->in_size = size - taken;
        if (stream->in_size) {
            stream->in = allocated(stream->in, stream->in_size);
            memcpy(stream->in, incoming + taken, stream->in_size);
        }
        if (got < READ_SIZE)
            return; /* drained: whatever comes now is a new edge */
    }
}

static void stream_ready(struct source *source, uint32_t events)
{
    struct stream *stream = (struct stream *)source;
    if (stream->state == STREAM_CLOSED)
        return;
    if (stream->state == STREAM_CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
            return;
        if (getsockopt(stream->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error)
            fail(SETUP, "connect to port %d: %s", options.port, strerror(error ? error : errno));
        stream->state = STREAM_OPEN;
        stream->on_open(stream);
        return;
    }
    if (stream->out_size && events & EPOLLOUT)
        flush(stream);
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP) && stream->state == STREAM_OPEN)
        receive(stream);
}

void stream_connect(struct stream *stream)
{
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(options.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    stream->source.ready = stream_ready;
    stream->state = STREAM_CONNECTING;
    stream->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (stream->fd < 0)
        fail(SETUP, "socket: %s (ulimit -n must exceed the connections)", strerror(errno));
    if (setsockopt(stream->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        fail(SETUP, "TCP_NODELAY: %s", strerror(errno));
    if (connect(stream->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fail(SETUP, "connect to port %d: %s", options.port, strerror(errno));
    loop_watch(stream->fd, &stream->source, EPOLLIN | EPOLLOUT | EPOLLET);
}

void stream_close(struct stream *stream)
{
    if (stream->state == STREAM_CLOSED)
        return;
    close(stream->fd); /* leaves the epoll set by itself */
    stream->state = STREAM_CLOSED;
    free(stream->in);
    free(stream->out);
    stream->in = stream->out = NULL;
    stream->in_size = stream->out_size = 0;
}
