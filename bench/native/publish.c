/* `publish`: each connection speaks v1 and has --window publishes in flight;
 * the answers must come in order, each with a position behind the one before,
 * and all positions of a run together without a hole, unless others publish, too. */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t target, issued, answered; /* of this run */
static uint64_t now;                      /* ns, of this batch */
static uint64_t lowest, highest;          /* offsets of this run */
static uint64_t *latencies, *offsets;
static uint8_t *message;
static char *command;

static void publish_one(struct client *client)
{
    int at = sprintf(command, "{\"type\":\"publish\",\"id\":%llu,\"topic\":\"%s\",\"data\":\"",
                     (unsigned long long)client->sent, options.topic);
    client->times[client->sent % options.window] = now;
    payload_write(message, client->number, client->sent++, now);
    memcpy(command + at, message, options.payload);
    memcpy(command + at + options.payload, "\"}", 2);
    issued++;
    client_send(client, WS_TEXT, (uint8_t *)command, (size_t)at + options.payload + 2);
}

static void on_reply(struct client *client, const uint8_t *payload, size_t size, int opcode)
{
    static const char welcome[] = "{\"type\":\"welcome\"", reply[] = "{\"type\":\"reply\",\"id\":";
    static const char position[] = "\"position\":\"";
    const char *text = (const char *)payload, *found;
    if (size >= sizeof welcome - 1 && !memcmp(text, welcome, sizeof welcome - 1))
        return;
    if (opcode != WS_TEXT || size < sizeof reply - 1 || memcmp(text, reply, sizeof reply - 1))
        fail(LOST, "connection %u: answered %.*s", client->number, (int)(size < 200 ? size : 200), text);
    uint64_t id = strtoull(text + sizeof reply - 1, NULL, 10);
    if (client->received == client->sent || id != client->received)
        fail(LOST, "connection %u: publish %llu answered where %llu was due", client->number,
             (unsigned long long)id, (unsigned long long)client->received);
    found = memmem(text, size, position, sizeof position - 1);
    if (!found)
        fail(LOST, "connection %u: publish %llu has no position", client->number, (unsigned long long)id);
    uint64_t offset = strtoull(found + sizeof position - 1 + 17, NULL, 10); /* behind <epoch>- */
    if (offset <= offsets[client->number])
        fail(LOST, "connection %u: offset %llu behind %llu", client->number, (unsigned long long)offset,
             (unsigned long long)offsets[client->number]);
    offsets[client->number] = offset;
    lowest = offset < lowest ? offset : lowest;
    highest = offset > highest ? offset : highest;
    latencies[answered++] = now - client->times[client->received++ % options.window];
    if (issued < target)
        publish_one(client);
}

static int all_answered(void)
{
    now = nanoseconds();
    return answered == target;
}

static void missing(void)
{
    fail(LOST, "%llu of %llu publishes have no answer", (unsigned long long)(target - answered),
         (unsigned long long)target);
}

void publish_start(void)
{
    message = allocated(NULL, options.payload);
    command = allocated(NULL, options.payload + strlen(options.topic) + 100);
    offsets = allocated(NULL, options.connections * sizeof *offsets);
    memset(offsets, 0, options.connections * sizeof *offsets);
    on_message = on_reply;
}

void publish_run(uint64_t operations)
{
    target = operations;
    issued = answered = 0;
    lowest = UINT64_MAX;
    highest = 0;
    latencies = allocated(NULL, target * sizeof *latencies);
    now = nanoseconds();
    for (uint32_t i = 0; i < client_count; i++) {
        if (!clients[i].times)
            clients[i].times = allocated(NULL, options.window * sizeof *clients[i].times);
        for (uint32_t k = 0; k < options.window && issued < target; k++)
            publish_one(&clients[i]);
    }
    pump_until(all_answered, &answered, missing);
    if (!options.others && highest - lowest + 1 != target)
        fail(LOST, "%llu publishes have offsets from %llu to %llu", (unsigned long long)target,
             (unsigned long long)lowest, (unsigned long long)highest);
    result("operations", (double)operations);
    result_percentiles("latency", latencies, target);
    free(latencies);
}
