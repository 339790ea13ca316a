#include "guarded.h"

#include <ATen/ops/native_layer_norm_backward.h>
#include <torch/csrc/autograd/autograd.h>

using distill::guarded;

char *distill_backward_from(distill_tensor output, distill_tensor gradient) {
  return guarded([&] {
    torch::autograd::backward({*static_cast<const at::Tensor *>(output)},
                              {*static_cast<const at::Tensor *>(gradient)});
  });
}

char *distill_layer_norm_backward(distill_tensor gradient, distill_tensor input, distill_tensor mean,
                                  distill_tensor inverse_deviation, distill_tensor weight,
                                  distill_tensor bias, distill_tensor *results) {
  return guarded([&] {
    const auto tensor = [](distill_tensor one) { return *static_cast<const at::Tensor *>(one); };
    const auto found = at::native_layer_norm_backward(
        tensor(gradient), tensor(input), tensor(weight).sizes(), tensor(mean),
        tensor(inverse_deviation), tensor(weight), tensor(bias), {true, true, true});
    results[0] = new at::Tensor(std::get<0>(found));
    results[1] = new at::Tensor(std::get<1>(found));
    results[2] = new at::Tensor(std::get<2>(found));
  });
}
