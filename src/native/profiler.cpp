#include "profiler.h"
#include "guarded.h"

#include <ATen/record_function.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <memory>
#include <optional>
#include <set>

using distill::guarded;
namespace profiler = torch::profiler::impl;

namespace {

std::set<profiler::ActivityType> activities(bool gpu) {
  std::set<profiler::ActivityType> all{profiler::ActivityType::CPU};
  if (gpu)
    all.insert(profiler::ActivityType::CUDA);
  return all;
}

} // namespace

char *distill_profiler_begin(bool gpu) {
  return guarded([&] {
    const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO,
                                          /*report_input_shapes=*/true);
    torch::autograd::profiler::prepareProfiler(config, activities(gpu));
    torch::autograd::profiler::enableProfiler(
        config, activities(gpu),
        {at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION,
         at::RecordScope::USER_SCOPE});
  });
}

char *distill_profiler_end(const char *file) {
  return guarded([&] {
    const auto result = torch::autograd::profiler::disableProfiler();
    if (file)
      result->save(file);
  });
}

void *distill_profiler_part_begin(const char *name) {
  auto callbacks = at::getStepCallbacksUnlessEmpty(at::RecordScope::USER_SCOPE);
  if (!callbacks)
    return nullptr;
  auto part = std::make_unique<at::RecordFunction>(std::move(*callbacks));
  part->before(std::string(name));
  return part.release();
}

void distill_profiler_part_end(void *part) { delete static_cast<at::RecordFunction *>(part); }
