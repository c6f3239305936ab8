/* A publisher on one keep-alive HTTP/1.1 connection: POST /publish with
 * {"topic", "message"}, one request at a time, each answered 200. Opened for one
 * run and closed after it, so that no keep-alive deadline falls between runs. */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static struct stream stream;
static int waiting, opened;
static uint64_t progress;

static size_t content_length(const uint8_t *head, const uint8_t *end)
{
    static const char name[] = "\r\ncontent-length:";
    for (const uint8_t *at = head; at + sizeof name - 1 < end; at++)
        if (!strncasecmp((const char *)at, name, sizeof name - 1))
            return strtoul((const char *)at + sizeof name - 1, NULL, 10);
    fail(SETUP, "POST /publish: an answer without Content-Length");
}

static size_t on_bytes(struct stream *unused, uint8_t *data, size_t size)
{
    (void)unused;
    uint8_t *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    size_t head = (size_t)(end + 4 - data), body = content_length(data, end + 2);
    if (size < head + body)
        return 0;
    if (memcmp(data, "HTTP/1.1 200", 12))
        fail(SETUP, "POST /publish was answered %.*s: %.*s", 12, (char *)data,
             (int)(body < 300 ? body : 300), (char *)data + head);
    if (!waiting)
        fail(SETUP, "POST /publish: an answer to no request");
    waiting = 0;
    return head + body;
}

static void on_open(struct stream *unused)
{
    (void)unused;
    opened = 1;
    progress++;
}

static void on_close(struct stream *unused)
{
    (void)unused;
    fail(SETUP, "POST /publish: the server closed the connection");
}

static int is_open(void)
{
    return opened;
}

static void open_missing(void)
{
    fail(SETUP, "POST /publish: no connection");
}

void http_open(void)
{
    stream.on_open = on_open;
    stream.on_bytes = on_bytes;
    stream.on_close = on_close;
    opened = waiting = 0;
    stream_connect(&stream);
    pump_until(is_open, &progress, open_missing);
}

void http_publish(const uint8_t *message, size_t size)
{
    static char *request;
    size_t room = size + strlen(options.topic) + 300;
    request = allocated(request, room);
    int body = (int)(size + strlen(options.topic)) + (int)strlen("{\"topic\": \"\", \"message\": \"\"}");
    int length = snprintf(request, room,
                          "POST /publish HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                          "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                          "{\"topic\": \"%s\", \"message\": \"%.*s\"}",
                          options.port, body, options.topic, (int)size, (const char *)message);
    waiting = 1;
    stream_write(&stream, (uint8_t *)request, (size_t)length);
}

int http_ready(void)
{
    return !waiting;
}

void http_close(void)
{
    stream_close(&stream);
}
