#include "guarded.h"

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/Scalar.h>

#include <optional>
#include <string_view>

using distill::guarded;

namespace {

// The operator that PyTorch's compiler writes for CPUs; it has no function of its own in C++.
using Pointwise = at::Tensor(const at::Tensor &, const at::Tensor &,
                             const std::optional<at::Tensor> &, std::string_view,
                             c10::List<std::optional<at::Scalar>>,
                             std::optional<std::string_view>);

} // namespace

char *distill_linear_gelu(distill_tensor input, distill_tensor weight, distill_tensor bias,
                          distill_tensor *output) {
  return guarded([&] {
    const auto tensor = [](distill_tensor one) { return *static_cast<const at::Tensor *>(one); };
    static const auto pointwise = c10::Dispatcher::singleton()
                                      .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
                                      .typed<Pointwise>();
    *output = new at::Tensor(pointwise.call(tensor(input), tensor(weight), tensor(bias), "gelu",
                                            c10::List<std::optional<at::Scalar>>(), "none"));
  });
}
