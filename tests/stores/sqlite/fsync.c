/* Preloaded into a process by test_faults.py: fsync and fdatasync as the file named in FSYNC_ORDER says.
   "eio": the next one fails with EIO, once; "slow": each takes 300 ms; no file: as always. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int obey(int fd, const char *name) {
  const char *path = getenv("FSYNC_ORDER");
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  int order = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (order >= 0) {
    char what = 0;
    if (read(order, &what, 1) != 1) what = 0;
    close(order);
    if (what == 'e') {
      unlink(path);
      errno = EIO;
      return -1;
    }
    if (what == 's') usleep(300000);
  }
  return real(fd);
}

int fsync(int fd) { return obey(fd, "fsync"); }
int fdatasync(int fd) { return obey(fd, "fdatasync"); }
