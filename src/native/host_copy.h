// Copies to host memory beside what a device does otherwise. Conventions as in shim.h.
#pragma once
#include "shim.h"

extern "C" {

// `bytes` bytes of host memory that a GPU can write to by itself.
char *distill_pinned(size_t bytes, distill_tensor *tensor);
// Copies `from`, all on one device and written long ago, to `to` on the host, of the same shapes and kinds;
// returns when that is done. A GPU does it on a stream of its own.
char *distill_copy_to_host(const distill_tensor *from, const distill_tensor *to, size_t count);
}
