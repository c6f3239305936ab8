/* WebSocket clients: RFC 6455 from the client's side, as far as a load
 * generator needs it. No extensions are offered, so none may come back. */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

enum { CONNECTING_AT_ONCE = 64 }; /* below every peer's listen backlog */

struct client *clients;
uint32_t client_count;
void (*on_message)(struct client *, const uint8_t *, size_t, int);

static uint32_t wanted, started, upgraded, closed;
static uint64_t progress;
static int closing;
static uint64_t random_state;

/* Masks must not be guessable by the text's author (RFC 6455 5.3); here the
 * author is this program, and a cheap generator that varies is enough. */
static uint32_t random_mask(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

void client_send(struct client *client, int opcode, const uint8_t *payload, size_t size)
{
    if (options.socketio && opcode == WS_TEXT)
        socketio_send(client, payload, size);
    else
        frame_send(client, opcode, payload, size);
}

void frame_send(struct client *client, int opcode, const uint8_t *payload, size_t size)
{
    static uint8_t *frame;
    static size_t room;
    if (room < size + WS_MAX_HEADER) {
        room = size + WS_MAX_HEADER;
        frame = allocated(frame, room);
    }
    uint32_t random = random_mask();
    uint8_t mask[4];
    memcpy(mask, &random, 4);
    size_t header = ws_header(frame, opcode, size, mask);
    memcpy(frame + header, payload, size);
    ws_mask(frame + header, size, mask);
    stream_write(&client->stream, frame, header + size);
}

static void start_next(void);

static const char *path_of(const struct client *client)
{
    const char *usual = options.socketio ? "/socket.io/?EIO=4&transport=websocket" : "/";
    return client->number < options.path_count ? options.paths[client->number] : usual;
}

static void connected(void)
{
    upgraded++;
    progress++;
    start_next();
}

static void send_request(struct stream *stream)
{
    struct client *client = (struct client *)stream;
    uint8_t nonce[16];
    char key[WS_KEY_SIZE + 1], request[2048];
    for (int i = 0; i < 4; i++) {
        uint32_t random = random_mask();
        memcpy(nonce + 4 * i, &random, 4);
    }
    ws_key(nonce, key);
    ws_accept(key, client->accept);
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Key: %s\r\n"
                        "Sec-WebSocket-Version: 13\r\n\r\n",
                        path_of(client), options.port, key);
    if (size < 0 || (size_t)size >= sizeof request)
        fail(SETUP, "connection %u: its path is too long", client->number);
    stream_write(stream, (uint8_t *)request, (size_t)size);
}

static size_t on_response(struct client *client, uint8_t *data, size_t size)
{
    static const char name[] = "\r\nsec-websocket-accept:";
    uint8_t *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    if (size < 12 || memcmp(data, "HTTP/1.1 101", 12)) {
        uint8_t *line = memchr(data, '\r', size);
        fail(SETUP, "connection %u: %s was answered %.*s", client->number, path_of(client),
             (int)(line - data), (char *)data);
    }
    for (uint8_t *at = data; at + sizeof name - 1 < end; at++) {
        if (strncasecmp((char *)at, name, sizeof name - 1))
            continue;
        at += sizeof name - 1;
        while (at < end && *at == ' ')
            at++;
        if (end - at < WS_ACCEPT_SIZE || memcmp(at, client->accept, WS_ACCEPT_SIZE))
            break;
        client->upgraded = 1;
        if (!options.socketio)
            connected();
        return (size_t)(end + 4 - data);
    }
    fail(SETUP, "connection %u: wrong Sec-WebSocket-Accept", client->number);
}

static void on_close_frame(struct client *client, const uint8_t *payload, size_t size)
{
    if (!client->closing)
        fail(LOST, "connection %u: closed by the server, code %d \"%.*s\"", client->number,
             size < 2 ? 1005 : payload[0] << 8 | payload[1], size < 2 ? 0 : (int)size - 2,
             (const char *)payload + (size < 2 ? 0 : 2));
    closed++;
    progress++;
    stream_close(&client->stream);
}

static size_t on_bytes(struct stream *stream, uint8_t *data, size_t size)
{
    struct client *client = (struct client *)stream;
    size_t at = 0;
    if (!client->upgraded)
        at = on_response(client, data, size);
    while (client->upgraded && at < size && stream->state == STREAM_OPEN) {
        struct ws_frame frame;
        if (!ws_parse(data + at, size - at, &frame))
            break;
        if (frame.masked || frame.rsv || !frame.fin)
            fail(SETUP, "connection %u: a frame that is masked, extended or a fragment (fin %d rsv %d mask %d)",
                 client->number, frame.fin, frame.rsv, frame.masked);
        if (size - at - frame.payload < frame.length)
            break;
        const uint8_t *payload = data + at + frame.payload;
        at += frame.payload + frame.length;
        switch (frame.opcode) {
        case WS_TEXT:
        case WS_BINARY:
            if (!options.socketio)
                on_message(client, payload, frame.length, frame.opcode);
            else if (socketio_receive(client, payload, frame.length))
                connected();
            break;
        case WS_PING:
            client_send(client, WS_PONG, payload, frame.length);
            break;
        case WS_CLOSE:
            on_close_frame(client, payload, frame.length);
            break;
        case WS_PONG:
            break;
        default:
            fail(LOST, "connection %u: opcode %d", client->number, frame.opcode);
        }
    }
    return at;
}

static void on_end(struct stream *stream)
{
    struct client *client = (struct client *)stream;
    if (!client->upgraded)
        fail(SETUP, "connection %u: refused without an answer", client->number);
    if (!closing)
        fail(LOST, "connection %u: cut off by the server", client->number);
    closed++;
    progress++;
}

static void start_next(void)
{
    if (started == wanted)
        return;
    struct client *client = &clients[started];
    client->number = started++;
    client->stream.on_open = send_request;
    client->stream.on_bytes = on_bytes;
    client->stream.on_close = on_end;
    stream_connect(&client->stream);
}

static int all_open(void)
{
    return upgraded == wanted;
}

static void open_missing(void)
{
    fail(SETUP, "%u of %u connections are open and nothing moves", upgraded, wanted);
}

double clients_open(uint32_t count)
{
    while (getrandom(&random_state, sizeof random_state, 0) != sizeof random_state || !random_state)
        ;
    clients = allocated(NULL, (count ? count : 1) * sizeof *clients);
    memset(clients, 0, (count ? count : 1) * sizeof *clients);
    client_count = wanted = count;
    uint64_t start = nanoseconds();
    for (uint32_t i = 0; i < count && i < CONNECTING_AT_ONCE; i++)
        start_next();
    pump_until(all_open, &progress, open_missing);
    return (double)(nanoseconds() - start) / 1e9;
}

static int all_closed(void)
{
    return closed == client_count;
}

static void close_missing(void)
{
    fail(SETUP, "%u connections got no answer to their Close", client_count - closed);
}

void clients_close(void)
{
    static const uint8_t normal[2] = {1000 >> 8, 1000 & 0xFF};
    closing = 1;
    for (uint32_t i = 0; i < client_count; i++) {
        clients[i].closing = 1;
        client_send(&clients[i], WS_CLOSE, normal, sizeof normal);
    }
    pump_until(all_closed, &progress, close_missing);
}
