// What this libtorch is and was built for.
#pragma once
#include "shim.h"

extern "C" {

// CUDA's version as CUDART_VERSION has it (13000 is 13.0), 0 for a libtorch without CUDA.
char *distill_cuda_version(int64_t *version);
// NCCL's version as NCCL_VERSION_CODE has it (22809 is 2.28.9), 0 where this build has none.
char *distill_nccl_version(int64_t *version);
// The instruction set whose kernels libtorch takes, as much of its name as fits with its final zero.
char *distill_cpu_capability(char *name, size_t length);
}
