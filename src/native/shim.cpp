#include "guarded.h"

#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include <cstdlib>
#include <malloc.h>
#include <unistd.h>

using distill::guarded;
using distill::list;

void distill_free_message(char *message) { std::free(message); }

char *distill_fused_adamw(const distill_tensor *parameters, const distill_tensor *gradients,
                          const distill_tensor *first_moments,
                          const distill_tensor *second_moments, size_t count,
                          distill_tensor step, distill_tensor skip, double learning_rate, double beta1, double beta2,
                          double weight_decay, double eps) {
  return guarded([&] {
    auto weights = list(parameters, count);
    auto grads = list(gradients, count);
    auto first = list(first_moments, count);
    auto second = list(second_moments, count);
    std::vector<at::Tensor> steps(count, *static_cast<const at::Tensor *>(step));
    at::_fused_adamw_(weights, grads, first, second, /*max_exp_avg_sqs=*/{}, steps, learning_rate,
                      beta1, beta2, weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false,
                      /*grad_scale=*/{}, *static_cast<const at::Tensor *>(skip));
  });
}

char *distill_gradient_norm(const distill_tensor *gradients, size_t count, distill_tensor *norm) {
  return guarded([&] {
    auto norms = at::_foreach_norm(list(gradients, count));
    *norm = new at::Tensor(at::linalg_vector_norm(at::stack(norms)));
  });
}

char *distill_scale_gradients(const distill_tensor *gradients, size_t count,
                              distill_tensor factor) {
  return guarded([&] {
    auto grads = list(gradients, count);
    at::_foreach_mul_(grads, *static_cast<const at::Tensor *>(factor));
  });
}

char *distill_clear_gradients(const distill_tensor *parameters, size_t count) {
  return guarded([&] {
    for (auto &parameter : list(parameters, count))
      parameter.mutable_grad() = at::Tensor();
  });
}

char *distill_zero_gradients(const distill_tensor *parameters, size_t count) {
  return guarded([&] {
    std::vector<at::Tensor> gradients;
    for (const auto &parameter : list(parameters, count))
      if (parameter.grad().defined())
        gradients.push_back(parameter.grad());
    if (!gradients.empty())
      at::_foreach_zero_(gradients);
  });
}

void distill_trim_heap() { malloc_trim(0); }

void distill_exit_now(int code) { _exit(code); }
