/* Cuts the power of the disk below a mounted file system (ext4, xfs): nothing that is not on it by now will
 * come to be, and every later call fails. Needs root. */

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>

#define FS_IOC_SHUTDOWN _IOR('X', 125, uint32_t)
#define WITHOUT_FLUSHING_THE_LOG 2

int main(int count, char **arguments) {
    uint32_t how = WITHOUT_FLUSHING_THE_LOG;
    int directory = count == 2 ? open(arguments[1], O_RDONLY | O_DIRECTORY) : -1;
    if (directory < 0 || ioctl(directory, FS_IOC_SHUTDOWN, &how) != 0) {
        perror(count == 2 ? arguments[1] : "a directory must be named");
        return 1;
    }
    return 0;
}
