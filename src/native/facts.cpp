#include "facts.h"
#include "guarded.h"

#include <ATen/Context.h>
#include <ATen/Version.h>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/NCCLUtils.hpp>
#endif

#include <algorithm>

using distill::guarded;

char *distill_cuda_version(int64_t *version) {
  return guarded(
      [&] { *version = at::Context::hasCUDART() ? at::Context::versionCUDART() : 0; });
}

char *distill_nccl_version(int64_t *version) {
  return guarded([&] {
#ifdef USE_C10D_NCCL
    *version = c10d::getNcclVersionNumber();
#else
    *version = 0;
#endif
  });
}

char *distill_cpu_capability(char *name, size_t length) {
  return guarded([&] {
    const auto full = at::get_cpu_capability();
    const auto end = std::copy_n(full.begin(), std::min(full.size(), length - 1), name);
    *end = '\0';
  });
}
