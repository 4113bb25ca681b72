/* What a machine could do at best: limits FILE. Prints, for one and two threads, how many bytes a second a loop gets that only reads FILE
   (mapped, as model files are), and how many products a second the instruction that multiplies bf16 numbers gives on numbers that are in
   registers, where the processor has it. Best of five, since the question is what is possible.
   cc -O3 -march=native -pthread limits.c -o limits */
#define _GNU_SOURCE
#include <fcntl.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

enum { RUN = 32768, AHEAD = 6144, SUMS = 24, STEPS = 10000000 };

/* A cache line, which compilers cut into what the processor has. */
typedef uint64_t Line __attribute__((vector_size(64), may_alias));

static const char *bytes;
static size_t length;
static int threads;
static volatile uint64_t sink;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* A thread's part, in two streams, as two rows of weights are read. */
static void *reads(void *nth) {
    size_t part = length / threads / (2 * RUN) * (2 * RUN);
    const char *from = bytes + part * (size_t)nth, *end = from + part;
    Line sums = {0};
    for (; from < end; from += 2 * RUN)
        for (size_t i = 0; i < RUN; i += sizeof(Line))
            for (int stream = 0; stream < 2; stream++) {
                const char *at = from + stream * RUN + i;
                __builtin_prefetch(at + AHEAD);
                sums += *(const Line *)at;
            }
    for (size_t n = 0; n < sizeof(Line) / sizeof sums[0]; n++) sink += sums[n];
    return NULL;
}

#ifdef __AVX512BF16__
/* Independent sums, enough to keep the processor busy. */
static void *multiplies(void *nth) {
    __m512 sums[SUMS], a = _mm512_set1_ps(1.001f), b = _mm512_set1_ps(0.5f);
    for (int i = 0; i < SUMS; i++) sums[i] = _mm512_set1_ps(i);
    for (long step = 0; step < STEPS; step++)
#pragma GCC unroll 24
        for (int i = 0; i < SUMS; i++) __asm__ volatile("vdpbf16ps %1, %2, %0" : "+v"(sums[i]) : "v"(a), "v"(b));
    for (int i = 0; i < SUMS; i++) sink += (uint64_t)_mm512_reduce_add_ps(sums[i]);
    return nth;
}
#endif

static double best(void *(*work)(void *), double amount) {
    double best = 0;
    for (int round = 0; round < 5; round++) {
        pthread_t others[threads];
        double start = now();
        for (long i = 1; i < threads; i++) pthread_create(&others[i], NULL, work, (void *)i);
        work(NULL);
        for (int i = 1; i < threads; i++) pthread_join(others[i], NULL);
        double rate = amount / (now() - start) * 1e-9;
        best = rate > best ? rate : best;
    }
    return best;
}

int main(int count, char **args) {
    struct stat about;
    int file = count == 2 ? open(args[1], O_RDONLY) : -1;
    if (file < 0 || fstat(file, &about)) return fprintf(stderr, "usage: limits FILE, a large one that can be read\n"), 2;
    length = about.st_size;
    bytes = mmap(NULL, length, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
    if (bytes == MAP_FAILED) return perror(args[1]), 1;
    printf("| threads | reading, GB/s | products of bf16, 10^9/s |\n|---|---|---|\n");
    for (threads = 1; threads <= 2; threads++) {
        printf("| %d | %.1f |", threads, best(reads, length));
#ifdef __AVX512BF16__
        printf(" %.1f |\n", best(multiplies, 32.0 * SUMS * STEPS * threads));
#else
        printf(" |\n");
#endif
    }
    return 0;
}
