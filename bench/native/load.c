/* The load generator's command line.
 *
 *     load echo   --port P [--connections 64] [--payload 64] [--operations N] [--rate R]
 *     load listen --port P [--connections N] [--operations M] [--window 1]
 *                 [--publish websocket|http] [--topic cats]
 *     load publish --port P [--connections 64] [--window 8] [--topic cats] [--others]
 *     load poll   --port P [--connections 64] [--payload 64] [--operations N]
 *     load idle   --port P [--connections N]
 *     echo, listen, idle: [--socketio [--acks]]
 *     all: [--paths FILE] [--timeout 20] [--binary] [--control]
 *
 * Standard output carries one JSON object a line: {"ready": N, ...} when every
 * connection is open, then one result per run. Without --control there is one
 * run of --operations; with it each line `run N` on standard input is a run of
 * N, so that a warm-up and the counted run share their connections. End of
 * input closes everything. `idle` holds its connections until then.
 *
 * Exit: 0 all well; 1 something did not work; 2 a message was lost, altered or
 * came twice.
 */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

struct options options = {
    .connections = 64, .payload = 64, .operations = 100000, .window = 1,
    .topic = "cats", .timeout = 20};

uint64_t nanoseconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static double cpu_seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

void *allocated(void *block, size_t size)
{
    block = realloc(block, size ? size : 1);
    if (!block)
        fail(SETUP, "out of memory");
    return block;
}

void fail(int code, const char *format, ...)
{
    char text[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "load: %s: %s\n", code == LOST ? "message lost" : "failed", text);
    printf("{\"error\": \"");
    for (const char *at = text; *at; at++)
        putchar(*at < ' ' || *at > '~' ? '?' : *at == '"' || *at == '\\' ? '\'' : *at);
    printf("\"}\n");
    exit(code);
}

/* ---- results ---- */

static char line[2048];
static int line_size;

void result(const char *name, double value)
{
    line_size += snprintf(line + line_size, sizeof line - (size_t)line_size, ", \"%s\": %.10g", name, value);
    if ((size_t)line_size >= sizeof line)
        fail(SETUP, "a result is too long");
}

static int ascending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

void result_percentiles(const char *name, uint64_t *values, size_t count)
{
    static const struct { const char *suffix; double part; } wanted[] = {
        {"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}, {"max", 1}};
    if (!count)
        return;
    qsort(values, count, sizeof *values, ascending);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        char full[64];
        size_t rank = (size_t)(wanted[i].part * (double)count);
        snprintf(full, sizeof full, "%s_%s_us", name, wanted[i].suffix);
        result(full, (double)values[rank < count ? rank : count - 1] / 1e3);
    }
}

static void run(uint64_t operations)
{
    uint64_t start = nanoseconds();
    double cpu = cpu_seconds();
    line_size = 0;
    if (!strcmp(options.mode, "echo"))
        echo_run(operations);
    else if (!strcmp(options.mode, "listen"))
        listen_run(operations);
    else if (!strcmp(options.mode, "publish"))
        publish_run(operations);
    else if (!strcmp(options.mode, "poll"))
        poll_run(operations);
    else
        fail(SETUP, "idle takes no runs");
    double seconds = (double)(nanoseconds() - start) / 1e9;
    cpu = cpu_seconds() - cpu;
    result("seconds", seconds);
    result("cpu_seconds", cpu);
    result("cpu_share", seconds > 0 ? cpu / seconds : 0);
    printf("{\"mode\": \"%s\", \"connections\": %u, \"payload\": %zu%s}\n",
           options.mode, options.connections, options.payload, line);
    fflush(stdout);
}

/* ---- commands ---- */

static char command[256];
static size_t command_size;
static int input_ended;

static void on_input(struct source *source, uint32_t events)
{
    (void)source;
    (void)events;
    ssize_t got = read(STDIN_FILENO, command + command_size, sizeof command - 1 - command_size);
    if (got < 0 && errno == EINTR)
        return;
    if (got <= 0)
        input_ended = 1;
    else
        command_size += (size_t)got;
}

static void obey(void)
{
    static struct source source = {.ready = on_input};
    while (!input_ended) {
        char *end;
        command[command_size] = '\0';
        while ((end = strchr(command, '\n'))) {
            unsigned long long count;
            if (sscanf(command, "run %llu", &count) != 1)
                fail(SETUP, "unknown command %.*s", (int)(end - command), command);
            command_size -= (size_t)(end + 1 - command);
            memmove(command, end + 1, command_size + 1);
            run(count);
        }
        /* In the loop only between runs: pings must be answered meanwhile. A
         * file cannot be waited for, and does not need to be. */
        if (!loop_watch(STDIN_FILENO, &source, EPOLLIN)) {
            on_input(&source, EPOLLIN);
            continue;
        }
        for (size_t before = command_size; command_size == before && !input_ended;)
            pump(-1);
        loop_forget(STDIN_FILENO);
    }
}

static void ignore(struct client *client, const uint8_t *payload, size_t size, int opcode)
{
    (void)client;
    (void)payload;
    (void)size;
    (void)opcode;
}

/* ---- options ---- */

static void read_paths(const char *name)
{
    FILE *file = fopen(name, "r");
    char *text = NULL;
    size_t room = 0;
    ssize_t size;
    if (!file)
        fail(SETUP, "%s: %s", name, strerror(errno));
    while ((size = getline(&text, &room, file)) > 0) {
        if (text[size - 1] == '\n')
            text[--size] = '\0';
        if (!size)
            continue;
        options.paths = allocated(options.paths, (options.path_count + 1) * sizeof *options.paths);
        options.paths[options.path_count] = strdup(text);
        if (!options.paths[options.path_count++])
            fail(SETUP, "out of memory");
    }
    free(text);
    fclose(file);
}

static void parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"port", required_argument, NULL, 'p'},        {"connections", required_argument, NULL, 'c'},
        {"payload", required_argument, NULL, 's'},     {"operations", required_argument, NULL, 'n'},
        {"rate", required_argument, NULL, 'r'},        {"window", required_argument, NULL, 'w'},
        {"publish", required_argument, NULL, 'P'},     {"topic", required_argument, NULL, 't'},
        {"timeout", required_argument, NULL, 'T'},     {"paths", required_argument, NULL, 'f'},
        {"control", no_argument, &options.control, 1}, {"binary", no_argument, &options.binary, 1},
        {"socketio", no_argument, &options.socketio, 1}, {"acks", no_argument, &options.acks, 1},
        {"others", no_argument, &options.others, 1},
        {0}};
    if (argc < 2)
        fail(SETUP, "which of echo, listen, publish, poll and idle?");
    options.mode = argv[1];
    optind = 2;
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
        case 0: break;
        case 'p': options.port = (uint16_t)strtoul(optarg, NULL, 10); break;
        case 'c': options.connections = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 's': options.payload = strtoul(optarg, NULL, 10); break;
        case 'n': options.operations = strtoull(optarg, NULL, 10); break;
        case 'r': options.rate = strtod(optarg, NULL); break;
        case 'w': options.window = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'P': options.http = !strcmp(optarg, "http"); break;
        case 't': options.topic = optarg; break;
        case 'T': options.timeout = strtod(optarg, NULL); break;
        case 'f': read_paths(optarg); break;
        default: exit(SETUP);
        }
    }
    if (!options.port)
        fail(SETUP, "--port is missing");
    if (options.payload < PAYLOAD_MIN)
        fail(SETUP, "--payload must be at least %d, its numbers need them", PAYLOAD_MIN);
    if (!options.window)
        fail(SETUP, "--window must be at least 1");
    if (!options.connections && !(options.http && !strcmp(options.mode, "listen")))
        fail(SETUP, "--connections must be at least 1");
    if (options.path_count && options.path_count < options.connections)
        fail(SETUP, "--paths has %u lines for %u connections", options.path_count, options.connections);
}

int main(int argc, char **argv)
{
    uint32_t count;
    parse(argc, argv);
    loop_start();
    count = options.connections;
    if (!strcmp(options.mode, "echo"))
        echo_start();
    else if (!strcmp(options.mode, "listen")) {
        listen_start();
        count += !options.http; /* the publisher */
    } else if (!strcmp(options.mode, "publish"))
        publish_start();
    else if (!strcmp(options.mode, "idle"))
        on_message = ignore;
    else if (!strcmp(options.mode, "poll"))
        count = 0; /* its clients are its own */
    else
        fail(SETUP, "unknown mode %s: echo, listen, publish, poll or idle", options.mode);

    double seconds = clients_open(count);
    if (!strcmp(options.mode, "poll"))
        poll_start();
    printf("{\"ready\": %u, \"seconds\": %.6f, \"connections_per_second\": %.1f}\n",
           count, seconds, seconds > 0 ? count / seconds : 0);
    fflush(stdout);
    if (options.control || !strcmp(options.mode, "idle"))
        obey();
    else
        run(options.operations);
    clients_close();
    return 0;
}
