/* How long do open+read+close and stat of a cached file take?
 *
 *   opener open|stat ROUNDS FILE...     prints the mean of each block of 100 operations, in ns, one a line
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static char bytes[65536];

static int operate(const char *path, int only_stat) {
    struct stat st;
    int fd;
    if (only_stat)
        return stat(path, &st);
    fd = open(path, O_RDONLY);
    if (fd < 0)
        return -1;
    if (read(fd, bytes, sizeof bytes) <= 0) {
        close(fd);
        return -1;
    }
    return close(fd);
}

int main(int argc, char **argv) {
    int rounds, only_stat, block, i;
    if (argc < 4)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    only_stat = !strcmp(argv[1], "stat");
    rounds = atoi(argv[2]);
    for (block = 0; block < rounds / 100; block++) {
        long start = now();
        for (i = 0; i < 100; i++)
            if (operate(argv[3 + i % (argc - 3)], only_stat)) {
                perror(argv[3 + i % (argc - 3)]);
                return 1;
            }
        printf("%ld\n", (now() - start) / 100);
    }
    return 0;
}
