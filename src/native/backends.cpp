#include "backends.h"

#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <cstdlib>
#include <cstring>
#include <memory>

namespace distill {
namespace {

using Backend = c10::intrusive_ptr<c10d::Backend>;

Backend over_gloo(const Member &member) {
  auto options = c10d::ProcessGroupGloo::Options::create(member.timeout);
  // The variable that PyTorch's users know.
  const char *interface = std::getenv("GLOO_SOCKET_IFNAME");
  options->devices.push_back(
      interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                : c10d::ProcessGroupGloo::createDeviceForHostname(member.address));
  c10d::StoreTimeoutGuard patience(*member.store, member.timeout);
  return c10::make_intrusive<c10d::ProcessGroupGloo>(member.store, member.rank, member.size, options);
}

Backend over_nccl(const Member &member) {
#ifdef USE_C10D_NCCL
  require_headers_of_libtorch();
  auto options = c10d::ProcessGroupNCCL::Options::create(/*is_high_priority_stream=*/true);
  // How long a collective may take is the heartbeats' business.
  options->timeout = std::chrono::hours(24 * 365);
  auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(member.store, member.rank, member.size,
                                                             options);
  // Here, where all have just met, and not with the first collective: a network that carries nothing
  // is found before minutes of loading, and rank 0, which others wait for here, is not late.
  c10d::StoreTimeoutGuard patience(*member.store, member.timeout);
  backend->eagerConnectSingleDevice(member.device);
  return backend;
#else
  TORCH_CHECK(false, "this build has no NCCL: it was made with a libtorch without CUDA, or without "
                     "NCCL's headers");
#endif
}

} // namespace

Backends &backends() {
  static Backends ours{
      [](at::Device device) { return device.is_cuda(); },
      [](const Member &member) {
        return member.device.is_cuda() ? over_nccl(member) : over_gloo(member);
      },
  };
  return ours;
}

void require_headers_of_libtorch() {
#ifdef USE_C10D_NCCL
  // The options hold NCCL's configuration by value, and libtorch's own code fills it in, as large and
  // as new as where libtorch was built: it says so itself. There is room if ours is smaller.
  using Options = c10d::ProcessGroupNCCL::Options;
  constexpr size_t room = 1 << 16;
  static_assert(sizeof(Options) < room);
  const std::unique_ptr<void, void (*)(void *)> memory(
      std::aligned_alloc(alignof(std::max_align_t), room), std::free);
  TORCH_CHECK(memory, "out of memory");
  std::memset(memory.get(), 0, room);
  // Not destroyed: where its end lies is what is not known. It holds nothing.
  const auto *theirs = new (memory.get()) Options();
  const auto code = [](unsigned version) {
    return c10::str(version / 10000, ".", version / 100 % 100, ".", version % 100);
  };
  TORCH_CHECK(theirs->config.size == sizeof(ncclConfig_t), "this build is not of libtorch's NCCL: it took headers "
              "of NCCL ", code(NCCL_VERSION_CODE), ", libtorch those of ", code(theirs->config.version),
              ", whose configuration is another (", sizeof(ncclConfig_t), " and ", theirs->config.size,
              " bytes): build again with libtorch's headers, which scripts/distill brings");
#endif
}

} // namespace distill
