/* SPDX-License-Identifier: MPL-2.0 */
/* Words, numbers and keys of a flat file. */
#include "reader.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes every number of an object ABSENT. */
void fake_blank(void *object, const key_t_ *keys) {
  for (; keys->key != NULL; keys++) *(int64_t *)((char *)object + keys->offset) = ABSENT;
}

/* The member of an object with that key, or NULL. */
void *fake_member(void *object, const key_t_ *keys, const char *key) {
  for (; keys->key != NULL; keys++)
    if (strcmp(key, keys->key) == 0) return (char *)object + keys->offset;
  return NULL;
}

int fake_complain(const reader_t *r, const char *format, ...) {
  char message[256];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  fprintf(stderr, "fakenvml: %s:%d: %s\n", r->file, r->line, message);
  return -1;
}

/* Takes the next word from *rest; NULL at the end of the line. */
char *fake_word(char **rest) {
  char *start = *rest;
  if (start == NULL || *start == '\0') return NULL;
  char *space = strchr(start, ' ');
  if (space != NULL) {
    *space = '\0';
    *rest = space + 1;
  } else {
    *rest = NULL;
  }
  return start;
}

int fake_read_number(const reader_t *r, const char *text, int64_t low, int64_t high, int64_t *out) {
  if (text == NULL) return fake_complain(r, "a number is missing");
  char *end;
  errno = 0;
  long long v = strtoll(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0')
    return fake_complain(r, "\"%s\" is not a whole number", text);
  if (v < low || v > high)
    return fake_complain(r, "%lld is outside %lld..%lld", v, (long long)low, (long long)high);
  *out = v;
  return 0;
}

/* A number that indexes an array of that size. */
int fake_read_position(const reader_t *r, const char *text, int size, int *out) {
  int64_t n;
  if (fake_read_number(r, text, 0, size - 1, &n) != 0) return -1;
  *out = (int)n;
  return 0;
}

int fake_read_text(const reader_t *r, const char *value, char *out) {
  if (value == NULL || *value == '\0') return fake_complain(r, "a value is missing");
  if (strlen(value) >= TEXT) return fake_complain(r, "the value is longer than %d bytes", TEXT - 1);
  strcpy(out, value);
  return 0;
}

/* A number, or "none" for one that the driver does not know. */
int fake_read_maybe(const reader_t *r, const char *text, int64_t *out) {
  if (text != NULL && strcmp(text, "none") == 0) {
    *out = ABSENT;
    return 0;
  }
  return fake_read_number(r, text, 0, INT64_MAX, out);
}
