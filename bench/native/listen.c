/* `listen`: one publisher, N subscribers, and every subscriber receives every
 * message exactly once, in order and unchanged.
 *
 * The publisher is one more WebSocket connection, which receives nothing, or
 * POST /publish. It never has more than `window` messages out that somebody has
 * not received yet, so that no slow-consumer policy comes into play; with the
 * default of 1 no server can join two messages into one write either, and the
 * price of a delivery is the price of one write. */
#include "load.h"

#include <stdlib.h>
#include <string.h>

static uint64_t target, published, complete; /* sequence numbers, over all runs */
static uint64_t deliveries, progress;
static uint32_t subscribers;
static uint8_t *messages;      /* the last `window` messages */
static uint32_t *received_by;  /* how many have each of them */
static uint64_t *published_at, *spread;

/* The last publish has its answer; a WebSocket publisher waits for none. */
static int acknowledged(void)
{
    return !options.http || http_ready();
}

static void publish_next(void)
{
    uint64_t slot = published % options.window;
    uint8_t *message = messages + slot * options.payload;
    published_at[slot] = nanoseconds();
    received_by[slot] = 0;
    payload_write(message, subscribers, published, published_at[slot]);
    published++;
    if (options.http)
        http_publish(message, options.payload);
    else
        client_send(&clients[subscribers], options.binary ? WS_BINARY : WS_TEXT, message, options.payload);
}

static void on_delivery(struct client *client, const uint8_t *payload, size_t size, int opcode)
{
    uint64_t sequence = client->received;
    const uint8_t *expected = messages + sequence % options.window * options.payload;
    if (client->number == subscribers)
        fail(LOST, "the publisher received a message");
    if (sequence == published) {
        static uint8_t *next;
        next = allocated(next, options.payload);
        payload_write(next, subscribers, published, 0);
        payload_refuse(client, payload, size, next);
    }
    if (size != options.payload || memcmp(payload, expected, size))
        payload_refuse(client, payload, size, expected);
    if (opcode != (options.binary ? WS_BINARY : WS_TEXT))
        fail(LOST, "connection %u: text came back as binary, or the reverse", client->number);
    client->received++;
    deliveries++;
    progress++;
    received_by[sequence % options.window]++;
}

static int advance(void)
{
    while (complete < published && received_by[complete % options.window] == subscribers) {
        /* Complete, but for the last one until its publisher has the answer. */
        if (complete + 1 == published && !acknowledged())
            break;
        spread[target - complete - 1] = nanoseconds() - published_at[complete % options.window];
        complete++;
        progress++;
    }
    while (published < target && published - complete < options.window && acknowledged())
        publish_next();
    return complete == target;
}

static void deliveries_missing(void)
{
    uint32_t behind = 0, first = 0;
    for (uint32_t i = subscribers; i-- > 0;)
        if (clients[i].received < published) {
            behind++;
            first = i;
        }
    if (!behind)
        fail(LOST, "message %llu: its publish got no answer", (unsigned long long)published - 1);
    fail(LOST, "%u of %u subscribers miss messages, the first: connection %u, message %llu of %llu",
         behind, subscribers, first, (unsigned long long)clients[first].received,
         (unsigned long long)published);
}

void listen_start(void)
{
    subscribers = options.connections;
    messages = allocated(NULL, options.window * options.payload);
    received_by = allocated(NULL, options.window * sizeof *received_by);
    published_at = allocated(NULL, options.window * sizeof *published_at);
    on_message = on_delivery;
}

void listen_run(uint64_t count)
{
    uint64_t before = deliveries;
    target = published + count;
    spread = allocated(NULL, count * sizeof *spread);
    if (options.http)
        http_open();
    pump_until(advance, &progress, deliveries_missing);
    if (options.http)
        http_close();
    result("messages", (double)count);
    result("deliveries", (double)(deliveries - before));
    result_percentiles("spread", spread, count);
    free(spread);
    spread = NULL;
}
