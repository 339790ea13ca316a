#include "backends.h"

#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

struct Faults {
  bool connects;
  int64_t queue;
  int64_t failing_rank;
  milliseconds error_after;
  std::string error;
  milliseconds abort;
};

// A collective on the queue of a device: no wait fails or blocks, and whether it failed is told to who
// asks whether it is done.
class QueuedWork : public c10d::Work {
public:
  QueuedWork(const Faults &faults, bool fails) : faults_(faults), fails_(fails) {}

  bool isCompleted() override { return is_failed(); }
  bool isSuccess() const override { return !is_failed(); }
  bool wait(milliseconds) override { return true; }
  std::exception_ptr exception() const override {
    if (!is_failed())
      return nullptr;
    return std::make_exception_ptr(std::runtime_error(faults_.error));
  }

private:
  bool is_failed() const { return fails_ && steady_clock::now() - begun_ >= faults_.error_after; }

  Faults faults_;
  bool fails_;
  steady_clock::time_point begun_ = steady_clock::now();
};

class StandIn : public c10d::Backend {
public:
  StandIn(int rank, int size, const Faults &faults) : Backend(rank, size), faults_(faults) {}

  const std::string getBackendName() const override { return "stand-in"; }

  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor> &,
                                           const c10d::AllreduceOptions &) override {
    return begin();
  }

  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor> &,
                                           const c10d::BroadcastOptions &) override {
    return begin();
  }

  c10::intrusive_ptr<c10d::Work> _allgather_base(at::Tensor &, at::Tensor &,
                                                 const c10d::AllgatherOptions &) override {
    return begin();
  }

  c10::intrusive_ptr<c10d::Work> _reduce_scatter_base(at::Tensor &, at::Tensor &,
                                                      const c10d::ReduceScatterOptions &) override {
    return begin();
  }

  void abort() override {
    std::this_thread::sleep_for(faults_.abort);
    std::lock_guard<std::mutex> lock(mutex_);
    is_aborted_ = true;
    changed_.notify_all();
  }

private:
  c10::intrusive_ptr<c10d::Work> begin() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return is_aborted_ || begun_ < faults_.queue; });
    TORCH_CHECK(!is_aborted_, "NCCL communicator was aborted on rank ", rank_, ".");
    ++begun_;
    return c10::make_intrusive<QueuedWork>(faults_, faults_.failing_rank == rank_);
  }

  Faults faults_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t begun_ = 0;
  bool is_aborted_ = false;
};

} // namespace

extern "C" void distill_stand_in_install(bool connects, int64_t queue, int64_t failing_rank,
                                         int64_t error_after_ms, const char *error,
                                         int64_t abort_ms) {
  const Faults faults{connects,       queue, failing_rank, milliseconds(error_after_ms), error,
                      milliseconds(abort_ms)};
  auto &backends = distill::backends();
  backends.are_queued = [](at::Device) { return true; };
  backends.connect = [faults](const distill::Member &member) {
    while (!faults.connects)
      std::this_thread::sleep_for(std::chrono::seconds(1));
    return c10::make_intrusive<StandIn>(member.rank, member.size, faults);
  };
}
