#include "c10d.h"
#include "backends.h"
#include "guarded.h"

#include <ATen/ops/empty.h>
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <optional>
#include <string>

using c10::intrusive_ptr;
using distill::guarded;
using std::chrono::milliseconds;

namespace {

using Store = intrusive_ptr<c10d::Store>;

// A collective under way.
struct Work {
  intrusive_ptr<c10d::Work> begun;
  bool is_queued = false;
};

// The collective that was begun last, by whichever thread: who has its state has NCCL's.
class Latest {
public:
  void remember(const intrusive_ptr<c10d::Work> &work) {
    std::lock_guard<std::mutex> lock(mutex_);
    work_ = work;
  }

  intrusive_ptr<c10d::Work> get() {
    std::lock_guard<std::mutex> lock(mutex_);
    return work_;
  }

private:
  std::mutex mutex_;
  intrusive_ptr<c10d::Work> work_;
};

struct Group {
  intrusive_ptr<c10d::ProcessGroup> processes;
  intrusive_ptr<c10d::Backend> backend;
  bool is_queued;
  std::shared_ptr<Latest> latest = std::make_shared<Latest>();

  Work remember(const intrusive_ptr<c10d::Work> &begun) const {
    latest->remember(begun);
    return {begun, is_queued};
  }
};

Store &store_of(distill_store store) { return *static_cast<Store *>(store); }
Group &group_of(distill_group group) { return *static_cast<Group *>(group); }
// Some of libtorch's destructors throw.
template <typename Owned> void release(Owned *owned) {
  if (char *message = guarded([&] { delete owned; }))
    distill_free_message(message);
}

at::Tensor tensor_of(distill_tensor tensor) { return *static_cast<const at::Tensor *>(tensor); }

// NCCL's work is ordered on the GPU: waiting for it never blocks the host. Gloo's is done by other
// threads of the CPU, and waited for in short turns, so that the caller can look around in between.
bool wait_for(const Work &work, milliseconds patience) {
  if (!work.is_queued && !work.begun->isCompleted()) {
    try {
      work.begun->wait(patience);
    } catch (...) {
      // It may have been completed since its time was up; whether it failed is told below.
      if (!work.begun->isCompleted())
        return false;
    }
  }
  work.begun->wait();
  return true;
}

// A collective under way, and where its result goes if it travels in another number format.
struct Flight {
  Work work;
  at::Tensor bucket;
  std::optional<at::Tensor> wire;
};

// Sends each bucket when it is full, and lets the backward pass go on: the Reducer gets a finished
// future, and who needs the gradients waits for the flights. So the last buckets of one model
// travel while the next model computes, where DistributedDataParallel waits at the end of each
// backward pass.
class Exchange : public c10d::CommHookInterface {
public:
  Exchange(const Group &group, bool bfloat16, bool scatter)
      : group_(group), bfloat16_(bfloat16), scatter_(scatter) {}

  intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket &bucket) override {
    at::AutoDispatchBelowADInplaceOrView outside_of_the_graph;
    at::Tensor buffer = bucket.getBufferRef();
    std::optional<at::Tensor> wire;
    if (bfloat16_)
      wire = buffer.to(at::kBFloat16);
    try {
      send(buffer, wire);
      take_what_arrived();
    } catch (...) {
      // Told to who waits for the gradients, who can find out which process is to blame.
      failure_ = std::current_exception();
    }
    ++sent, ++sent_in_pass_;
    early += !bucket.isLast();
    std::vector<c10::Device> devices;
    if (buffer.is_cuda())
      devices.push_back(buffer.device());
    auto future =
        c10::make_intrusive<c10::ivalue::Future>(c10::TensorType::get(), std::move(devices));
    future->markCompleted(c10::IValue(buffer));
    return future;
  }

  at::Tensor parseHookResult(const c10::IValue &result) override { return result.toTensor(); }

  // Of a backward pass that is to send `buckets`.
  void expect(uint64_t buckets) {
    buckets_ = buckets;
    sent_in_pass_ = 0;
  }

  bool wait(milliseconds patience) {
    if (failure_)
      std::rethrow_exception(failure_);
    TORCH_CHECK(sent_in_pass_ == buckets_, "only ", sent_in_pass_, " of ", buckets_,
                " buckets of gradients were sent: a parameter got no gradient");
    const auto end = std::chrono::steady_clock::now() + patience;
    while (!flights_.empty()) {
      auto &flight = flights_.front();
      const auto left = std::chrono::duration_cast<milliseconds>(
          end - std::chrono::steady_clock::now());
      if (!wait_for(flight.work, std::max(left, milliseconds(1))))
        return false;
      land();
    }
    return true;
  }

  uint64_t sent = 0, early = 0, bytes = 0;

private:
  // The first flight's sums are where they belong, and its copy in another format goes.
  void land() {
    auto &flight = flights_.front();
    if (flight.wire)
      flight.bucket.copy_(*flight.wire);
    flights_.pop_front();
  }

  // Else the copies of all buckets would be held at once: for 2 billion parameters, 4 GB.
  void take_what_arrived() {
    while (bfloat16_ && !flights_.empty() && flights_.front().work.begun->isCompleted()) {
      flights_.front().work.begun->wait();
      land();
    }
  }

  void send(const at::Tensor &buffer, const std::optional<at::Tensor> &wire) {
    // Gloo has no reduce-scatter of its own: libtorch does an all-reduce of a copy in its place,
    // which can be waited for in one piece only.
    const bool scatter = scatter_ && group_.is_queued;
    const auto &backend = group_.backend;
    const int64_t size = backend->getSize(), share = scatter ? buffer.numel() / size : 0;
    const auto part = [&](int64_t start, int64_t length) {
      return std::make_pair(buffer.narrow(0, start, length),
                            wire ? std::optional(wire->narrow(0, start, length)) : std::nullopt);
    };
    if (share > 0) {
      auto [mine, mine_on_wire] = part(share * backend->getRank(), share);
      at::Tensor output = mine_on_wire.value_or(mine);
      at::Tensor input = wire.value_or(buffer).narrow(0, 0, share * size);
      auto work = group_.remember(backend->_reduce_scatter_base(output, input));
      flights_.push_back({work, mine, mine_on_wire});
    }
    // What does not divide evenly, fewer numbers than processes, is everybody's.
    if (const int64_t rest = buffer.numel() - share * size; rest > 0) {
      auto [bucket, on_wire] = part(share * size, rest);
      std::vector<at::Tensor> tensors{on_wire.value_or(bucket)};
      flights_.push_back({group_.remember(backend->allreduce(tensors)), bucket, on_wire});
    }
    bytes += buffer.numel() * (wire ? 2 : buffer.element_size());
  }

  Group group_;
  bool bfloat16_, scatter_;
  uint64_t buckets_ = 0, sent_in_pass_ = 0;
  std::deque<Flight> flights_;
  std::exception_ptr failure_;
};

struct Reducer {
  std::vector<at::Tensor> parameters;
  Exchange *exchange; // owned by `engine`
  std::unique_ptr<c10d::Reducer> engine;
  uint64_t buckets = 0;
};

Reducer &reducer_of(distill_reducer reducer) { return *static_cast<Reducer *>(reducer); }

// c10d logs lost connections with C++ stacks; what they mean is said by Rust.
void quieten_once() {
  static std::once_flag done;
  std::call_once(done, [] {
    distill_prepare_environment();
    if (std::getenv("TORCH_CPP_LOG_LEVEL"))
      c10::initLogging();
    else
      FLAGS_caffe2_log_level = c10::GLOG_FATAL;
  });
}

constexpr milliseconds no_limit = std::chrono::hours(24 * 365);

at::Device device_of(int64_t cuda) {
  return cuda < 0 ? at::Device(at::kCPU)
                  : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(cuda));
}

} // namespace

bool distill_collectives_are_queued(int64_t cuda) {
  return distill::backends().are_queued(device_of(cuda));
}

char *distill_nccl_headers_check(void) {
  return guarded([] { distill::require_headers_of_libtorch(); });
}

void distill_prepare_environment() {
  const auto unless_set = [](const char *name, const char *value) {
    setenv(name, value, /*overwrite=*/0);
  };
  // c10d records its last collectives for a debugger that needs Python, in a list that only one thread
  // may use.
  unless_set("TORCH_FR_BUFFER_SIZE", "0");
  // A process that NCCL's watchdog or its monitor ends dies with a C++ stack, or without a word. Dead
  // and hung ranks are this program's business (src/dist/heartbeat/), which ends with a message that
  // names them.
  for (const char *name :
       {"TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_RETHROW_CUDA_ERRORS",
        "TORCH_NCCL_ENABLE_MONITORING", "TORCH_NCCL_DUMP_ON_TIMEOUT",
        "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC"})
    unless_set(name, "0");
  // Where there is no GPU, its profiler would say so, as an error.
  unless_set("KINETO_LOG_LEVEL", "5");
  // Waiting for a collective must not block the host, which could then not look around.
  setenv("TORCH_NCCL_BLOCKING_WAIT", "0", /*overwrite=*/1);
}

void distill_set_variable(const char *name, const char *value) {
  setenv(name, value, /*overwrite=*/0);
}

char *distill_store_open(const char *host, uint16_t port, bool serve, int64_t timeout_ms,
                         distill_store *store) {
  return guarded([&] {
    quieten_once();
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serve;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    const auto opened = c10::make_intrusive<c10d::TCPStore>(host, options);
    // Who keeps the store may be stopped for a while: how long is the heartbeats' business.
    opened->setTimeout(no_limit);
    *store = new Store(opened);
  });
}

char *distill_store_prefixed(distill_store store, const char *prefix, distill_store *prefixed) {
  return guarded([&] {
    *prefixed = new Store(c10::make_intrusive<c10d::PrefixStore>(prefix, store_of(store)));
  });
}

char *distill_store_set(distill_store store, const char *key, const uint8_t *bytes,
                        size_t length) {
  return guarded([&] { store_of(store)->set(key, std::vector<uint8_t>(bytes, bytes + length)); });
}

char *distill_store_has(distill_store store, const char *key, bool *there) {
  return guarded([&] { *there = store_of(store)->check({key}); });
}

char *distill_store_get(distill_store store, const char *key, char **bytes, size_t *length) {
  return guarded([&] {
    const auto value = store_of(store)->get(key);
    *length = value.size();
    *bytes = static_cast<char *>(std::malloc(value.size() + 1));
    std::copy(value.begin(), value.end(), *bytes);
  });
}

char *distill_store_delete(distill_store store, const char *key) {
  return guarded([&] { store_of(store)->deleteKey(key); });
}

char *distill_store_add(distill_store store, const char *key, int64_t *sum) {
  return guarded([&] { *sum = store_of(store)->add(key, 1); });
}

void distill_store_free(distill_store store) { release(static_cast<Store *>(store)); }

char *distill_group_create(distill_store store, int rank, int size, int64_t cuda,
                           const char *address, int64_t timeout_ms, distill_group *group) {
  return guarded([&] {
    const auto &meeting = store_of(store);
    const auto device = device_of(cuda);
    auto processes = c10::make_intrusive<c10d::ProcessGroup>(meeting, rank, size);
    auto backend = distill::backends().connect(
        {meeting, rank, size, device, address, milliseconds(timeout_ms)});
    using Type = c10d::ProcessGroup::BackendType;
    const Type type = device.is_cuda() ? Type::NCCL : Type::GLOO;
    processes->setBackend(device.type(), type, backend);
    processes->setDefaultBackend(type);
    *group = new Group{std::move(processes), std::move(backend),
                       distill::backends().are_queued(device)};
  });
}

char *distill_group_all_reduce(distill_group group, distill_tensor tensor, bool max,
                               distill_work *work) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{tensor_of(tensor)};
    c10d::AllreduceOptions options;
    options.reduceOp = max ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM;
    const auto &all = group_of(group);
    *work = new Work(all.remember(all.backend->allreduce(tensors, options)));
  });
}

char *distill_group_all_gather(distill_group group, distill_tensor whole, distill_tensor part,
                               distill_work *work) {
  return guarded([&] {
    auto output = tensor_of(whole), input = tensor_of(part);
    const auto &all = group_of(group);
    *work = new Work(all.remember(all.backend->_allgather_base(output, input)));
  });
}

char *distill_group_check(distill_group group) {
  return guarded([&] {
    const auto latest = group_of(group).latest->get();
    // Asking whether it is done asks NCCL for errors.
    if (latest && latest->isCompleted() && latest->exception())
      std::rethrow_exception(latest->exception());
  });
}

char *distill_group_abort(distill_group group) {
  return guarded([&] { group_of(group).backend->abort(); });
}

void distill_group_free(distill_group group) { release(static_cast<Group *>(group)); }

char *distill_work_wait(distill_work work, int64_t timeout_ms, bool *done) {
  return guarded([&] {
    *done = wait_for(*static_cast<Work *>(work), milliseconds(timeout_ms));
  });
}

void distill_work_free(distill_work work) { release(static_cast<Work *>(work)); }

char *distill_reducer_create(distill_group group, const distill_tensor *parameters, size_t count,
                             size_t bucket_bytes, bool bfloat16, bool scatter,
                             distill_reducer *reducer) {
  return guarded([&] {
    auto made = std::make_unique<Reducer>();
    made->parameters = distill::list(parameters, count);
    // Backward passes reach the parameters in about the opposite order of their making, and the
    // first bucket is small, so that something is soon under way.
    std::vector<at::Tensor> tensors(made->parameters.rbegin(), made->parameters.rend());
    const std::vector<size_t> limits{
        std::min<size_t>(bucket_bytes, c10d::kDefaultFirstBucketBytes), bucket_bytes};
    auto buckets = std::get<0>(c10d::compute_bucket_assignment_by_size(tensors, limits));
    made->engine = std::make_unique<c10d::Reducer>(
        std::move(tensors), std::move(buckets), group_of(group).processes,
        std::vector<bool>(count, false), static_cast<int64_t>(bucket_bytes),
        /*find_unused_parameters=*/false, /*gradient_as_bucket_view=*/true,
        std::unordered_map<size_t, std::string>(), static_cast<int64_t>(limits[0]),
        /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false,
        std::vector<int64_t>());
    auto exchange = std::make_unique<Exchange>(group_of(group), bfloat16, scatter);
    made->exchange = exchange.get();
    made->engine->register_comm_hook(std::move(exchange));
    // The engine keeps a list of parameters as their gradients come, until it orders its buckets by
    // it, once. This gives it the order at the beginning: else that list grows for ever, and buckets
    // would change after optimizer state was divided by them.
    made->engine->push_rebuilt_params_for_all_indices();
    made->engine->rebuild_buckets();
    // Gradients are added up in the buckets from the first pass on: no other memory is taken for them.
    for (auto &bucket : made->engine->get_grad_buckets(/*return_zero_tensors=*/false)) {
      bucket.getBufferRef().zero_();
      const auto members = bucket.getParameters(), views = bucket.getGradients();
      for (size_t place = 0; place < members.size(); ++place)
        members[place].mutable_grad() = views[place];
      ++made->buckets;
    }
    *reducer = made.release();
  });
}

char *distill_reducer_layout(distill_reducer reducer, size_t *bucket, size_t *position) {
  return guarded([&] {
    const auto &parameters = reducer_of(reducer).parameters;
    for (const auto &filled : reducer_of(reducer).engine->get_grad_buckets(false)) {
      const auto members = filled.getParameters();
      for (size_t place = 0; place < members.size(); ++place) {
        const auto found = std::find_if(parameters.begin(), parameters.end(),
                                        [&](auto &one) { return one.is_same(members[place]); });
        TORCH_CHECK(found != parameters.end(), "a bucket holds an unknown parameter");
        bucket[found - parameters.begin()] = filled.getIndex();
        position[found - parameters.begin()] = place;
      }
    }
  });
}

char *distill_reducer_expect(distill_reducer reducer) {
  return guarded([&] {
    auto &[parameters, exchange, engine, buckets] = reducer_of(reducer);
    exchange->expect(buckets);
    engine->prepare_for_forward();
    engine->prepare_for_backward({});
  });
}

char *distill_reducer_wait(distill_reducer reducer, int64_t timeout_ms, bool *done) {
  return guarded(
      [&] { *done = reducer_of(reducer).exchange->wait(milliseconds(timeout_ms)); });
}

void distill_reducer_statistics(distill_reducer reducer, uint64_t *early, uint64_t *all,
                                uint64_t *bytes) {
  const auto &exchange = *reducer_of(reducer).exchange;
  *early = exchange.early;
  *all = exchange.sent;
  *bytes = exchange.bytes;
}

void distill_reducer_free(distill_reducer reducer) { release(static_cast<Reducer *>(reducer)); }
