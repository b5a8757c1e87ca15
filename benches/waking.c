/* The least that a sampler can cost: a native thread that wakes, does nothing and sleeps again; or
 * that walks the frames of all threads by plain loads before it does. That is for a program whose
 * frames stay where they are: another could take the memory away while it is read. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

static const int64_t SECOND_NS = 1000000000;

/* Where CPython keeps what is walked: its runtime, then offsets of fields. */
struct places {
    const char *runtime;
    int64_t interpreters_head, threads_head, next, current_frame, previous, executable, instr_ptr;
};

static atomic_int done;
static struct places places;
static _Atomic uintptr_t seen;
static pthread_t thread;
static int64_t period_ns;

static uintptr_t word(uintptr_t object, int64_t offset)
{
    return *(const uintptr_t *)(object + offset);
}

static void walk(void)
{
    uintptr_t found = 0;
    uintptr_t interpreter = word((uintptr_t)places.runtime, places.interpreters_head);
    uintptr_t state = word(interpreter, places.threads_head);
    for (; state; state = word(state, places.next)) {
        uintptr_t frame = word(state, places.current_frame);
        for (; frame; frame = word(frame, places.previous))
            found ^= word(frame, places.executable) + word(frame, places.instr_ptr);
    }
    atomic_store_explicit(&seen, found, memory_order_relaxed);
}

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
        if (places.runtime)
            walk();
    }
    return NULL;
}

/* Returns 0, or why there is no thread (errno). */
int waking_start(int64_t period)
{
    period_ns = period;
    return pthread_create(&thread, NULL, wake, NULL);
}

int walking_start(int64_t period, struct places where)
{
    places = where;
    return waking_start(period);
}

void waking_stop(void)
{
    atomic_store(&done, 1);
    pthread_join(thread, NULL);
}
