/* Preloaded into processes by tests: a disk that does what the file named in FSYNC_ORDER says, from its next call on.

     eio        the next fsync fails with EIO, and the order is gone
     fail       each fsync fails with EIO
     slow [ms]  each fsync takes so long (300 ms without a number)
     full       each write to a database or its log fails with ENOSPC
     no file    all is well */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The order, "" where there is none. */
static const char *order(char *text, size_t size) {
  const char *path = getenv("FSYNC_ORDER");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  ssize_t length = file >= 0 ? read(file, text, size - 1) : 0;
  if (file >= 0) close(file);
  text[length > 0 ? length : 0] = 0;
  return text;
}

static int sync_file(int fd, const char *name) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  char text[32];
  order(text, sizeof text);
  if (!strncmp(text, "eio", 3)) unlink(getenv("FSYNC_ORDER"));
  if (!strncmp(text, "eio", 3) || !strncmp(text, "fail", 4)) {
    errno = EIO;
    return -1;
  }
  if (!strncmp(text, "slow", 4)) {
    long ms = strtol(text + 4, NULL, 10);
    usleep((ms ? ms : 300) * 1000);
  }
  return real(fd);
}

int fsync(int fd) { return sync_file(fd, "fsync"); }
int fdatasync(int fd) { return sync_file(fd, "fdatasync"); }

/* SQLite writes with pwrite, nobody else here does. */
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  ssize_t (*real)(int, const void *, size_t, off64_t) =
      (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
  char text[32];
  if (!strncmp(order(text, sizeof text), "full", 4)) {
    errno = ENOSPC;
    return -1;
  }
  return real(fd, data, size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }
