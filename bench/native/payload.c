/* A message is printable text, so that it may travel as a WebSocket text and
 * inside JSON without escapes:
 *
 *     cccccccc ssssssssssss tttttttttttttttt abcdef...
 *
 * its connection, its number on that connection and when it was sent, in hex,
 * then letters that start at a place given by the other two. The receiver knows
 * all of it beforehand and compares every byte. */
#include "load.h"

#include <stdlib.h>
#include <string.h>

static char digits[256][2];
static uint8_t *letters;

static uint8_t *hex(uint8_t *out, uint64_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--, out += 2)
        memcpy(out, digits[value >> (8 * i) & 0xFF], 2);
    *out++ = ' ';
    return out;
}

static void prepare(void)
{
    static const char figures[] = "0123456789abcdef";
    for (int i = 0; i < 256; i++) {
        digits[i][0] = figures[i >> 4];
        digits[i][1] = figures[i & 15];
    }
    letters = allocated(NULL, options.payload + 26);
    for (size_t i = 0; i < options.payload + 26; i++)
        letters[i] = (uint8_t)('a' + i % 26);
}

void payload_write(uint8_t *out, uint32_t number, uint64_t sequence, uint64_t time)
{
    if (!letters)
        prepare();
    out = hex(out, number, 4);
    out = hex(out, sequence, 6);
    out = hex(out, time, 8);
    memcpy(out, letters + (number + sequence) % 26, options.payload - PAYLOAD_MIN);
}

static uint64_t number_at(const uint8_t *text)
{
    return strtoull((const char *)text, NULL, 16); /* ends at the space */
}

void payload_refuse(const struct client *client, const uint8_t *got, size_t size,
                    const uint8_t *expected)
{
    size_t at = 0;
    while (at < size && at < options.payload && got[at] == expected[at])
        at++;
    if (size == options.payload && !memcmp(got, expected, 9)) {
        uint64_t sequence = number_at(got + 9);
        uint64_t next = number_at(expected + 9);
        if (sequence < next)
            fail(LOST, "connection %u: message %llu came a second time", client->number,
                 (unsigned long long)sequence);
        if (sequence > next)
            fail(LOST, "connection %u: message %llu came where %llu was due: lost or out of order",
                 client->number, (unsigned long long)sequence, (unsigned long long)next);
    }
    fail(LOST, "connection %u: a message was altered: %zu bytes for %zu, different from byte %zu: \"%.*s\"",
         client->number, size, options.payload, at, (int)(size < 80 ? size : 80), (const char *)got);
}
