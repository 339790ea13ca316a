// What the shim's files share: exceptions as messages, lists of tensors.
#pragma once
#include "shim.h"

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>

#include <cstring>
#include <exception>
#include <vector>

namespace distill {

inline std::vector<at::Tensor> list(const distill_tensor *tensors, size_t count) {
  std::vector<at::Tensor> out;
  out.reserve(count);
  for (size_t i = 0; i < count; ++i)
    out.push_back(*static_cast<const at::Tensor *>(tensors[i]));
  return out;
}

// Runs `body`; an exception becomes its message without the C++ stack.
template <typename Body> char *guarded(Body body) {
  try {
    c10::AutoGradMode without_gradients(false);
    body();
    return nullptr;
  } catch (const c10::Error &error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception &error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception of unknown type");
  }
}

} // namespace distill
