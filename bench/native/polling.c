/* `poll`: Socket.IO 5 on HTTP long-polling. Each client has a connection for its
 * GETs, of which one always hangs, and one for its POSTs. An operation is an event
 * posted and its echo fetched; the next is posted when both answers are in. */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum step { OPENING, CONNECTING, WELCOME, READY };

struct poller {
    struct stream get, post; /* `get` first: that stream is cast to its poller */
    struct client count;     /* number, sent and received, for the payload's checks */
    enum step step;
    int posting, due, opened; /* `due`: an echo that has not come */
    int ping;                 /* the next POST brings a pong */
    char sid[64];
};

static struct poller *pollers;
static uint64_t target, issued, answered, progress, ready;
static uint8_t *message;

static struct poller *by_post(struct stream *stream)
{
    return (struct poller *)((char *)stream - offsetof(struct poller, post));
}

static void fetch(struct poller *poller)
{
    char request[256];
    int size = snprintf(request, sizeof request, "GET /socket.io/?EIO=4&transport=polling%s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n",
                        poller->sid[0] ? "&sid=" : "", poller->sid, options.port);
    stream_write(&poller->get, (uint8_t *)request, (size_t)size);
}

static void post(struct poller *poller, const char *body, size_t size)
{
    static char *request;
    request = allocated(request, size + 400);
    int head = sprintf(request, "POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                       "Content-Type: text/plain;charset=UTF-8\r\nContent-Length: %zu\r\n\r\n", poller->sid, options.port, size);
    memcpy(request + head, body, size);
    poller->posting = 1;
    stream_write(&poller->post, (uint8_t *)request, (size_t)head + size);
}

static void post_next(struct poller *poller)
{
    char body[4096];
    int size;
    if (poller->posting || poller->due || issued == target)
        return;
    payload_write(message, poller->count.number, poller->count.sent++, 0);
    size = snprintf(body, sizeof body, "%s42[\"m\",\"%.*s\"]", poller->ping ? "3\x1e" : "", (int)options.payload, (char *)message);
    poller->ping = 0;
    poller->due = 1;
    issued++;
    post(poller, body, (size_t)size);
}

static void on_packet(struct poller *poller, const char *text, size_t size)
{
    static const char head[] = "42[\"m\",\"";
    if (poller->step == OPENING) {
        const char *sid = memmem(text, size, "\"sid\":\"", 7);
        size_t length = sid ? strcspn(sid + 7, "\"") : sizeof poller->sid;
        if (text[0] != '0' || length >= sizeof poller->sid)
            fail(SETUP, "client %u: opened with %.*s", poller->count.number, (int)size, text);
        memcpy(poller->sid, sid + 7, length);
        poller->step = CONNECTING;
        stream_connect(&poller->post);
    } else if (size == 1 && text[0] == '2') {
        poller->ping = 1;
        if (!poller->posting) {
            poller->ping = 0;
            post(poller, "3", 1);
        }
    } else if (poller->step == WELCOME && size > 2 && !memcmp(text, "40", 2)) {
        poller->step = READY;
        ready++;
    } else {
        if (size < sizeof head + 1 || memcmp(text, head, sizeof head - 1) || !poller->due)
            fail(LOST, "client %u: %.*s", poller->count.number, (int)(size < 100 ? size : 100), text);
        payload_write(message, poller->count.number, poller->count.received++, 0);
        if (size - (sizeof head - 1) - 2 != options.payload || memcmp(text + sizeof head - 1, message, options.payload))
            payload_refuse(&poller->count, (const uint8_t *)text + sizeof head - 1, size - (sizeof head - 1) - 2, message);
        poller->due = 0;
        answered++;
    }
    progress++;
}

/* The body of a chunked answer, moved together; 0 while it is not all there, else the bytes it took. */
static size_t chunked(uint8_t *data, size_t size, size_t *body)
{
    size_t at = 0;
    *body = 0;
    for (;;) {
        uint8_t *line = memmem(data + at, size - at, "\r\n", 2);
        if (!line)
            return 0;
        size_t chunk = strtoul((char *)data + at, NULL, 16), begin = (size_t)(line + 2 - data);
        if (size < begin + chunk + 2)
            return 0;
        if (!chunk)
            return begin + 2;
        at = begin + chunk + 2;
        *body += chunk;
    }
}

/* A whole answer: the bytes it took, 0 while it is not there; its body at `*text`, `*body` bytes. */
static size_t answer(uint8_t *data, size_t size, uint8_t **text, size_t *body)
{
    static const char length[] = "\r\ncontent-length:", chunks[] = "\r\ntransfer-encoding: chunked";
    uint8_t *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    if (memcmp(data, "HTTP/1.1 200", 12))
        fail(LOST, "an answer: %.*s", (int)(size < 300 ? size : 300), (char *)data);
    size_t head = (size_t)(end + 4 - data);
    *text = end + 4;
    for (uint8_t *at = data; at + sizeof length - 1 < end; at++)
        if (!strncasecmp((char *)at, length, sizeof length - 1)) {
            *body = strtoul((char *)at + sizeof length - 1, NULL, 10);
            return size < head + *body ? 0 : head + *body;
        }
    for (uint8_t *at = data; at + sizeof chunks - 1 <= end; at++)
        if (!strncasecmp((char *)at, chunks, sizeof chunks - 1)) {
            size_t took = chunked(*text, size - head, body);
            if (!took)
                return 0;
            uint8_t *to = *text, *from = *text;
            for (size_t chunk; (chunk = strtoul((char *)from, NULL, 16)); from += chunk + 2, to += chunk) {
                from = (uint8_t *)memmem(from, size, "\r\n", 2) + 2;
                memmove(to, from, chunk);
            }
            return head + took;
        }
    fail(SETUP, "an answer with neither Content-Length nor chunks");
}

static size_t on_fetched(struct stream *stream, uint8_t *data, size_t size)
{
    struct poller *poller = (struct poller *)stream;
    uint8_t *text;
    size_t body, took = answer(data, size, &text, &body);
    if (!took)
        return 0;
    int opening = poller->step == OPENING;
    for (char *at = (char *)text, *end = at + body; at <= end && body;) {
        char *next = memchr(at, '\x1e', (size_t)(end - at));
        on_packet(poller, at, (size_t)((next ? next : end) - at));
        if (!next)
            break;
        at = next + 1;
    }
    if (!opening)
        fetch(poller);
    post_next(poller);
    return took;
}

static size_t on_posted(struct stream *stream, uint8_t *data, size_t size)
{
    struct poller *poller = by_post(stream);
    uint8_t *text;
    size_t body, took = answer(data, size, &text, &body);
    if (!took)
        return 0;
    if (body != 2 || strncasecmp((char *)text, "ok", 2)) /* python-socketio says OK */
        fail(LOST, "client %u: a POST was answered %.*s", poller->count.number, (int)body, (char *)text);
    poller->posting = 0;
    progress++;
    if (poller->step == CONNECTING) {
        poller->step = WELCOME;
        fetch(poller);
    }
    post_next(poller);
    return took;
}

static void on_get_open(struct stream *stream)
{
    fetch((struct poller *)stream);
}

static void on_post_open(struct stream *stream)
{
    post(by_post(stream), "40", 2);
}

static void on_end(struct stream *stream)
{
    (void)stream;
    fail(LOST, "the server closed a connection");
}

static int all_ready(void)
{
    return ready == options.connections;
}

static void nobody(void)
{
    fail(SETUP, "%llu of %u clients are connected and nothing moves", (unsigned long long)ready, options.connections);
}

static int all_answered(void)
{
    if (answered != target)
        return 0;
    for (uint32_t i = 0; i < options.connections; i++)
        if (pollers[i].posting)
            return 0;
    return 1;
}

static void missing(void)
{
    fail(LOST, "%llu of %llu echoes are missing", (unsigned long long)(target - answered), (unsigned long long)target);
}

void poll_start(void)
{
    message = allocated(NULL, options.payload);
    pollers = allocated(NULL, options.connections * sizeof *pollers);
    memset(pollers, 0, options.connections * sizeof *pollers);
    for (uint32_t i = 0; i < options.connections; i++) {
        struct poller *poller = &pollers[i];
        poller->count.number = i;
        poller->get.on_open = on_get_open;
        poller->get.on_bytes = on_fetched;
        poller->get.on_close = on_end;
        poller->post.on_open = on_post_open;
        poller->post.on_bytes = on_posted;
        poller->post.on_close = on_end;
        stream_connect(&poller->get);
    }
    pump_until(all_ready, &progress, nobody);
}

void poll_run(uint64_t operations)
{
    target = operations;
    issued = answered = 0;
    for (uint32_t i = 0; i < options.connections; i++)
        post_next(&pollers[i]);
    pump_until(all_answered, &progress, missing);
    result("operations", (double)operations);
}
