/* Stands between a process and its C library (LD_PRELOAD), and does to its disk and its clock what a page
 * in memory says, which whoever breaks it writes to at any time:
 *
 *   0  lie: syncs succeed and sync nothing
 *   8  delay of each sync, in milliseconds
 *  16  errno with which the chosen calls fail
 *  24  they begin to fail after so many more calls; negative: none fails
 *  32  calls that could have failed so far
 *  40  seconds by which the wall clock is wrong
 *
 * All are 64-bit integers. Calls that can fail write to regular files or make them durable. Only what a
 * program asks of its C library passes here. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct page {
    volatile int64_t lie, sync_delay_ms, error, fails_after, calls, clock_s;
};

static struct page none = {0, 0, 0, -1, 0, 0};
static struct page *page = &none;

__attribute__((constructor)) static void open_page(void) {
    const char *path = getenv("KONTIKI_FAULTS_PAGE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) {
        return;
    }
    void *mapped = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) {
        page = mapped;
    }
    close(file);
}

#define NEXT(name) \
    static __typeof__(name) *next; \
    if (!next) { \
        next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name); \
    }

/* Counts a call; true where it is to fail. */
static int fails(void) {
    __atomic_add_fetch(&page->calls, 1, __ATOMIC_RELAXED);
    if (page->fails_after < 0) {
        return 0;
    }
    if (__atomic_sub_fetch(&page->fails_after, 1, __ATOMIC_RELAXED) >= 0) {
        return 0;
    }
    /* It stays broken: what failed once is not to be trusted again. */
    page->fails_after = 0;
    errno = (int)page->error;
    return 1;
}

static int regular(int file) {
    struct stat known;
    return fstat(file, &known) == 0 && S_ISREG(known.st_mode) && file != STDERR_FILENO;
}

static int sync_fails(void) {
    if (page->sync_delay_ms > 0) {
        struct timespec delay = {page->sync_delay_ms / 1000, page->sync_delay_ms % 1000 * 1000000};
        nanosleep(&delay, NULL);
    }
    return fails();
}

int fsync(int file) {
    NEXT(fsync)
    return sync_fails() ? -1 : page->lie ? 0 : next(file);
}

int fdatasync(int file) {
    NEXT(fdatasync)
    return sync_fails() ? -1 : page->lie ? 0 : next(file);
}

int sync_file_range(int file, off64_t offset, off64_t length, unsigned int flags) {
    NEXT(sync_file_range)
    return page->lie ? 0 : next(file, offset, length, flags);
}

ssize_t write(int file, const void *bytes, size_t length) {
    NEXT(write)
    return regular(file) && fails() ? -1 : next(file, bytes, length);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    NEXT(writev)
    return regular(file) && fails() ? -1 : next(file, parts, count);
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t offset) {
    NEXT(pwrite)
    return regular(file) && fails() ? -1 : next(file, bytes, length, offset);
}

ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t offset) {
    NEXT(pwrite64)
    return regular(file) && fails() ? -1 : next(file, bytes, length, offset);
}

int ftruncate(int file, off_t length) {
    NEXT(ftruncate)
    return fails() ? -1 : next(file, length);
}

int ftruncate64(int file, off64_t length) {
    NEXT(ftruncate64)
    return fails() ? -1 : next(file, length);
}

int fallocate(int file, int mode, off_t offset, off_t length) {
    NEXT(fallocate)
    return fails() ? -1 : next(file, mode, offset, length);
}

int fallocate64(int file, int mode, off64_t offset, off64_t length) {
    NEXT(fallocate64)
    return fails() ? -1 : next(file, mode, offset, length);
}

int rename(const char *from, const char *to) {
    NEXT(rename)
    return fails() ? -1 : next(from, to);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    NEXT(clock_gettime)
    int result = next(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
        now->tv_sec += page->clock_s;
    }
    return result;
}
