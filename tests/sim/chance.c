/* Chance that is none: what the standard library and tokio ask the kernel for (keys of hash maps, whom to
 * wake first) is the same numbers on every thread of every process. With it a seed is a whole run, to be
 * had again. Linked into what runs seeds and into nothing else; whatever must not be guessed has no place
 * in such a program. */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

static _Thread_local uint64_t drawn;

ssize_t getrandom(void *buffer, size_t length, unsigned int flags) {
    (void)flags;
    unsigned char *bytes = buffer;
    for (size_t at = 0; at < length; at++) {
        drawn += 0x9E3779B97F4A7C15u;
        uint64_t mixed = drawn;
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
        bytes[at] = (unsigned char)((mixed ^ (mixed >> 31)) >> 56);
    }
    return (ssize_t)length;
}
