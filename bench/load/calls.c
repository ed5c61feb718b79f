/* Closed and open loops of gRPC calls that are known beforehand, and streams, on plain sockets and in one thread: what native.py runs.

   A load of single calls has one step. One of pairs has two: the first answer holds a token, which the second call's headers end
   with. Each step's headers come once for each number of steps that a connection has seen before, because HPACK writes a header in
   full the first time and as a number from then on. No header that comes back is read: an answer is as long as it should be, or
   the call has failed.

   Usage: calls HOST PORT CONNECTIONS CALLERS RATE WARM_S SECONDS ITEM, then for each step its headers (as many as there are steps,
   and one), its message and the length of its answer; bytes are in hex. CALLERS call one after the other if RATE is 0; else RATE
   calls are sent a second, and timed from when they were due. What begins in the first WARM_S is not told. ITEM is the length of the
   items of an answer that is a stream, else 0.

   Prints how many calls there were, how many of them failed, the seconds from WARM_S to the end and the CPU seconds; then the
   nanoseconds that each call took, or each item after the one before. */

#define _GNU_SOURCE
#include "frames.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STEPS_MAX = 2, CONNECTIONS_MAX = 64, ANSWER_MAX = 1024, RECEIVE = 1 << 18 };
static const double GRACE_S = 20.0;

struct step {
    struct bytes blocks[STEPS_MAX + 1]; /* By how many steps the connection has seen. */
    struct bytes body;
    size_t answer;
};

struct call {
    uint32_t stream; /* 0: nothing is here. */
    int step;
    double due; /* Of a stream: when its last item came. */
    size_t received; /* Also of what did not fit. */
    unsigned char answer[ANSWER_MAX];
};

struct connection {
    int socket;
    struct bytes in, out;
    struct call *calls; /* By stream, in a ring that grows. */
    uint32_t ring, next_stream, streams_max;
    struct call *held; /* Not sent yet; what they wait for is the server's leave. Their answers are tokens. */
    size_t held_first, held_end, held_room;
    uint32_t under_way;
    int64_t window;
    size_t received;
    int seen;
};

static struct step steps[STEPS_MAX];
static int step_count;
static struct connection connections[CONNECTIONS_MAX];
static int connection_count;
static double rate_s, counted_from, until;
static size_t item_size;
static uint64_t *taken_ns;
static size_t taken, taken_room, ended, failed;

static struct call *slot(struct connection *of, uint32_t stream) { return &of->calls[(stream >> 1) & (of->ring - 1)]; }

static struct call *new_call(struct connection *of, uint32_t stream) {
    while (slot(of, stream)->stream) {
        struct call *old = of->calls;
        uint32_t size = of->ring;
        of->ring *= 2;
        of->calls = calloc(of->ring, sizeof *of->calls);
        if (!of->calls) die("out of memory");
        for (uint32_t at = 0; at < size; at++)
            if (old[at].stream) *slot(of, old[at].stream) = old[at];
        free(old);
    }
    return slot(of, stream);
}

static int has_room(struct connection *of, int step) {
    return of->under_way < of->streams_max && (int64_t)steps[step].body.size <= of->window;
}

static void put(struct connection *to, int step, double due, const unsigned char *token, size_t token_size) {
    static struct bytes text;
    struct bytes *block = &steps[step].blocks[to->seen], *body = &steps[step].body;
    text.size = 0;
    if (step) add_text(&text, token, token_size);
    add_head(&to->out, block->size + text.size, HEADERS, END_HEADERS, to->next_stream);
    add(&to->out, block->at, block->size);
    add(&to->out, text.at, text.size);
    add_head(&to->out, body->size, DATA, END_STREAM, to->next_stream);
    add(&to->out, body->at, body->size);
    struct call *call = new_call(to, to->next_stream);
    call->stream = to->next_stream;
    call->step = step;
    call->due = due;
    call->received = 0;
    to->next_stream += 2;
    to->under_way++;
    to->window -= body->size;
    if (to->seen == step) to->seen++;
}

static void send_call(struct connection *to, int step, double due, const unsigned char *token, size_t token_size) {
    if (to->held_first == to->held_end && has_room(to, step)) {
        put(to, step, due, token, token_size);
        return;
    }
    to->held = grown(to->held, &to->held_room, to->held_end + 1, sizeof *to->held);
    struct call *held = &to->held[to->held_end++];
    held->step = step;
    held->due = due;
    held->received = token_size;
    if (token_size) memcpy(held->answer, token, token_size);
}

static void send_held(struct connection *to) {
    while (to->held_first < to->held_end && has_room(to, to->held[to->held_first].step)) {
        struct call *held = &to->held[to->held_first++];
        put(to, held->step, held->due, held->answer, held->received);
    }
    if (to->held_first == to->held_end) to->held_first = to->held_end = 0;
}

static void flush(struct connection *to) {
    send_held(to);
    if (!to->out.size) return;
    ssize_t sent = send(to->socket, to->out.at, to->out.size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) die("cannot send: %s", strerror(errno));
    if (sent <= 0) return;
    memmove(to->out.at, to->out.at + sent, to->out.size - sent);
    to->out.size -= sent;
}

static void note(double seconds) {
    taken_ns = grown(taken_ns, &taken_room, taken + 1, sizeof *taken_ns);
    taken_ns[taken++] = seconds * 1e9;
}

static void over(struct connection *of, double due, int answered) {
    double at = now();
    ended++;
    if (!answered) {
        failed++;
    } else if (due >= counted_from && !item_size) {
        note(at - due);
    }
    if (!rate_s && at < until) send_call(of, 0, at, NULL, 0);
}

static void end_stream(struct connection *of, uint32_t stream) {
    struct call *call = slot(of, stream);
    if (call->stream != stream) return;
    call->stream = 0;
    of->under_way--;
    if (call->step + 1 == step_count) {
        over(of, call->due, call->received == steps[call->step].answer);
        return;
    }
    struct bytes message = {0}, token;
    if (call->received > 5 && call->received <= ANSWER_MAX) message = (struct bytes){call->answer + 5, call->received - 5, 0};
    token = first_field(first_field(message));
    if (token.size) {
        unsigned char copy[ANSWER_MAX]; /* The call's place may be taken by the next one. */
        memcpy(copy, token.at, token.size);
        send_call(of, call->step + 1, call->due, copy, token.size);
    } else {
        over(of, call->due, 0);
    }
}

/* Notes how long each item came after the one before. */
static void take_items(struct call *of, size_t size) {
    double at = now();
    size_t end = (of->received + size) / item_size;
    for (size_t item = of->received / item_size; item < end; item++) {
        if (item) note(at - of->due);
        of->due = at;
    }
}

static void take_data(struct connection *of, uint32_t stream, int flags, const unsigned char *payload, size_t size) {
    struct call *call = slot(of, stream);
    of->received += size;
    if (flags & PADDED && size) {
        size -= payload[0] + 1u;
        payload++;
    }
    if (call->stream != stream) return;
    if (call->received + size <= ANSWER_MAX) memcpy(call->answer + call->received, payload, size);
    if (item_size) take_items(call, size);
    call->received += size;
}

static void take_settings(struct connection *of, const unsigned char *payload, size_t size) {
    for (; size >= 6; payload += 6, size -= 6)
        if (payload[0] == 0 && payload[1] == 3)
            of->streams_max = (uint32_t)payload[2] << 24 | payload[3] << 16 | payload[4] << 8 | payload[5];
    add_head(&of->out, 0, SETTINGS, ACK, 0);
}

static void take(struct connection *of, int kind, int flags, uint32_t stream, const unsigned char *payload, size_t size) {
    if (kind == DATA) take_data(of, stream, flags, payload, size);
    if (kind == RST_STREAM || ((kind == DATA || kind == HEADERS) && flags & END_STREAM)) end_stream(of, stream);
    if (kind == WINDOW_UPDATE && stream == 0)
        of->window += (uint32_t)payload[0] << 24 | payload[1] << 16 | payload[2] << 8 | payload[3];
    if (kind == SETTINGS && !(flags & ACK)) take_settings(of, payload, size);
    if (kind == PING && !(flags & ACK)) {
        add_head(&of->out, size, PING, ACK, 0);
        add(&of->out, payload, size);
    }
    if (kind == GOAWAY) die("the server closes the connection");
}

static void receive(struct connection *of) {
    of->in.at = grown(of->in.at, &of->in.room, of->in.size + RECEIVE, 1);
    ssize_t got = recv(of->socket, of->in.at + of->in.size, RECEIVE, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) die("the server has closed the connection: %s", got ? strerror(errno) : "at its end");
    of->in.size += got;
    size_t at = 0;
    while (of->in.size - at >= HEAD) {
        const unsigned char *head = of->in.at + at;
        size_t size = (size_t)head[0] << 16 | head[1] << 8 | head[2];
        if (of->in.size - at - HEAD < size) break;
        uint32_t stream = (uint32_t)(head[5] & 0x7f) << 24 | head[6] << 16 | head[7] << 8 | head[8];
        take(of, head[3], head[4], stream, head + HEAD, size);
        at += HEAD + size;
    }
    memmove(of->in.at, of->in.at + at, of->in.size - at);
    of->in.size -= at;
    if (of->received > WINDOW / 4) {
        add_window(&of->out, of->received);
        of->received = 0;
    }
}

static void connect_to(struct connection *to, const char *host, const char *port) {
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    int one = 1;
    to->socket = socket(AF_INET, SOCK_STREAM, 0);
    if (inet_pton(AF_INET, host, &peer.sin_addr) != 1) die("%s is no address", host);
    if (connect(to->socket, (struct sockaddr *)&peer, sizeof peer)) die("cannot connect: %s", strerror(errno));
    setsockopt(to->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(to->socket, F_SETFL, O_NONBLOCK);
    to->next_stream = 1;
    to->streams_max = UINT32_MAX;
    to->window = FIRST_WINDOW;
    to->ring = 16; /* Small, so that it stays in the cache. */
    to->calls = calloc(to->ring, sizeof *to->calls);
    if (!to->calls) die("out of memory");
    add_opening(&to->out);
}

static size_t under_way(void) {
    size_t found = 0;
    for (int at = 0; at < connection_count; at++)
        found += connections[at].under_way + connections[at].held_end - connections[at].held_first;
    return found;
}

static void wait_until(double when) {
    struct pollfd polled[CONNECTIONS_MAX];
    double left = when - now();
    if (left < 0) left = 0;
    struct timespec timeout = {.tv_sec = (time_t)left, .tv_nsec = (long)((left - (time_t)left) * 1e9)};
    for (int at = 0; at < connection_count; at++)
        polled[at] = (struct pollfd){connections[at].socket, connections[at].out.size ? POLLIN | POLLOUT : POLLIN, 0};
    if (ppoll(polled, connection_count, &timeout, NULL) < 0) die("cannot poll: %s", strerror(errno));
    for (int at = 0; at < connection_count; at++)
        if (polled[at].revents & ~POLLOUT) receive(&connections[at]);
}

/* Sends until it is time, by a schedule so many in all, and waits for what was sent. */
static void drive(double start, int callers, size_t count) {
    size_t sent = 0;
    for (int caller = 0; !rate_s && caller < callers; caller++)
        send_call(&connections[caller % connection_count], 0, start, NULL, 0);
    for (double at = start; sent < count || at < until || under_way(); at = now()) {
        if (at > until + GRACE_S) die("%zu calls did not end within %g s", under_way(), GRACE_S);
        for (; sent < count && start + sent / rate_s <= at; sent++)
            send_call(&connections[sent % connection_count], 0, start + sent / rate_s, NULL, 0);
        for (int one = 0; one < connection_count; one++) flush(&connections[one]);
        /* After the end what wakes us is an answer, or the time to give up. */
        wait_until(sent < count ? start + sent / rate_s : at < until ? until : at + 1);
    }
}

int main(int count, char **arguments) {
    if (count < 13) die("usage: calls HOST PORT CONNECTIONS CALLERS RATE WARM_S SECONDS ITEM STEP...");
    connection_count = atoi(arguments[3]);
    rate_s = atof(arguments[5]);
    double warm_s = atof(arguments[6]), seconds = atof(arguments[7]);
    item_size = atol(arguments[8]);
    step_count = count == 13 ? 1 : 2;
    if (connection_count < 1 || connection_count > CONNECTIONS_MAX || count != 9 + step_count * (step_count + 3)) die("usage");
    char **next = arguments + 9;
    for (int step = 0; step < step_count; step++) {
        for (int seen = 0; seen <= step_count; seen++) steps[step].blocks[seen] = bytes_of(*next++);
        steps[step].body = bytes_of(*next++);
        steps[step].answer = atol(*next++);
    }
    prctl(PR_SET_TIMERSLACK, 1ul); /* Or the kernel may be 50 us late for what is due. */
    for (int at = 0; at < connection_count; at++) connect_to(&connections[at], arguments[1], arguments[2]);
    clock_t cpu = clock();
    double start = now();
    counted_from = start + warm_s;
    until = counted_from + seconds;
    drive(start, atoi(arguments[4]), (size_t)(rate_s * (warm_s + seconds)));
    printf("%zu %zu %.9f %.6f\n", ended, failed, now() - counted_from, (double)(clock() - cpu) / CLOCKS_PER_SEC);
    for (size_t at = 0; at < taken; at++) printf("%lu\n", (unsigned long)taken_ns[at]);
    return 0;
}
