/* Bytes, and the frames of HTTP/2 that calls.c sends. */

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8 };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8, HEAD = 9, FIRST_WINDOW = 65535 };
static const uint32_t WINDOW = 1u << 30;

struct bytes {
    unsigned char *at;
    size_t size, room;
};

static void die(const char *why, ...) {
    va_list arguments;
    va_start(arguments, why);
    vfprintf(stderr, why, arguments);
    va_end(arguments);
    exit(1);
}

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void *grown(void *at, size_t *room, size_t wanted, size_t each) {
    if (wanted <= *room) return at;
    while (*room < wanted) *room = *room ? *room * 2 : 64;
    at = realloc(at, *room * each);
    return at ? at : (die("out of memory"), at);
}

static void add(struct bytes *to, const void *from, size_t size) {
    if (!size) return;
    to->at = grown(to->at, &to->room, to->size + size, 1);
    memcpy(to->at + to->size, from, size);
    to->size += size;
}

static void add_head(struct bytes *to, size_t size, int kind, int flags, uint32_t stream) {
    unsigned char head[HEAD] = {size >> 16, size >> 8, size, kind, flags, stream >> 24, stream >> 16, stream >> 8, stream};
    add(to, head, HEAD);
}

static void add_window(struct bytes *to, uint32_t size) {
    uint32_t wire = htonl(size);
    add_head(to, 4, WINDOW_UPDATE, 0, 0);
    add(to, &wire, 4);
}

/* A string of HPACK, not compressed: its length with a prefix of 7 bits (RFC 7541, 5.1), and itself. */
static void add_text(struct bytes *to, const unsigned char *text, size_t size) {
    unsigned char length[8];
    size_t used = 0, left = size;
    if (left < 0x7f) {
        length[used++] = left;
    } else {
        length[used++] = 0x7f;
        for (left -= 0x7f; left > 0x7f; left >>= 7) length[used++] = (left & 0x7f) | 0x80;
        length[used++] = left;
    }
    add(to, length, used);
    add(to, text, size);
}

static void add_opening(struct bytes *to) {
    static const unsigned char opening[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                                           /* SETTINGS: no pushes, and streams with a window of 2^30 bytes. */
                                           "\0\0\14\4\0\0\0\0\0"
                                           "\0\2\0\0\0\0"
                                           "\0\4\100\0\0\0";
    add(to, opening, sizeof opening - 1);
    add_window(to, WINDOW - FIRST_WINDOW);
}

static struct bytes bytes_of(const char *hex) {
    struct bytes found = {.at = malloc(strlen(hex) / 2 + 1), .size = strlen(hex) / 2};
    if (!found.at) die("out of memory");
    for (size_t at = 0; at < found.size; at++) sscanf(hex + 2 * at, "%2hhx", &found.at[at]);
    return found;
}

/* The first field of a protobuf message if it is field 1 and has a length, as a lease has and a token in it; else nothing. */
static struct bytes first_field(struct bytes message) {
    struct bytes found = {0};
    size_t at = 1;
    if (message.size < 2 || message.at[0] != 0x0a) return found;
    for (int shift = 0; at < message.size && shift < 28; shift += 7) {
        found.size |= (size_t)(message.at[at] & 0x7f) << shift;
        if (!(message.at[at++] & 0x80)) break;
    }
    found.at = message.at + at;
    if (found.size > message.size - at) found.size = 0;
    return found;
}
