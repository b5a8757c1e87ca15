/* The least that a sampler can cost: a native thread that wakes, does nothing and sleeps again. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

static const int64_t SECOND_NS = 1000000000;

static atomic_int done;
static pthread_t thread;
static int64_t period_ns;

static void *wake(void *unused)
{
    struct timespec next;
    (void)unused;
    clock_gettime(CLOCK_MONOTONIC, &next);
    while (!atomic_load(&done)) {
        int64_t nanoseconds = next.tv_nsec + period_ns;
        next.tv_sec += nanoseconds / SECOND_NS;
        next.tv_nsec = nanoseconds % SECOND_NS;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
    return NULL;
}

/* Returns 0, or why there is no thread (errno). */
int waking_start(int64_t period)
{
    period_ns = period;
    return pthread_create(&thread, NULL, wake, NULL);
}

void waking_stop(void)
{
    atomic_store(&done, 1);
    pthread_join(thread, NULL);
}
