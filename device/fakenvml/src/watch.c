/* SPDX-License-Identifier: MPL-2.0 */
/* inotify on the directory of a file: a rename over the file shows there. */
#include "watch.h"

#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

enum {
  CHANGES = IN_CREATE | IN_CLOSE_WRITE | IN_DELETE | IN_MODIFY | IN_MOVED_FROM | IN_MOVED_TO
};

static const char *name_of(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash == NULL ? path : slash + 1;
}

void fake_watch_open(watch_t *w, const char *path) {
  char directory[sizeof w->path];
  w->fd = -1;
  w->path[0] = '\0';
  if (path == NULL || *path == '\0' || strlen(path) >= sizeof w->path) return;
  strcpy(w->path, path);
  int length = (int)(name_of(path) - path);
  snprintf(directory, sizeof directory, "%.*s", length, length > 0 ? path : "");
  if (length == 0) strcpy(directory, ".");
  int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (fd >= 0 && inotify_add_watch(fd, directory, CHANGES | IN_ONLYDIR) < 0) {
    close(fd);
    fd = -1;
  }
  w->fd = fd;
}

void fake_watch_close(watch_t *w) {
  if (w->fd >= 0) close(w->fd);
  w->fd = -1;
  w->path[0] = '\0';
}

int fake_watch_changed(watch_t *w) {
  if (w->fd < 0) return 1;
  char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
  const char *name = name_of(w->path);
  int changed = 0;
  for (;;) {
    ssize_t n = read(w->fd, buffer, sizeof buffer);
    if (n <= 0) return changed;
    for (ssize_t at = 0; at < n;) {
      const struct inotify_event *e = (const struct inotify_event *)(buffer + at);
      /* Without a name: the queue ran over, or the directory is gone. */
      if (e->len == 0 || strcmp(e->name, name) == 0) changed = 1;
      at += (ssize_t)(sizeof *e + e->len);
    }
  }
}
