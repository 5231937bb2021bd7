/* SPDX-License-Identifier: MPL-2.0 */
/* Being told that a file was replaced, rather than asking. */
#ifndef WATCH_H
#define WATCH_H

typedef struct {
  int fd; /* readable when the file may have changed; -1: not to be had */
  char path[4096];
} watch_t;

void fake_watch_open(watch_t *w, const char *path);
void fake_watch_close(watch_t *w);

/* Whether the file may have changed since the last question; always so where
 * there is nothing to be told. */
int fake_watch_changed(watch_t *w);

#endif
