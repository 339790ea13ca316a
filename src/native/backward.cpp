#include "guarded.h"

#include <torch/csrc/autograd/autograd.h>

using distill::guarded;

char *distill_backward_from(distill_tensor output, distill_tensor gradient) {
  return guarded([&] {
    torch::autograd::backward({*static_cast<const at::Tensor *>(output)},
                              {*static_cast<const at::Tensor *>(gradient)});
  });
}
