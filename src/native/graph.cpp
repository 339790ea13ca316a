#include "graph.h"
#include "guarded.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#ifdef USE_C10D_NCCL
#include <ATen/cuda/CUDAGraph.h>
#endif

#include <memory>

using distill::guarded;

namespace {

struct SideStream {
  c10::Stream before;
  c10::Stream side;
};

// What `first` was told so far comes before what `then` will be told.
void order(const c10::Stream &first, const c10::Stream &then) {
  c10::Event event(at::kCUDA);
  event.record(first);
  event.block(then);
}

#ifndef USE_C10D_NCCL
[[noreturn]] void refuse() {
  TORCH_CHECK(false, "this build has no CUDA graphs: it was made without CUDA's headers");
}
#endif

} // namespace

char *distill_current_stream(int64_t cuda, void **stream) {
  return guarded([&] {
    const at::Device gpu(at::kCUDA, static_cast<c10::DeviceIndex>(cuda));
    *stream = c10::impl::VirtualGuardImpl(at::kCUDA).getStream(gpu).native_handle();
  });
}

char *distill_side_stream_enter(int64_t cuda, distill_side_stream *side) {
  return guarded([&] {
    const at::Device gpu(at::kCUDA, static_cast<c10::DeviceIndex>(cuda));
    const c10::impl::VirtualGuardImpl device(at::kCUDA);
    // One of libtorch's pool: what is recorded may not be in the default stream.
    auto streams = std::make_unique<SideStream>(
        SideStream{device.getStream(gpu), device.getStreamFromGlobalPool(gpu)});
    order(streams->before, streams->side);
    device.exchangeStream(streams->side);
    *side = streams.release();
  });
}

char *distill_side_stream_leave(distill_side_stream side) {
  return guarded([&] {
    const std::unique_ptr<SideStream> streams(static_cast<SideStream *>(side));
    // First, so that it holds even where the GPU has failed.
    c10::impl::VirtualGuardImpl(at::kCUDA).exchangeStream(streams->before);
    order(streams->side, streams->before);
  });
}

char *distill_release_cached_memory() {
  return guarded([&] { c10::getDeviceAllocator(at::kCUDA)->emptyCache(); });
}

#ifdef USE_C10D_NCCL

char *distill_graph_begin(distill_graph sharing, distill_graph *graph) {
  return guarded([&] {
    auto begun = std::make_unique<at::cuda::CUDAGraph>();
    const auto pool =
        sharing ? static_cast<at::cuda::CUDAGraph *>(sharing)->pool() : at::MempoolId_t{0, 0};
    // Other threads of this process go on as they are: NCCL's, and those that ask events.
    begun->capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    *graph = begun.release();
  });
}

char *distill_graph_end(distill_graph graph) {
  return guarded([&] { static_cast<at::cuda::CUDAGraph *>(graph)->capture_end(); });
}

char *distill_graph_replay(distill_graph graph) {
  return guarded([&] { static_cast<at::cuda::CUDAGraph *>(graph)->replay(); });
}

void distill_graph_free(distill_graph graph) {
  // libtorch only warns where a graph cannot be destroyed.
  delete static_cast<at::cuda::CUDAGraph *>(graph);
}

#else

char *distill_graph_begin(distill_graph, distill_graph *) { return guarded(refuse); }
char *distill_graph_end(distill_graph) { return guarded(refuse); }
char *distill_graph_replay(distill_graph) { return guarded(refuse); }
void distill_graph_free(distill_graph) {}

#endif
