/* Preloaded into a server by test_power_cut.py: appends to the file RECORD_TO what happens to the files whose paths
   begin with RECORD_OF, and what leaves over sockets, in one order.

   An entry is four 64-bit numbers (operation, inode, offset, length) and `length` bytes:
     O  opened, the path       W  written      T  cut to a length      U  unlinked, the path
     B  an fsync begins        S  it has succeeded (inode 0: of the folder)
     A  sent to a peer, written before it is sent */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Whether this thread is in one of these functions already: the interpreter's signal handler writes to a socket of its
   own, and may come in the middle of any of them. What it writes goes past the record, and must not wait for the lock. */
static __thread volatile sig_atomic_t inside;

static void enter(void) {
  inside = 1;
  pthread_mutex_lock(&lock);
}

static void leave(void) {
  pthread_mutex_unlock(&lock);
  inside = 0;
}

static int out = -1;
static const char *of;

#define REAL(result, name, ...) \
  static result (*real)(__VA_ARGS__); \
  if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("RECORD_TO");
  of = getenv("RECORD_OF");
  if (path && of) out = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void put(const void *data, size_t size) {
  while (size) {
    ssize_t done = syscall(SYS_write, out, data, size);
    if (done <= 0) abort();
    data = (const char *)data + done;
    size -= (size_t)done;
  }
}

static void note(char operation, uint64_t inode, uint64_t offset, const void *data, uint64_t size) {
  uint64_t head[4] = {(uint64_t)operation, inode, offset, size};
  put(head, sizeof head);
  put(data, size);
}

/* Our files: below the path, but neither the lock nor the shared index, which is rebuilt. */
static int ours(const char *path) {
  if (out < 0 || strncmp(path, of, strlen(of))) return 0;
  const char *rest = path + strlen(of);
  return !strcmp(rest, "") || !strcmp(rest, "-wal") || !strcmp(rest, "-journal");
}

static uint64_t files[64];
static int count;

static uint64_t known(int fd) {
  struct stat about;
  if (out < 0 || fd == out || fstat(fd, &about) || !S_ISREG(about.st_mode)) return 0;
  for (int i = 0; i < count; i++)
    if (files[i] == about.st_ino) return about.st_ino;
  return 0;
}

static int is(int fd, mode_t kind) {
  struct stat about;
  return out >= 0 && !fstat(fd, &about) && (about.st_mode & S_IFMT) == kind;
}

static int opened(int fd, const char *path) {
  struct stat about;
  if (fd >= 0 && ours(path) && !fstat(fd, &about)) {
    int i = 0;
    while (i < count && files[i] != about.st_ino) i++;
    if (i == count && count < 64) files[count++] = about.st_ino;
    note('O', about.st_ino, 0, path, strlen(path));
  }
  return fd;
}

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(int, #name, const char *, int, ...); \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    if (!ours(path)) return real(path, flags, mode); \
    enter(); \
    int fd = opened(real(path, flags, mode), path); \
    leave(); \
    return fd; \
  }
OPEN(open)
OPEN(open64)

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
  uint64_t inode = known(fd);
  if (!inode) return real(fd, data, size, at);
  enter();
  ssize_t done = real(fd, data, size, at);
  if (done > 0) note('W', inode, (uint64_t)at, data, (uint64_t)done);
  leave();
  return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

ssize_t write(int fd, const void *data, size_t size) {
  REAL(ssize_t, "write", int, const void *, size_t);
  uint64_t inode = inside ? 0 : known(fd);
  int peer = !inside && !inode && is(fd, S_IFSOCK);
  if (!inode && !peer) return real(fd, data, size);
  enter();
  off_t at = inode ? lseek(fd, 0, SEEK_CUR) : 0;
  if (peer) note('A', 0, 0, data, size);
  ssize_t done = real(fd, data, size);
  if (inode && done > 0) note('W', inode, (uint64_t)at, data, (uint64_t)done);
  leave();
  return done;
}

static void sent(const struct iovec *parts, size_t number) {
  for (size_t i = 0; i < number; i++) note('A', 0, 0, parts[i].iov_base, parts[i].iov_len);
}

ssize_t writev(int fd, const struct iovec *parts, int number) {
  REAL(ssize_t, "writev", int, const struct iovec *, int);
  if (inside || !is(fd, S_IFSOCK)) return real(fd, parts, number);
  enter();
  sent(parts, (size_t)number);
  ssize_t done = real(fd, parts, number);
  leave();
  return done;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  REAL(ssize_t, "sendmsg", int, const struct msghdr *, int);
  if (out < 0 || inside) return real(fd, message, flags);
  enter();
  sent(message->msg_iov, message->msg_iovlen);
  ssize_t done = real(fd, message, flags);
  leave();
  return done;
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
  REAL(ssize_t, "send", int, const void *, size_t, int);
  if (out < 0 || inside) return real(fd, data, size, flags);
  enter();
  note('A', 0, 0, data, size);
  ssize_t done = real(fd, data, size, flags);
  leave();
  return done;
}

int ftruncate64(int fd, off64_t size) {
  REAL(int, "ftruncate64", int, off64_t);
  uint64_t inode = known(fd);
  if (!inode) return real(fd, size);
  enter();
  int failed = real(fd, size);
  if (!failed) note('T', inode, (uint64_t)size, NULL, 0);
  leave();
  return failed;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int unlink(const char *path) {
  REAL(int, "unlink", const char *);
  if (!ours(path)) return real(path);
  enter();
  int failed = real(path);
  if (!failed) note('U', 0, 0, path, strlen(path));
  leave();
  return failed;
}

/* Not under the lock while it lasts: what is sent or written meanwhile is not covered by it. */
static int sync_file(int fd, int (*real)(int)) {
  uint64_t inode = known(fd);
  if (!inode && !is(fd, S_IFDIR)) return real(fd);
  enter();
  note('B', inode, 0, NULL, 0);
  leave();
  int failed = real(fd);
  enter();
  if (!failed) note('S', inode, 0, NULL, 0);
  leave();
  return failed;
}

int fsync(int fd) {
  REAL(int, "fsync", int);
  return sync_file(fd, real);
}

int fdatasync(int fd) {
  REAL(int, "fdatasync", int);
  return sync_file(fd, real);
}
