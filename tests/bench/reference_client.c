/* A vhost-user-blk client in plain C, to compare the project's driver with: reads a disk and nothing else.
 *
 * Debian has no such client (qemu-img and fio reach a vhost-user-blk socket only through libblkio), so this is the
 * shortest way from a socket to a ring: one split ring, descriptors laid out once and never touched again, headers
 * that change in their sector only, one index store and at most one kick a batch. It trusts the back-end with
 * nothing but the data: ids, lengths and status bytes are checked.
 *
 *   cc -O2 -o reference_client reference_client.c
 *   ./reference_client --socket=S [--depth=32] [--size=4096] [--seconds=1 | --requests=N] [--sequential]
 *                      [--wait=first|half] [--indirect] [--verify=FILE] [--batch=N] [--seed=N]
 *
 * --wait sleeps on the call eventfd, until the first (or half) of what is in flight came back; the default spins on
 * the used index. --verify compares every block read
 * with the same block of FILE. --batch submits only when N requests are free (1: at once).
 * Prints one JSON object; exit status 1 when a block was wrong, 2 when nothing could be measured.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { RING = 256, SECTOR = 512, TABLE = 4096, BUCKETS = 60 * 32 };
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { /* front-end requests */
    GET_FEATURES = 1, SET_FEATURES = 2, SET_OWNER = 3, SET_MEM_TABLE = 5, SET_VRING_NUM = 8, SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10, GET_VRING_BASE = 11, SET_VRING_KICK = 12, SET_VRING_CALL = 13, GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16, SET_VRING_ENABLE = 18, GET_CONFIG = 24,
};
#define F_INDIRECT (1ull << 28)
#define F_EVENT_IDX (1ull << 29)
#define F_PROTOCOL (1ull << 30)
#define F_VERSION_1 (1ull << 32)
#define PROTOCOL_CONFIG (1ull << 9)
#define GUEST_BASE 0x100000000ull
#define STALL_NS 10000000000ll

struct desc { uint64_t addr; uint32_t len; uint16_t flags, next; };
struct avail { _Atomic uint16_t flags, idx; _Atomic uint16_t ring[RING]; _Atomic uint16_t used_event; };
struct used_elem { uint32_t id, len; };
struct used { _Atomic uint16_t flags, idx; struct used_elem ring[RING]; _Atomic uint16_t avail_event; };
struct header { uint32_t type, reserved; uint64_t sector; };
struct slot { struct header *header; uint8_t *data; volatile uint8_t *status; uint64_t block; int64_t begun; uint16_t head; bool busy; };

static const char *path, *verify_path;
static unsigned depth = 32, batch = 1;
static uint64_t size = 4096, wanted = UINT64_MAX, seed = 1;
static double seconds;
static bool sequential, waits, waits_for_half, indirect;

static int sock, kick_fd, call_fd;
static bool event_idx;
static uint8_t *memory;
static struct desc *descs;
static struct avail *avail;
static struct used *used;
static struct slot slots[RING];
static uint16_t slot_of[RING]; /* by the head of its chain */

static uint64_t histogram[BUCKETS], done, kicks, calls, errors, wrong_lengths, mismatches;

static void die(const char *what)
{
    fprintf(stderr, "reference_client: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(2);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* -- messages ---------------------------------------------------------------------------------------------------- */

static void send_request(uint32_t request, const void *payload, uint32_t length, int fd)
{
    struct { uint32_t request, flags, size; uint8_t payload[512]; } message = {request, 1, length, {0}};
    union { struct cmsghdr align; char space[CMSG_SPACE(sizeof(int))]; } control = {0};
    struct iovec part = {&message, 12 + length};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};

    if (length)
        memcpy(message.payload, payload, length);
    if (fd >= 0) {
        header.msg_control = &control;
        header.msg_controllen = sizeof control.space;
        struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    if (sendmsg(sock, &header, MSG_NOSIGNAL) != (ssize_t)part.iov_len)
        die("sending a request");
}

static void receive(void *to, size_t length)
{
    ssize_t n = recv(sock, to, length, MSG_WAITALL);
    if (n >= 0)
        errno = 0;
    if (n != (ssize_t)length)
        die("the back-end did not answer");
}

static void call_backend(uint32_t request, void *payload, uint32_t length, uint32_t reply_length)
{
    uint32_t head[3];
    send_request(request, payload, length, -1);
    receive(head, sizeof head);
    errno = 0;
    if (head[0] != request || head[2] != reply_length)
        die("an answer of the wrong kind or size");
    receive(payload, reply_length);
}

static uint64_t ask(uint32_t request)
{
    uint64_t value = 0;
    call_backend(request, &value, 0, 8);
    return value;
}

/* -- memory and ring --------------------------------------------------------------------------------------------- */

static uint64_t guest(const volatile void *p) { return GUEST_BASE + (uint64_t)((const volatile uint8_t *)p - memory); }

static void lay_out_slots(uint8_t *controls, uint8_t *data, struct desc *tables)
{
    for (unsigned i = 0; i < depth; i++) {
        struct slot *s = &slots[i];
        struct desc *chain = indirect ? tables + 4 * i : descs + 3 * i;
        uint16_t first = indirect ? 0 : (uint16_t)(3 * i);
        s->header = (struct header *)(controls + 64 * i);
        s->status = controls + 64 * i + 32;
        s->data = data + (size_t)i * size;
        s->head = (uint16_t)(indirect ? i : 3 * i);
        slot_of[s->head] = (uint16_t)i;
        chain[0] = (struct desc){guest(s->header), 16, DESC_NEXT, (uint16_t)(first + 1)};
        chain[1] = (struct desc){guest(s->data), (uint32_t)size, DESC_NEXT | DESC_WRITE, (uint16_t)(first + 2)};
        chain[2] = (struct desc){guest(s->status), 1, DESC_WRITE, 0};
        if (indirect)
            descs[i] = (struct desc){guest(chain), 48, DESC_INDIRECT, 0};
    }
}

/* Connects and starts queue 0; returns the disk's size in bytes. */
static uint64_t bring_up(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        die("the socket's path is too long");
    strcpy(address.sun_path, path);
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof address) < 0)
        die(path);

    send_request(SET_OWNER, NULL, 0, -1);
    uint64_t offered = ask(GET_FEATURES);
    uint64_t features = offered & (F_EVENT_IDX | F_PROTOCOL | F_VERSION_1 | (indirect ? F_INDIRECT : 0));
    errno = 0;
    if (!(features & F_VERSION_1) || !(features & F_PROTOCOL) || (indirect && !(features & F_INDIRECT)))
        die("the back-end lacks VERSION_1, protocol features or (if asked for) indirect descriptors");
    event_idx = features & F_EVENT_IDX;
    uint64_t protocol = ask(GET_PROTOCOL_FEATURES) & PROTOCOL_CONFIG;
    errno = 0;
    if (!protocol)
        die("the back-end has no configuration space");
    send_request(SET_PROTOCOL_FEATURES, &protocol, 8, -1);
    struct { uint32_t offset, size, flags; uint64_t capacity; } __attribute__((packed)) config = {0, 8, 0, 0};
    call_backend(GET_CONFIG, &config, sizeof config, sizeof config);
    send_request(SET_FEATURES, &features, 8, -1);

    /* descriptors, avail, used: one page each; then headers and status, indirect tables, data */
    size_t total = 3 * TABLE + (size_t)depth * (64 + 64 + size) + TABLE;
    total = (total + TABLE - 1) / TABLE * TABLE;
    int fd = memfd_create("reference-client", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)total) < 0)
        die("memfd");
    memory = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    descs = (struct desc *)memory;
    avail = (struct avail *)(memory + TABLE);
    used = (struct used *)(memory + 2 * TABLE);
    uint8_t *controls = memory + 3 * TABLE, *tables = controls + 64 * depth;
    uint8_t *data = memory + ((size_t)(tables + 64 * depth - memory) + TABLE - 1) / TABLE * TABLE;
    lay_out_slots(controls, data, (struct desc *)tables);

    struct { uint32_t count, padding; uint64_t guest, size, user, offset; } table = {1, 0, GUEST_BASE, total, (uintptr_t)memory, 0};
    send_request(SET_MEM_TABLE, &table, sizeof table, fd);
    struct { uint32_t index, value; } number = {0, RING}, base = {0, 0}, on = {0, 1};
    struct { uint32_t index, flags; uint64_t descs, used, avail, log; } rings = {
        0, 0, (uintptr_t)descs, (uintptr_t)used, (uintptr_t)avail, 0};
    uint64_t index = 0;
    kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (kick_fd < 0 || call_fd < 0)
        die("eventfd");
    send_request(SET_VRING_NUM, &number, 8, -1);
    send_request(SET_VRING_BASE, &base, 8, -1);
    send_request(SET_VRING_ADDR, &rings, sizeof rings, -1);
    send_request(SET_VRING_CALL, &index, 8, call_fd);
    send_request(SET_VRING_KICK, &index, 8, kick_fd);
    send_request(SET_VRING_ENABLE, &on, 8, -1);
    ask(GET_FEATURES); /* answered only after all of that was carried out */
    close(fd);
    return config.capacity * SECTOR;
}

static void put_away(void)
{
    struct { uint32_t index, value; } base = {0, 0};
    call_backend(GET_VRING_BASE, &base, 8, 8);
    close(sock);
}

/* -- load -------------------------------------------------------------------------------------------------------- */

static unsigned bucket_of(uint64_t value) /* 32 buckets an octave */
{
    if (value < 32)
        return (unsigned)value;
    unsigned exponent = 63 - (unsigned)__builtin_clzll(value);
    return ((exponent - 4) << 5) + ((value >> (exponent - 5)) & 31);
}

static double percentile(double percent)
{
    uint64_t seen = 0;
    for (unsigned b = 0; b < BUCKETS; b++) {
        seen += histogram[b];
        if (seen && (double)seen >= percent / 100 * (double)done)
            return (b < 32 ? b : (double)((((uint64_t)(b & 31) + 33) << ((b >> 5) - 1)) - 1)) / 1e9;
    }
    return 0;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Dull;
}

static void publish(uint16_t old, uint16_t new)
{
    atomic_store_explicit(&avail->idx, new, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    bool kick = event_idx ? (uint16_t)(new - atomic_load_explicit(&used->avail_event, memory_order_relaxed) - 1) < (uint16_t)(new - old)
                          : !(atomic_load_explicit(&used->flags, memory_order_relaxed) & 1);
    if (kick) {
        uint64_t one = 1;
        kicks++;
        if (write(kick_fd, &one, 8) < 0 && errno != EAGAIN)
            die("kick");
    }
}

/* Nothing is there: spin, or sleep until the device says that there is. */
static void idle(uint16_t taken, unsigned in_flight, unsigned spins)
{
    if (!waits) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        if ((spins & 255) == 255)
            sched_yield();
        return;
    }
    uint16_t event = (uint16_t)(taken + (waits_for_half ? in_flight / 2 : 0));
    atomic_store_explicit(&avail->used_event, event, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&used->idx, memory_order_acquire) != taken)
        return;
    struct pollfd p = {.fd = call_fd, .events = POLLIN};
    uint64_t count;
    poll(&p, 1, 100);
    if (read(call_fd, &count, 8) == 8)
        calls++;
}

static void take(struct slot *s, uint32_t length, const uint8_t *image, int64_t now)
{
    histogram[bucket_of((uint64_t)(now - s->begun))]++;
    errors += *s->status != 0;
    wrong_lengths += length != size + 1;
    mismatches += image && memcmp(s->data, image + s->block * size, size) != 0;
    s->busy = false;
}

static int64_t run(uint64_t blocks, const uint8_t *image)
{
    uint16_t free_slots[RING], free_count = 0, taken = 0, next = 0, shown = 0;
    uint64_t submitted = 0, position = 0, state = seed * 0x9E3779B97F4A7C15ull + 1;
    unsigned in_flight = 0, spins = 0;
    int64_t begun = now_ns(), now = begun, progress = begun;
    int64_t end = seconds > 0 ? begun + (int64_t)(seconds * 1e9) : INT64_MAX;

    for (unsigned i = depth; i-- > 0;)
        free_slots[free_count++] = (uint16_t)i;
    if (!waits) { /* no calls, please */
        atomic_store_explicit(&avail->flags, event_idx ? 0 : 1, memory_order_relaxed);
        atomic_store_explicit(&avail->used_event, (uint16_t)(taken - 1), memory_order_relaxed);
    }
    for (;;) {
        bool more = now < end && submitted < wanted;
        if (more && (free_count >= batch || !in_flight)) {
            while (free_count && submitted < wanted) {
                struct slot *s = &slots[free_slots[--free_count]];
                s->block = sequential ? position : (next_random(&state) >> 11) % blocks;
                position = position + 1 < blocks ? position + 1 : 0;
                s->header->sector = s->block * (size / SECTOR);
                *s->status = 0xFF;
                s->begun = now;
                s->busy = true;
                atomic_store_explicit(&avail->ring[next++ & (RING - 1)], s->head, memory_order_relaxed);
                submitted++;
                in_flight++;
            }
            publish(shown, next);
            shown = next;
        }
        if (!in_flight)
            return now_ns() - begun;
        uint16_t there = atomic_load_explicit(&used->idx, memory_order_acquire);
        if (there == taken) {
            if (++spins % 64 == 0 || waits) {
                now = now_ns();
                if (now - progress > STALL_NS)
                    die("no answer although requests are in flight");
            }
            idle(taken, in_flight, spins);
            continue;
        }
        spins = 0;
        progress = now = now_ns();
        do {
            for (; taken != there; taken++) {
                struct used_elem e = used->ring[taken & (RING - 1)];
                struct slot *s = &slots[e.id < RING ? slot_of[e.id] : 0];
                errno = 0;
                if (e.id >= RING || s->head != e.id || !s->busy)
                    die("the device returned a buffer that it does not have");
                take(s, e.len, image, now);
                free_slots[free_count++] = (uint16_t)(s - slots);
                in_flight--;
                done++;
            }
            there = atomic_load_explicit(&used->idx, memory_order_acquire); /* what came meanwhile joins the batch */
        } while (!waits && taken != there);
    }
}

/* -- command line ------------------------------------------------------------------------------------------------ */

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 0);
    errno = 0;
    if (*end || end == text)
        die("an option wants a number");
    return value;
}

static void read_options(int argc, char **argv)
{
    static const struct option options[] = {
        {"socket", 1, 0, 'S'}, {"depth", 1, 0, 'd'},  {"size", 1, 0, 's'},     {"seconds", 1, 0, 't'}, {"requests", 1, 0, 'n'},
        {"batch", 1, 0, 'b'},  {"verify", 1, 0, 'v'}, {"seed", 1, 0, 'r'},     {"wait", 1, 0, 'w'},    {"indirect", 0, 0, 'i'},
        {"sequential", 0, 0, 'q'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'S': path = optarg; break;
        case 'd': depth = (unsigned)number(optarg); break;
        case 's': size = number(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'n': wanted = number(optarg); break;
        case 'b': batch = (unsigned)number(optarg); break;
        case 'v': verify_path = optarg; break;
        case 'r': seed = number(optarg); break;
        case 'w':
            waits = true;
            waits_for_half = !strcmp(optarg, "half");
            if (!waits_for_half && strcmp(optarg, "first"))
                die("--wait is for the first or half");
            break;
        case 'i': indirect = true; break;
        case 'q': sequential = true; break;
        default: exit(2);
        }
    }
    errno = 0;
    if (!path || optind != argc || (seconds <= 0 && wanted == UINT64_MAX))
        die("usage: --socket=S and one of --seconds and --requests are needed");
    if (depth < 1 || depth > (indirect ? RING : RING / 3) || batch < 1 || batch > depth)
        die("a ring of 256 has room for a depth of 85, or of 256 with --indirect; a batch is 1 to the depth");
    if (!size || size % SECTOR || size > 1 << 20)
        die("a block is a whole number of sectors, up to 1 MiB");
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    uint64_t disk = bring_up(), blocks = disk / size;
    const uint8_t *image = NULL;
    errno = 0;
    if (!blocks)
        die("the disk is smaller than a block");
    if (verify_path) {
        int fd = open(verify_path, O_RDONLY | O_CLOEXEC);
        struct stat s;
        if (fd < 0 || fstat(fd, &s) < 0)
            die(verify_path);
        if ((uint64_t)s.st_size < blocks * size)
            die("the file to compare with is smaller than the disk");
        image = mmap(NULL, blocks * size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
        if (image == MAP_FAILED)
            die("mmap of the file to compare with");
        close(fd);
    }
    double elapsed = (double)run(blocks, image) / 1e9;
    put_away();
    printf("{\"requests\": %llu, \"seconds\": %.6f, \"requests_per_second\": %.1f, \"p50_seconds\": %.9f, \"p99_seconds\": %.9f, "
           "\"kicks\": %llu, \"calls\": %llu, \"errors\": %llu, \"length_errors\": %llu, \"mismatches\": %llu, \"verified\": %llu}\n",
           (unsigned long long)done, elapsed, (double)done / elapsed, percentile(50), percentile(99), (unsigned long long)kicks,
           (unsigned long long)calls, (unsigned long long)errors, (unsigned long long)wrong_lengths,
           (unsigned long long)mismatches, (unsigned long long)(image ? done : 0));
    return errors || wrong_lengths || mismatches;
}
