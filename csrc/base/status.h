/* Errors of the C core: a code and one sentence (what, what came, what is allowed).
 *
 * The core never prints, exits or raises. A function that can fail returns a vp_status and,
 * when it is not VP_OK, has filled the caller's vp_error; python/ alone turns it into an
 * exception. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_STATUS_H
#define VP_BASE_STATUS_H

typedef enum {
    VP_OK = 0,
    VP_ERR_VALUE,  /* ValueError */
    VP_ERR_KEY,    /* KeyError: no parameter of that name */
    VP_ERR_MEMORY, /* MemoryError */
} vp_status;

typedef struct {
    vp_status code;
    char message[1024];
} vp_error;

/* Fills `err` (printf style; cut to the buffer) and returns `code`. Never allocates. */
vp_status vp_fail(vp_error *err, vp_status code, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

/* VP_ERR_MEMORY with the number of bytes that could not be had. */
vp_status vp_fail_memory(vp_error *err, const char *what, unsigned long long bytes);

#endif
