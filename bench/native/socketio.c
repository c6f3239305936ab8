/* Socket.IO 5 over WebSocket, as an envelope around the same payloads: the open
 * packet, CONNECT and its answer, pings, and events `42["m","..."]` or, with
 * acknowledgements, `42<n>["m","..."]` answered by `43<n>["..."]`. */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <string.h>

static const char *event(const struct client *client)
{
    /* The publisher of `listen` asks for a broadcast; all others for an echo. */
    if (options.acks)
        return "a";
    return !strcmp(options.mode, "listen") && client->number == options.connections ? "b" : "m";
}

void socketio_send(struct client *client, const uint8_t *payload, size_t size)
{
    static uint8_t *packet;
    packet = allocated(packet, size + 64);
    int head = options.acks
        ? sprintf((char *)packet, "42%llu[\"%s\",\"", (unsigned long long)(client->sent - 1), event(client))
        : sprintf((char *)packet, "42[\"%s\",\"", event(client));
    memcpy(packet + head, payload, size);
    memcpy(packet + head + size, "\"]", 2);
    frame_send(client, WS_TEXT, packet, (size_t)head + size + 2);
}

int socketio_receive(struct client *client, const uint8_t *text, size_t size)
{
    char head[64];
    int expected;
    if (size && text[0] == '0') {
        frame_send(client, WS_TEXT, (const uint8_t *)"40", 2);
        return 0;
    }
    if (size == 1 && text[0] == '2') {
        frame_send(client, WS_TEXT, (const uint8_t *)"3", 1);
        return 0;
    }
    if (size >= 2 && !memcmp(text, "40", 2))
        return 1;
    expected = options.acks
        ? sprintf(head, "43%llu[\"", (unsigned long long)client->received)
        : sprintf(head, "42[\"m\",\"");
    if (size < (size_t)expected + 2 || memcmp(text, head, (size_t)expected) || memcmp(text + size - 2, "\"]", 2))
        fail(LOST, "connection %u: %.*s came where %s was due", client->number, (int)(size < 100 ? size : 100),
             (const char *)text, head);
    on_message(client, text + expected, size - (size_t)expected - 2, WS_TEXT);
    return 0;
}
