/* The floor: a WebSocket server with nothing in it but the kernel's own price.
 *
 *     floor echo PORT         every text or binary message goes back
 *     floor broadcast PORT    every message goes to all the other clients
 *
 * One thread, one level-triggered epoll loop as libuv's, one read and one
 * write per operation, one send per receiver. It has no timeouts, no limits
 * beside the frame size, and refuses fragmented messages: a yardstick, not a
 * server. What it does write is never lost: a partial write is buffered.
 */
#define _GNU_SOURCE
#include "ws.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FRAME = 1 << 20, READ_SIZE = 1 << 16, MAX_EVENTS = 512 };

struct client {
    int fd;
    int open;       /* the handshake is done */
    int dead;       /* freed after the batch of events that it may still be in */
    int finishing;  /* a Close was answered: gone once the answer is written */
    size_t slot;    /* its place in clients[] while it is open */
    uint8_t *in;    /* an incomplete frame or request head */
    size_t in_size;
    uint8_t *out;   /* what the socket would not take yet */
    size_t out_size;
};

static int poller;
static int broadcasting;
static struct client **clients;
static size_t client_count, client_room;
static struct client **graveyard;
static size_t grave_count, grave_room;
static uint8_t incoming[MAX_FRAME + WS_MAX_HEADER + READ_SIZE];

static void fatal(const char *what)
{
    perror(what);
    exit(1);
}

static void *grown(void *block, size_t size)
{
    block = realloc(block, size);
    if (!block && size)
        fatal("realloc");
    return block;
}

static void listed(struct client ***list, size_t *count, size_t *room, struct client *client)
{
    if (*count == *room) {
        *room = *room ? *room * 2 : 64;
        *list = grown(*list, *room * sizeof **list);
    }
    (*list)[(*count)++] = client;
}

static void drop(struct client *client)
{
    if (client->dead)
        return;
    client->dead = 1;
    close(client->fd); /* leaves the epoll set by itself */
    if (client->open) {
        clients[client->slot] = clients[--client_count];
        clients[client->slot]->slot = client->slot;
    }
    listed(&graveyard, &grave_count, &grave_room, client);
}

static void bury(void)
{
    while (grave_count) {
        struct client *client = graveyard[--grave_count];
        free(client->in);
        free(client->out);
        free(client);
    }
}

static void watch(struct client *client, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, client->fd, &event) < 0)
        fatal("epoll_ctl");
}

static void send_to(struct client *client, const uint8_t *data, size_t size)
{
    if (client->dead)
        return;
    if (!client->out_size) {
        ssize_t sent = send(client->fd, data, size, MSG_NOSIGNAL);
        if (sent == (ssize_t)size)
            return;
        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                drop(client);
                return;
            }
            sent = 0;
        }
        data += sent;
        size -= (size_t)sent;
        /* Not read from until it has taken this: a client that does not read
         * its echoes must not fill our memory. */
        watch(client, EPOLLOUT);
    }
    client->out = grown(client->out, client->out_size + size);
    memcpy(client->out + client->out_size, data, size);
    client->out_size += size;
}

static void flush(struct client *client)
{
    ssize_t sent = send(client->fd, client->out, client->out_size, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR)
            drop(client);
        return;
    }
    client->out_size -= (size_t)sent;
    memmove(client->out, client->out + sent, client->out_size);
    if (client->out_size)
        return;
    free(client->out);
    client->out = NULL;
    if (client->finishing)
        drop(client);
    else
        watch(client, EPOLLIN);
}

/* The request head, answered once it is whole. Returns the bytes it took. */
static size_t handshake(struct client *client, uint8_t *data, size_t size)
{
    static const char name[] = "\r\nsec-websocket-key:";
    char key[WS_ACCEPT_SIZE + 1], answer[256];
    uint8_t *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) {
        if (size > 16384)
            drop(client);
        return 0;
    }
    for (uint8_t *at = data; at + sizeof name - 1 < end; at++) {
        if (strncasecmp((char *)at, name, sizeof name - 1))
            continue;
        at += sizeof name - 1;
        while (at < end && *at == ' ')
            at++;
        if (end - at < WS_KEY_SIZE)
            break;
        ws_accept((char *)at, key);
        int length = snprintf(answer, sizeof answer,
                              "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                              "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", key);
        client->open = 1;
        client->slot = client_count;
        listed(&clients, &client_count, &client_room, client);
        send_to(client, (uint8_t *)answer, (size_t)length);
        return (size_t)(end + 4 - data);
    }
    drop(client);
    return 0;
}

/* One whole frame. The answer's header is written over the client's header,
 * which is four bytes longer, so the payload is never copied. */
static void on_frame(struct client *client, uint8_t *frame_at, const struct ws_frame *frame)
{
    uint8_t *payload = frame_at + frame->payload;
    uint8_t header[WS_MAX_HEADER];
    int opcode = frame->opcode == WS_PING ? WS_PONG : frame->opcode;
    size_t header_size = ws_header(header, opcode, frame->length, NULL);
    uint8_t *answer = payload - header_size;
    size_t answer_size = header_size + frame->length;

    ws_mask(payload, frame->length, frame->mask);
    memcpy(answer, header, header_size);
    switch (frame->opcode) {
    case WS_TEXT:
    case WS_BINARY:
        if (!broadcasting) {
            send_to(client, answer, answer_size);
            return;
        }
        /* Backwards, because a failed send moves the last client into the
         * place of the one that is dropped: that one has had its copy. */
        for (size_t i = client_count; i-- > 0;)
            if (clients[i] != client && !clients[i]->finishing)
                send_to(clients[i], answer, answer_size);
        return;
    case WS_PING:
        send_to(client, answer, answer_size);
        return;
    case WS_CLOSE:
        send_to(client, answer, answer_size);
        client->finishing = 1;
        if (!client->out_size)
            drop(client);
        return;
    default:
        return; /* a pong */
    }
}

static void on_readable(struct client *client)
{
    size_t kept = client->in_size, at = 0;
    if (kept)
        memcpy(incoming, client->in, kept);
    ssize_t got = recv(client->fd, incoming + kept, READ_SIZE, 0);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            drop(client);
        return;
    }
    size_t size = kept + (size_t)got;

    if (!client->open)
        at = handshake(client, incoming, size);
    while (client->open && !client->dead && !client->finishing && at < size) {
        struct ws_frame frame;
        if (!ws_parse(incoming + at, size - at, &frame))
            break;
        if (!frame.masked || !frame.fin || frame.rsv || frame.length > MAX_FRAME) {
            drop(client);
            return;
        }
        if (size - at - frame.payload < frame.length)
            break;
        on_frame(client, incoming + at, &frame);
        at += frame.payload + frame.length;
    }
    if (client->dead)
        return;
    client->in_size = size - at;
    if (client->in_size) {
        client->in = grown(client->in, client->in_size);
        memcpy(client->in, incoming + at, client->in_size);
    } else if (client->in) {
        free(client->in);
        client->in = NULL;
    }
}

static void on_connect(int listener)
{
    for (;;) {
        int on = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
                fatal("accept4");
            return;
        }
        if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
            fatal("TCP_NODELAY");
        struct client *client = calloc(1, sizeof *client);
        if (!client)
            fatal("calloc");
        client->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
            fatal("epoll_ctl");
    }
}

static int listening(uint16_t port)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        fatal("socket");
    if (bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 4096) < 0)
        fatal("bind");
    if (getsockname(fd, (struct sockaddr *)&address, &size) < 0)
        fatal("getsockname");
    printf("listening %d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv)
{
    if (argc != 3 || (strcmp(argv[1], "echo") && strcmp(argv[1], "broadcast"))) {
        fprintf(stderr, "usage: floor echo|broadcast PORT\n");
        return 2;
    }
    broadcasting = !strcmp(argv[1], "broadcast");
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        fatal("epoll_create1");
    int listener = listening((uint16_t)atoi(argv[2]));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event) < 0)
        fatal("epoll_ctl");

    for (;;) {
        struct epoll_event events[MAX_EVENTS];
        int count = epoll_wait(poller, events, MAX_EVENTS, -1);
        if (count < 0 && errno != EINTR)
            fatal("epoll_wait");
        for (int i = 0; i < count; i++) {
            struct client *client = events[i].data.ptr;
            if (!client)
                on_connect(listener);
            else if (client->dead)
                continue;
            else if (client->out_size)
                flush(client);
            else
                on_readable(client);
        }
        bury();
    }
}
