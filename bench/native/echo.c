/* `echo`: everything sent must come back, once, in order, unchanged.
 *
 * Closed loop: one message in flight per connection, the next is sent when the
 * answer is in. Open loop (--rate): message k is due at start + k / rate
 * whatever the answers do, and its latency counts from when it was *due*: a
 * server that stalls delays the messages behind the stall too, and a client
 * that waited for it would not have seen that. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

static uint64_t target, issued, answered; /* of this run */
static uint64_t now, start;               /* ns; of this batch, of this run */
static uint64_t *latencies, *lateness;
static uint8_t *message;

static void send_one(struct client *client, uint64_t time)
{
    if (client->sent - client->received == client->times_room) {
        uint32_t room = client->times_room ? client->times_room * 2 : 4;
        uint64_t *times = allocated(NULL, room * sizeof *times);
        for (uint64_t i = client->received; i < client->sent; i++)
            times[i & (room - 1)] = client->times[i & (client->times_room - 1)];
        free(client->times);
        client->times = times;
        client->times_room = room;
    }
    client->times[client->sent & (client->times_room - 1)] = time;
    payload_write(message, client->number, client->sent++, time);
    issued++;
    client_send(client, options.binary ? WS_BINARY : WS_TEXT, message, options.payload);
}

static void on_echo(struct client *client, const uint8_t *payload, size_t size, int opcode)
{
    if (client->received == client->sent) {
        payload_write(message, client->number, client->sent, 0);
        payload_refuse(client, payload, size, message);
    }
    uint64_t time = client->times[client->received & (client->times_room - 1)];
    payload_write(message, client->number, client->received, time);
    if (size != options.payload || memcmp(payload, message, size))
        payload_refuse(client, payload, size, message);
    if (opcode != (options.binary ? WS_BINARY : WS_TEXT))
        fail(LOST, "connection %u: text came back as binary, or the reverse", client->number);
    client->received++;
    if (latencies)
        latencies[answered] = nanoseconds() - time;
    answered++;
    if (!latencies && issued < target)
        send_one(client, now);
}

static int all_answered(void)
{
    now = nanoseconds();
    return answered == target;
}

static void echo_missing(void)
{
    for (uint32_t i = 0; i < client_count; i++)
        if (clients[i].received != clients[i].sent)
            fail(LOST, "%llu of %llu answers are missing, the first: connection %u, message %llu",
                 (unsigned long long)(target - answered), (unsigned long long)target, i,
                 (unsigned long long)clients[i].received);
    fail(LOST, "%llu answers are missing", (unsigned long long)(target - answered));
}

/* ---- the open loop ---- */

static int timer = -1;

static uint64_t due(uint64_t k)
{
    return start + (uint64_t)((double)k * 1e9 / options.rate);
}

static void arm(uint64_t when)
{
    struct itimerspec at = {
        .it_value = {.tv_sec = (time_t)(when / 1000000000), .tv_nsec = (long)(when % 1000000000)}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL) < 0)
        fail(SETUP, "timerfd_settime: %s", strerror(errno));
}

static void send_due(struct source *source, uint32_t events)
{
    uint64_t expirations;
    (void)source;
    (void)events;
    if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
        fail(SETUP, "timerfd: %s", strerror(errno));
    for (uint64_t when; issued < target && (when = due(issued)) <= (now = nanoseconds());) {
        lateness[issued] = now - when;
        send_one(&clients[issued % client_count], when);
    }
    if (issued < target)
        arm(due(issued));
}

static void open_loop(void)
{
    static struct source source = {.ready = send_due};
    if (timer < 0) {
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        if (timer < 0)
            fail(SETUP, "timerfd_create: %s", strerror(errno));
        loop_watch(timer, &source, EPOLLIN);
    }
    latencies = allocated(NULL, target * sizeof *latencies);
    lateness = allocated(NULL, target * sizeof *lateness);
    start = nanoseconds() + 1000000;
    arm(start);
    pump_until(all_answered, &answered, echo_missing);
    result("rate", options.rate);
    result_percentiles("latency", latencies, target);
    result_percentiles("late", lateness, target);
    free(latencies);
    free(lateness);
    latencies = lateness = NULL;
}

void echo_start(void)
{
    message = allocated(NULL, options.payload);
    on_message = on_echo;
}

void echo_run(uint64_t operations)
{
    target = operations;
    issued = answered = 0;
    if (options.rate > 0) {
        open_loop();
    } else {
        now = nanoseconds();
        for (uint32_t i = 0; i < client_count && issued < target; i++)
            send_one(&clients[i], now);
        pump_until(all_answered, &answered, echo_missing);
    }
    result("operations", (double)operations);
}
