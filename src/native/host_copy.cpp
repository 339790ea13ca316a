#include "host_copy.h"
#include "guarded.h"

#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/ParallelGuard.h>

#include <chrono>
#include <thread>

using distill::guarded;

char *distill_pinned(size_t bytes, distill_tensor *tensor) {
  return guarded([&] {
    const auto options = at::TensorOptions(at::kByte).pinned_memory(true);
    *tensor = new at::Tensor(at::empty({static_cast<int64_t>(bytes)}, options));
  });
}

char *distill_copy_to_host(const distill_tensor *from, const distill_tensor *to, size_t count) {
  return guarded([&] {
    const auto sources = distill::list(from, count), targets = distill::list(to, count);
    if (count == 0)
      return;
    const at::Device device = sources.front().device();
    if (device.is_cpu()) {
      // The threads of training are not to wait for others that copy.
      c10::ParallelGuard alone(true);
      for (size_t at = 0; at < count; ++at)
        targets[at].copy_(sources[at]);
      return;
    }
    const c10::impl::VirtualGuardImpl gpu(device.type());
    gpu.setDevice(device);
    const auto before = gpu.exchangeStream(gpu.getStreamFromGlobalPool(device));
    c10::Event done(device.type());
    for (size_t at = 0; at < count; ++at)
      targets[at].copy_(sources[at], /*non_blocking=*/true);
    done.record(gpu.getStream(device));
    gpu.exchangeStream(before);
    // Waiting in the driver may take a core.
    while (!done.query())
      std::this_thread::sleep_for(std::chrono::microseconds(200));
  });
}
