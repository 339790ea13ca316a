// What a device is, holds and has done so far; bytes to it and numbers from it.
#pragma once
#include "shim.h"

extern "C" {

typedef void *distill_mark;

// A mark in the current stream of a GPU, and whether the GPU has come past it.
char *distill_mark_set(int64_t cuda, distill_mark *mark);
char *distill_mark_passed(distill_mark mark, bool *passed);
// Milliseconds from one mark to a later one, both passed.
char *distill_mark_elapsed(distill_mark from, distill_mark to, double *milliseconds);
void distill_mark_free(distill_mark mark);

// A tensor of libtorch's number format `kind`, filled with `bytes`, in `*tensor`: on the CPU where
// `cuda` is negative, else on that GPU. Towards a GPU the bytes go through pinned memory and the copy
// is not waited for; `bytes` may be overwritten when this returns.
char *distill_upload(const unsigned char *bytes, int kind, const int64_t *shape, size_t dimensions,
                     int64_t cuda, distill_tensor *tensor);

// The tensor's numbers on the host in `*host`. From a GPU the copy is not waited for: a mark set now
// says when it is done.
char *distill_download(distill_tensor tensor, distill_tensor *host);

// Most bytes that tensors took of a GPU so far, and that libtorch held of it.
char *distill_peak_memory(int64_t cuda, uint64_t *allocated, uint64_t *reserved);

// The GPU's name, as much of it as fits with its final zero, its compute capability, and its memory in bytes.
char *distill_gpu(int64_t cuda, char *name, size_t length, int *major, int *minor,
                  uint64_t *memory);
// Makes the GPU this thread's; nothing where `cuda` is negative.
char *distill_make_current(int64_t cuda);
// The version of libtorch that this was built with; never freed.
const char *distill_libtorch_version(void);
// From here on float32 convolutions on a GPU are computed in float32, not in TF32.
char *distill_exact_convolutions(void);
}
