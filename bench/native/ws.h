/* The part of RFC 6455 that both programs of the bench need: the opening
 * handshake's key, and frame headers. No sockets in here. */
#ifndef BENCH_WS_H
#define BENCH_WS_H

#include <stddef.h>
#include <stdint.h>

enum {
    WS_CONTINUATION = 0x0,
    WS_TEXT = 0x1,
    WS_BINARY = 0x2,
    WS_CLOSE = 0x8,
    WS_PING = 0x9,
    WS_PONG = 0xA,
};

/* A base64 key is 24 characters, an accept value 28 (RFC 6455 4.2.2). */
enum { WS_KEY_SIZE = 24, WS_ACCEPT_SIZE = 28, WS_MAX_HEADER = 14 };

/* One parsed frame header. `payload` is the offset of the payload. */
struct ws_frame {
    uint64_t length;
    uint32_t payload;
    uint8_t opcode;
    uint8_t mask[4];
    uint8_t fin;
    uint8_t rsv;
    uint8_t masked;
};

/* The Sec-WebSocket-Accept value for a key; NUL-terminated. */
void ws_accept(const char key[WS_KEY_SIZE], char out[WS_ACCEPT_SIZE + 1]);

/* 16 bytes as a Sec-WebSocket-Key; NUL-terminated. */
void ws_key(const uint8_t nonce[16], char out[WS_KEY_SIZE + 1]);

/* Parses the header at `data`. 1: parsed; 0: more bytes are needed. The
 * payload may still be incomplete: compare payload + length with `size`. */
static inline int ws_parse(const uint8_t *data, size_t size, struct ws_frame *frame)
{
    if (size < 2)
        return 0;
    frame->fin = data[0] >> 7;
    frame->rsv = (data[0] >> 4) & 7;
    frame->opcode = data[0] & 0x0F;
    frame->masked = data[1] >> 7;
    frame->length = data[1] & 0x7F;
    uint32_t at = 2;
    uint32_t extended = frame->length == 126 ? 2 : frame->length == 127 ? 8 : 0;
    if (extended) {
        if (size < at + extended)
            return 0;
        frame->length = 0;
        for (uint32_t i = 0; i < extended; i++)
            frame->length = frame->length << 8 | data[at + i];
        at += extended;
    }
    if (frame->masked) {
        if (size < at + 4)
            return 0;
        for (int i = 0; i < 4; i++)
            frame->mask[i] = data[at + (uint32_t)i];
        at += 4;
    }
    frame->payload = at;
    return 1;
}

/* Writes a header of a final frame; `mask` may be NULL. Returns its size. */
static inline size_t ws_header(uint8_t *out, int opcode, uint64_t length, const uint8_t *mask)
{
    size_t at = 2;
    out[0] = (uint8_t)(0x80 | opcode);
    if (length < 126) {
        out[1] = (uint8_t)length;
    } else {
        int bytes = length < 65536 ? 2 : 8;
        out[1] = bytes == 2 ? 126 : 127;
        for (int i = bytes - 1; i >= 0; i--)
            out[at++] = (uint8_t)(length >> (8 * i));
    }
    if (mask) {
        out[1] |= 0x80;
        for (int i = 0; i < 4; i++)
            out[at++] = mask[i];
    }
    return at;
}

/* XORs `size` bytes with the mask, eight at a time. */
static inline void ws_mask(uint8_t *data, size_t size, const uint8_t mask[4])
{
    uint64_t wide;
    uint8_t twice[8];
    for (int i = 0; i < 8; i++)
        twice[i] = mask[i & 3];
    __builtin_memcpy(&wide, twice, 8);
    size_t at = 0;
    for (; at + 8 <= size; at += 8) {
        uint64_t word;
        __builtin_memcpy(&word, data + at, 8);
        word ^= wide;
        __builtin_memcpy(data + at, &word, 8);
    }
    for (; at < size; at++)
        data[at] ^= mask[at & 3];
}

#endif
