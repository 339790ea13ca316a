#include "device.h"
#include "guarded.h"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/version.h>
#ifdef USE_C10D_NCCL
#include <ATen/cuda/CUDAContext.h>
#endif

#include <algorithm>
#include <cstring>

using distill::guarded;

namespace {

at::Device gpu(int64_t cuda) { return {at::kCUDA, static_cast<c10::DeviceIndex>(cuda)}; }

const c10::Event &event_of(distill_mark mark) { return *static_cast<const c10::Event *>(mark); }

} // namespace

char *distill_mark_set(int64_t cuda, distill_mark *mark) {
  return guarded([&] {
    // This flag keeps the time.
    auto event = std::make_unique<c10::Event>(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
    event->record(c10::impl::VirtualGuardImpl(at::kCUDA).getStream(gpu(cuda)));
    *mark = event.release();
  });
}

char *distill_mark_passed(distill_mark mark, bool *passed) {
  return guarded([&] { *passed = event_of(mark).query(); });
}

char *distill_mark_elapsed(distill_mark from, distill_mark to, double *milliseconds) {
  return guarded([&] { *milliseconds = event_of(from).elapsedTime(event_of(to)); });
}

void distill_mark_free(distill_mark mark) {
  // libtorch only warns where an event cannot be destroyed.
  delete static_cast<c10::Event *>(mark);
}

char *distill_upload(const unsigned char *bytes, int kind, const int64_t *shape, size_t dimensions,
                     int64_t cuda, distill_tensor *tensor) {
  return guarded([&] {
    const auto type = static_cast<at::ScalarType>(kind);
    const bool to_gpu = cuda >= 0;
    auto host = at::empty(at::IntArrayRef(shape, dimensions),
                          at::TensorOptions(type).pinned_memory(to_gpu));
    if (host.nbytes() > 0)
      std::memcpy(host.mutable_data_ptr(), bytes, host.nbytes());
    // libtorch's allocator keeps pinned memory until copies from it are done.
    *tensor = new at::Tensor(to_gpu ? host.to(gpu(cuda), type, /*non_blocking=*/true) : host);
  });
}

char *distill_download(distill_tensor tensor, distill_tensor *host) {
  return guarded([&] {
    const auto source = static_cast<const at::Tensor *>(tensor)->detach();
    const auto options =
        source.options().device(at::kCPU).pinned_memory(!source.device().is_cpu());
    auto target = at::empty(source.sizes(), options);
    target.copy_(source, /*non_blocking=*/true);
    *host = new at::Tensor(std::move(target));
  });
}

char *distill_peak_memory(int64_t cuda, uint64_t *allocated, uint64_t *reserved) {
  return guarded([&] {
    const auto device = static_cast<c10::DeviceIndex>(cuda);
    const auto stats = c10::getDeviceAllocator(at::kCUDA)->getDeviceStats(device);
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *allocated = stats.allocated_bytes[all].peak;
    *reserved = stats.reserved_bytes[all].peak;
  });
}

char *distill_gpu(int64_t cuda, char *name, size_t length, int *major, int *minor,
                  uint64_t *memory) {
  return guarded([&] {
#ifdef USE_C10D_NCCL
    const auto &properties = *at::cuda::getDeviceProperties(static_cast<c10::DeviceIndex>(cuda));
    *major = properties.major;
    *minor = properties.minor;
    *memory = properties.totalGlobalMem;
    const std::string_view full(properties.name);
    const auto end = std::copy_n(full.begin(), std::min(full.size(), length - 1), name);
    *end = '\0';
#else
    TORCH_CHECK(false, "this build cannot ask GPUs what they are: it was made without CUDA's headers");
#endif
  });
}

char *distill_make_current(int64_t cuda) {
  return guarded([&] {
    if (cuda >= 0)
      c10::impl::VirtualGuardImpl(at::kCUDA)
          .setDevice(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(cuda)));
  });
}

const char *distill_libtorch_version(void) { return TORCH_VERSION; }

char *distill_exact_convolutions(void) {
  return guarded([] { at::globalContext().setAllowTF32CuDNN(false); });
}
