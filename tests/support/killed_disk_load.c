/* A load that knows what it wrote: threads that write blocks past the cache and read them back.
 *
 *     verified_load /dev/vda THREADS BLOCKS STOP
 *
 * Until there is a file STOP. Each thread has BLOCKS blocks of 4 KiB of its own. A block carries its number, the turn in which it was written, and bytes that
 * follow from both, so that a lost, torn, doubled or misplaced one is seen. Ends with 0 when all blocks are as they should be, and with a
 * line that says how many were written. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096

static const char *path, *stop;
static long threads, blocks;

struct worker {
    pthread_t thread;
    long number, written;
    uint64_t *turns;
};

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

static void make(uint64_t *words, uint64_t block, uint64_t turn)
{
    uint64_t state = mix(block * 0x100000001B3u + turn);
    words[0] = block;
    words[1] = turn;
    for (int i = 2; i < BLOCK / 8; i++)
        words[i] = state = mix(state + i);
}

static void fail(const char *what, uint64_t block, uint64_t turn, const uint64_t *found)
{
    printf("FAULT: %s, block %lu, turn %lu", what, (unsigned long)block, (unsigned long)turn);
    if (found)
        printf(", found block %lu, turn %lu", (unsigned long)found[0], (unsigned long)found[1]);
    printf(", errno %d\n", errno);
    fflush(stdout);
    _exit(1);
}

static void verify(struct worker *w, int fd, uint64_t *buffer, uint64_t *expected, long index)
{
    uint64_t block = w->number * blocks + index;
    if (pread(fd, buffer, BLOCK, block * BLOCK) != BLOCK)
        fail("read failed", block, w->turns[index], NULL);
    make(expected, block, w->turns[index]);
    if (memcmp(buffer, expected, BLOCK))
        fail("not what was written", block, w->turns[index], buffer);
}

static void *work(void *argument)
{
    struct worker *w = argument;
    uint64_t *buffer, *expected;
    unsigned seed = w->number;
    int fd = open(path, O_RDWR | O_DIRECT);
    if (fd < 0 || posix_memalign((void **)&buffer, BLOCK, BLOCK) || posix_memalign((void **)&expected, BLOCK, BLOCK))
        fail("cannot begin", 0, 0, NULL);
    w->turns = calloc(blocks, 8);
    while (access(stop, F_OK) != 0) {
        long index = rand_r(&seed) % blocks;
        uint64_t block = w->number * blocks + index;
        if (w->turns[index] && rand_r(&seed) % 3 == 0) {
            verify(w, fd, buffer, expected, index);
            continue;
        }
        make(buffer, block, w->turns[index] + 1);
        if (pwrite(fd, buffer, BLOCK, block * BLOCK) != BLOCK)
            fail("write failed", block, w->turns[index] + 1, NULL);
        w->turns[index]++;
        w->written++;
    }
    for (long index = 0; index < blocks; index++)
        if (w->turns[index])
            verify(w, fd, buffer, expected, index);
    return NULL;
}

int main(int count, char **words)
{
    long written = 0;
    struct worker *workers;
    if (count != 5)
        return 2;
    path = words[1];
    threads = atol(words[2]);
    blocks = atol(words[3]);
    stop = words[4];
    workers = calloc(threads, sizeof *workers);
    for (long i = 0; i < threads; i++) {
        workers[i].number = i;
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    for (long i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        written += workers[i].written;
    }
    printf("written %ld\n", written);
    return 0;
}
