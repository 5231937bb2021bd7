/* SPDX-License-Identifier: MPL-2.0 */
/* What came with which driver branch. The library is built for one of them and
 * lacks what came later: calls are not exported, fields are not supported.
 */
#ifndef BRANCH_H
#define BRANCH_H

/* 470, 535, or the newest. */
#ifndef FAKENVML_DRIVER
#define FAKENVML_DRIVER 999
#endif

#define EXPORT __attribute__((visibility("default")))
#define HIDDEN __attribute__((visibility("hidden")))

/* EXPORT for a call that came with that branch. Where only the interval between
 * two published headers is known, it is the later one. */
#define SINCE(branch) SINCE_##branch

#if FAKENVML_DRIVER >= 535
#define SINCE_510 EXPORT
#define SINCE_520 EXPORT
#define SINCE_535 EXPORT
#else
#define SINCE_510 HIDDEN
#define SINCE_520 HIDDEN
#define SINCE_535 HIDDEN
#endif

#if FAKENVML_DRIVER >= 580
#define SINCE_545 EXPORT
#define SINCE_550 EXPORT
#define SINCE_560 EXPORT
#define SINCE_580 EXPORT
#else
#define SINCE_545 HIDDEN
#define SINCE_550 HIDDEN
#define SINCE_560 HIDDEN
#define SINCE_580 HIDDEN
#endif

/* The largest field id (NVML_FI_DEV_*) that the branch knows. */
#if FAKENVML_DRIVER >= 580
enum { LAST_FIELD = 307 };
#elif FAKENVML_DRIVER >= 535
enum { LAST_FIELD = 196 };
#else
enum { LAST_FIELD = 146 };
#endif

#endif
