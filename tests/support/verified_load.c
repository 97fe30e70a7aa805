/* Load on a disk that notices every lost, torn, stale or doubled block, and every page of memory that was not carried along.
 *
 * usage: verified-load run FILE BLOCKS THREADS TABLE COUNTS      until SIGTERM; status 0 if all was well
 *        verified-load check FILE BLOCKS TABLE                   is FILE what `run` left, says TABLE?
 *
 * The first BLOCKS blocks of 4 KiB are written, read and compared past the page cache, by THREADS threads that each own a part.
 * A block's content is made of its number and of how often it was written. What was read stays in memory, untouched by the
 * CPU, and is compared again later: memory that a device wrote and a migration forgot is found by that. TABLE gets the number of
 * writes of each block, COUNTS every tenth of a second the numbers of writes, reads and comparisons so far.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 4096, WORDS = BLOCK / 8, MOST = 64, KEPT = 12 };

struct kept {
    uint64_t *data;         /* MOST blocks, page aligned */
    uint32_t first, count;  /* count 0: nothing yet */
    uint32_t version[MOST];
};

static const char *path;
static uint32_t blocks, threads;
static uint32_t *version;   /* by block: how often it was written; 0: as it was */
static atomic_bool stop;
static atomic_ulong writes, reads, comparisons;

static void fail(const char *what, uint32_t block, const char *why)
{
    fprintf(stderr, "verified-load: %s of block %u: %s\n", what, block, why);
    fflush(stderr);
    _exit(1);
}

static uint64_t mixed(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Every sector begins with the block and the version in plain, so that a mismatch says what is there instead. */
static void fill(uint64_t *at, uint32_t block, uint32_t number)
{
    uint64_t seed = mixed((uint64_t)block << 32 | number);
    for (int word = 0; word < WORDS; word++)
        at[word] = word % 64 == 0 ? (uint64_t)block << 32 | number : seed + word * 0x9e3779b97f4a7c15u;
}

static void compare(const uint64_t *at, uint32_t block, uint32_t number, const char *what)
{
    uint64_t seed = mixed((uint64_t)block << 32 | number);
    char text[200];
    if (number == 0)
        return;
    for (int word = 0; word < WORDS; word++) {
        uint64_t wanted = word % 64 == 0 ? (uint64_t)block << 32 | number : seed + word * 0x9e3779b97f4a7c15u;
        if (at[word] == wanted)
            continue;
        int sector = word / 64;
        snprintf(text, sizeof text, "version %u is wanted; word %d is %#llx instead of %#llx; sector %d says block %u, version %u",
                 number, word, (unsigned long long)at[word], (unsigned long long)wanted, sector,
                 (uint32_t)(at[sector * 64] >> 32), (uint32_t)at[sector * 64]);
        fail(what, block, text);
    }
    atomic_fetch_add(&comparisons, 1);
}

static uint64_t *pages(size_t size)
{
    void *memory = NULL;
    if (posix_memalign(&memory, BLOCK, size) != 0)
        fail("memory", 0, "there is none");
    memset(memory, 0, size);
    return memory;
}

static void compare_kept(const struct kept *kept)
{
    for (uint32_t index = 0; index < kept->count; index++)
        compare(kept->data + index * WORDS, kept->first + index, kept->version[index], "memory that was read");
}

static void all_of_it(int fd, int writing, uint64_t *data, uint32_t first, uint32_t count)
{
    ssize_t size = (ssize_t)count * BLOCK;
    off_t place = (off_t)first * BLOCK;
    ssize_t moved = writing ? pwrite(fd, data, size, place) : pread(fd, data, size, place);
    if (moved != size)
        fail(writing ? "write" : "read", first, moved < 0 ? strerror(errno) : "it was a short one");
}

static void *worker(void *argument)
{
    uint32_t number = (uint32_t)(uintptr_t)argument;
    uint32_t share = blocks / threads, base = number * share;
    uint64_t random = mixed(number + 1);
    uint64_t *data = pages(MOST * BLOCK);
    struct kept kept[KEPT] = {0};
    int fd = open(path, O_RDWR | O_DIRECT);
    if (fd < 0)
        fail("open", 0, strerror(errno));
    for (int index = 0; index < KEPT; index++)
        kept[index].data = pages(MOST * BLOCK);
    while (!atomic_load(&stop)) {
        random = mixed(random + 0x9e3779b97f4a7c15u);
        /* Mostly small, now and then large. */
        uint32_t most = (random & 0xf0) == 0 ? MOST : (random & 0xf0) < 0x60 ? 8 : 1;
        uint32_t count = 1 + (uint32_t)(random >> 16) % most;
        uint32_t first = base + (uint32_t)(random >> 32) % (share - count + 1);
        if ((random & 15) < 9) {
            for (uint32_t index = 0; index < count; index++)
                fill(data + index * WORDS, first + index, version[first + index] + 1);
            all_of_it(fd, 1, data, first, count);
            for (uint32_t index = 0; index < count; index++)
                version[first + index]++;
            atomic_fetch_add(&writes, 1);
        } else {
            struct kept *place = &kept[(random >> 8) % KEPT];
            compare_kept(place);
            place->first = first;
            place->count = count;
            memcpy(place->version, version + first, count * sizeof *version);
            all_of_it(fd, 0, place->data, first, count);
            compare_kept(place);
            atomic_fetch_add(&reads, 1);
        }
    }
    for (int index = 0; index < KEPT; index++)
        compare_kept(&kept[index]);
    for (uint32_t block = base; block < base + share; block++) {
        all_of_it(fd, 0, data, block, 1);
        compare(data, block, version[block], "the last read");
    }
    if (fsync(fd) != 0)
        fail("fsync", base, strerror(errno));
    close(fd);
    return NULL;
}

static void ended(int number)
{
    (void)number;
    atomic_store(&stop, 1);
}

/* Whoever reads the file sees all of one line: it gets its name when it is whole. */
static void tell(const char *file)
{
    char text[100], whole[4096];
    int size = snprintf(text, sizeof text, "%lu %lu %lu\n", atomic_load(&writes), atomic_load(&reads), atomic_load(&comparisons));
    snprintf(whole, sizeof whole, "%s.new", file);
    int fd = open(whole, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, text, size) != size)
        fail("counts", 0, strerror(errno));
    close(fd);
    if (rename(whole, file) != 0)
        fail("counts", 0, strerror(errno));
}

static int run(const char *table, const char *counts)
{
    pthread_t each[64];
    struct sigaction action = {.sa_handler = ended};
    sigaction(SIGTERM, &action, NULL);
    for (uint32_t number = 0; number < threads; number++)
        if (pthread_create(&each[number], NULL, worker, (void *)(uintptr_t)number) != 0)
            fail("thread", number, strerror(errno));
    while (!atomic_load(&stop)) {
        tell(counts);
        usleep(100000);
    }
    for (uint32_t number = 0; number < threads; number++)
        pthread_join(each[number], NULL);
    tell(counts);
    FILE *file = fopen(table, "wb");
    if (file == NULL || fwrite(version, sizeof *version, blocks, file) != blocks || fclose(file) != 0)
        fail("table", 0, strerror(errno));
    return 0;
}

static int check(const char *table)
{
    uint64_t *data = pages(BLOCK);
    FILE *file = fopen(table, "rb");
    int fd = open(path, O_RDONLY);
    if (fd < 0 || file == NULL || fread(version, sizeof *version, blocks, file) != blocks)
        fail("table or file", 0, strerror(errno));
    for (uint32_t block = 0; block < blocks; block++) {
        all_of_it(fd, 0, data, block, 1);
        compare(data, block, version[block], "the file's content");
    }
    return 0;
}

int main(int count, char **word)
{
    int running = count == 7 && strcmp(word[1], "run") == 0;
    if (!running && !(count == 5 && strcmp(word[1], "check") == 0)) {
        fprintf(stderr, "usage: verified-load run FILE BLOCKS THREADS TABLE COUNTS | check FILE BLOCKS TABLE\n");
        return 2;
    }
    path = word[2];
    blocks = (uint32_t)strtoul(word[3], NULL, 10);
    threads = running ? (uint32_t)strtoul(word[4], NULL, 10) : 1;
    if (threads < 1 || threads > 64 || blocks / threads < MOST)
        fail("arguments", blocks, "64 blocks a thread at least, 64 threads at most");
    version = calloc(blocks, sizeof *version);
    return running ? run(word[5], word[6]) : check(word[4]);
}
