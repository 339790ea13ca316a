// What carries the collectives of process groups: Gloo between CPUs, NCCL between GPUs.
#pragma once
#include <c10/core/Device.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <functional>
#include <string>

namespace distill {

// Who a process of a group is, and how it joins.
struct Member {
  c10::intrusive_ptr<c10d::Store> store;
  int rank;
  int size;
  at::Device device;
  // Where Gloo listens.
  std::string address;
  std::chrono::milliseconds timeout;
};

struct Backends {
  // Whether collectives on a device are queued there, as NCCL's are: no wait for one fails or holds up the
  // host, and only who asks learns of errors. Gloo's are done by threads of the host.
  std::function<bool(at::Device)> are_queued;
  // Returns when all are connected; for NCCL, that may be never.
  std::function<c10::intrusive_ptr<c10d::Backend>(const Member &)> connect;
};

// Those of this process. The program leaves them as they are; tests put a stand-in for NCCL's in their
// place (tests/stand_in), since no test machine has what makes NCCL fail.
Backends &backends();

// Whether NCCL's headers, with which this was compiled, have the layout of those of libtorch's build.
// Throws, naming both versions, if not.
void require_headers_of_libtorch();

} // namespace distill
