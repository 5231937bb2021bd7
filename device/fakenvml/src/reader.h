/* SPDX-License-Identifier: MPL-2.0 */
/* Reading the lines of a flat file. */
#ifndef READER_H
#define READER_H

#include "fake.h"

typedef struct {
  const char *file;
  int line;
  int is_control;
  state_t *s;
} reader_t;

/* A key of an object and where the object has it; a table ends with NULL. */
typedef struct {
  const char *key;
  size_t offset;
} key_t_;

#define KEY_OF(type, name) {#name, offsetof(type, name)},

/* reader.c: words and numbers. All answer -1, having said why, or 0. */
int fake_complain(const reader_t *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
char *fake_word(char **rest);
int fake_read_number(const reader_t *r, const char *text, int64_t low, int64_t high, int64_t *out);
int fake_read_position(const reader_t *r, const char *text, int size, int *out);
int fake_read_maybe(const reader_t *r, const char *text, int64_t *out);
int fake_read_text(const reader_t *r, const char *value, char *out);
void fake_blank(void *object, const key_t_ *keys);
void *fake_member(void *object, const key_t_ *keys, const char *key);

/* parse.c */
int fake_read_gpu(const reader_t *r, const char *word, int *index);

/* parse_mig.c and parse_control.c: what stands after a line's first word. */
int fake_read_profile(const reader_t *r, char *rest);
int fake_read_mig(const reader_t *r, char *rest);
int fake_read_fault(const reader_t *r, char *rest, int hang);
int fake_read_xid(const reader_t *r, char *rest);
int fake_read_process(const reader_t *r, char *rest);

#endif
