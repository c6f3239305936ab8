/* The load generator's parts, and what each promises the others.
 *
 *     load.c     options, commands from the runner, the result's JSON
 *     stream.c   the epoll loop and buffered, non-blocking sockets
 *     client.c   WebSocket clients on streams: handshake, frames, pongs
 *     payload.c  what a message carries, and the check that it came back so
 *     echo.c     one message in flight per connection, or a fixed rate
 *     listen.c   one publisher, many subscribers
 *     http.c     a publisher that speaks POST /publish
 *     socketio.c Socket.IO as an envelope around all of these
 *     polling.c  Socket.IO on HTTP long-polling
 *     publish.c  publishers that speak v1 and wait for their positions
 *
 * One thread. A wrong, missing or surplus message ends the process at once
 * with LOST: a benchmark that loses a message is a failed test.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include "ws.h"

#include <stddef.h>
#include <stdint.h>

enum { SETUP = 1, LOST = 2 }; /* exit codes */

struct options {
    const char *mode;
    uint16_t port;
    uint32_t connections;
    size_t payload;
    uint64_t operations;
    double rate;      /* echo: messages a second; 0 = closed loop */
    uint32_t window;  /* messages published, and (listen) not yet received by all or (publish) not yet answered */
    int http;         /* listen: publish by POST /publish */
    const char *topic;
    double timeout;   /* seconds without any progress */
    int control;      /* take `run N` lines from stdin */
    int binary;
    int socketio;     /* speak Socket.IO */
    int acks;         /* and ask for acknowledgements in place of events */
    int others;       /* publish: there are other publishers, whose positions are between ours */
    char **paths;     /* one per connection, or NULL: all use "/" */
    uint32_t path_count;
};

extern struct options options;

/* Prints {"error": ...} on stdout and the text on stderr; exits with `code`. */
void fail(int code, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));

uint64_t nanoseconds(void); /* CLOCK_MONOTONIC */
void *allocated(void *block, size_t size); /* realloc that cannot fail */

/* ---- stream.c ---- */

struct source {
    void (*ready)(struct source *, uint32_t events);
};

enum stream_state { STREAM_CONNECTING, STREAM_OPEN, STREAM_CLOSED };

struct stream {
    struct source source; /* first: a source is cast to its stream */
    int fd;
    enum stream_state state;
    uint8_t *in; /* what on_bytes left over */
    size_t in_size;
    uint8_t *out; /* what the socket would not take yet */
    size_t out_size;
    void (*on_open)(struct stream *);
    /* Returns the bytes it took; the rest comes again with more behind it. */
    size_t (*on_bytes)(struct stream *, uint8_t *data, size_t size);
    void (*on_close)(struct stream *);
};

void loop_start(void);
/* 0 if the descriptor is a file, which epoll refuses: it is always ready. */
int loop_watch(int fd, struct source *source, uint32_t events);
void loop_forget(int fd);
/* Waits for events and dispatches one batch; -1 waits for ever. */
void pump(int milliseconds);
/* Pumps until done() is true. `progress` must change at least every
 * options.timeout seconds, or missing() is called, which must not return. */
void pump_until(int (*done)(void), const uint64_t *progress, void (*missing)(void));

void stream_connect(struct stream *stream);
void stream_write(struct stream *stream, const uint8_t *data, size_t size);
void stream_close(struct stream *stream); /* does not call on_close */

/* ---- client.c ---- */

struct client {
    struct stream stream; /* first: a stream is cast to its client */
    uint32_t number;
    uint8_t upgraded;
    uint8_t closing; /* our Close is sent */
    char accept[WS_ACCEPT_SIZE + 1];
    uint64_t sent;     /* echo: the next sequence number to send */
    uint64_t received; /* the next sequence number to receive */
    uint64_t *times;   /* echo: when each message in flight was sent */
    uint32_t times_room;
};

extern struct client *clients;
extern uint32_t client_count;

/* Called with each whole message; `payload` may be changed. */
extern void (*on_message)(struct client *, const uint8_t *payload, size_t size, int opcode);

/* Opens `count` connections, 64 handshakes at a time. Returns the seconds. */
double clients_open(uint32_t count);
/* The closing handshake on all, so that a late duplicate is still seen. */
void clients_close(void);
void client_send(struct client *client, int opcode, const uint8_t *payload, size_t size);
/* The same without an envelope. */
void frame_send(struct client *client, int opcode, const uint8_t *payload, size_t size);

/* ---- socketio.c ---- */

/* Sends a payload in an event. */
void socketio_send(struct client *client, const uint8_t *payload, size_t size);
/* Takes a text message: answers it, or unwraps it for on_message. 1: the client is connected now. */
int socketio_receive(struct client *client, const uint8_t *text, size_t size);

/* ---- payload.c ---- */

/* Fills options.payload bytes: number, sequence, time, then a pattern. */
void payload_write(uint8_t *out, uint32_t number, uint64_t sequence, uint64_t time);
/* Ends the process with LOST and says how `got` differs from `expected`. */
void payload_refuse(const struct client *client, const uint8_t *got, size_t size,
                    const uint8_t *expected) __attribute__((noreturn));
/* The smallest payload that has room for its three numbers. */
enum { PAYLOAD_MIN = 39 };

/* ---- the modes ---- */

void echo_start(void);
void echo_run(uint64_t operations);
void listen_start(void);
void listen_run(uint64_t messages);
void poll_start(void);
void poll_run(uint64_t operations);
void publish_start(void);
void publish_run(uint64_t operations);

/* http.c: `answered` counts the publishes that got their 200. */
void http_open(void);
void http_publish(const uint8_t *message, size_t size);
void http_close(void);
int http_ready(void);

/* load.c: adds `"name": value` to the result of this run. */
void result(const char *name, double value);
/* Adds <name>_p50_us, p99, p99.9 (as p999) and max of `count` nanoseconds. */
void result_percentiles(const char *name, uint64_t *values, size_t count);

#endif
