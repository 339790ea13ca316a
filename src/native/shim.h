// The C face of what `tch` does not bind. Tensors cross as `at::Tensor*`, the pointers that
// `tch::Tensor::as_ptr` gives. Every function returns null on success, else a message that the
// caller frees with `distill_free_message`; no C++ exception leaves this file pair.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

typedef void *distill_tensor;

void distill_free_message(char *message);

// One AdamW update of `count` parameters in a single fused kernel; `step` holds the number of
// this update (from 1) as a float32 scalar on the parameters' device. Where `skip`, another such
// scalar, is 1, nothing changes.
char *distill_fused_adamw(const distill_tensor *parameters, const distill_tensor *gradients,
                          const distill_tensor *first_moments,
                          const distill_tensor *second_moments, size_t count,
                          distill_tensor step, distill_tensor skip, double learning_rate, double beta1, double beta2,
                          double weight_decay, double eps);

// The Euclidean norm over all gradients together, as a new scalar tensor in `*norm`.
char *distill_gradient_norm(const distill_tensor *gradients, size_t count, distill_tensor *norm);

// Multiplies every gradient by the scalar tensor `factor`, in place.
char *distill_scale_gradients(const distill_tensor *gradients, size_t count,
                              distill_tensor factor);

// Forgets every parameter's gradient, so that the next backward pass writes instead of adding.
char *distill_clear_gradients(const distill_tensor *parameters, size_t count);

// Sets every parameter's gradient to zero, in the memory that it has.
char *distill_zero_gradients(const distill_tensor *parameters, size_t count);

// The backward pass from `output`, given its gradient.
char *distill_backward_from(distill_tensor output, distill_tensor gradient);

// Gives memory that was freed in the middle of the heap back to the system.
void distill_trim_heap();

// Ends the process at once: no destructors, no other threads waited for.
[[noreturn]] void distill_exit_now(int code);
}
