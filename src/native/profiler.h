// libtorch's profiler (Kineto). Conventions as in shim.h.
#pragma once
#include "shim.h"

extern "C" {

// Begins to record what this thread does, and what autograd does for it; with `gpu` also kernels and copies.
char *distill_profiler_begin(bool gpu);
// Ends that, on the same thread, and writes a Chrome trace to `file`, unless that is null.
char *distill_profiler_end(const char *file);
// A part of what this thread does, under a name of its own; null where nothing is recorded.
void *distill_profiler_part_begin(const char *name);
void distill_profiler_part_end(void *part);
}
