/* Errors of the C core. SPDX-License-Identifier: Apache-2.0 */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

vp_status vp_fail(vp_error *err, vp_status code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    err->code = code;
    (void)vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    return code;
}

vp_status vp_fail_memory(vp_error *err, const char *what, unsigned long long bytes)
{
    return vp_fail(err, VP_ERR_MEMORY, "cannot allocate %llu bytes for %s", bytes,
                   what);
}
