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

// A backward pass of the caller's own: of `output_count` gradients, null where there is none and else the
// callee's to free, it makes those of the inputs, new tensors or null, and consumes `state`. Where it fails it
// says why in `message` and returns false.
typedef bool (*distill_backward)(void *state, const distill_tensor *gradients, size_t output_count,
                                 distill_tensor *results, size_t input_count, char *message,
                                 size_t length);
// Frees the `state` of a backward pass that will not run.
typedef void (*distill_release)(void *state);

// Makes `outputs`, which have no history, what follows from `inputs` by way of `backward`. Takes `state` over,
// also where it fails.
char *distill_attach(const distill_tensor *inputs, size_t input_count,
                     const distill_tensor *outputs, size_t output_count, distill_backward backward,
                     distill_release release, void *state);

// Whether operators of this thread are recorded for a backward pass.
bool distill_grad_mode();

// The backward pass of LayerNorm over the last dimension: gradients of input, weight and bias, given those of
// the output, and what the forward pass had.
char *distill_layer_norm_backward(distill_tensor gradient, distill_tensor input, distill_tensor mean,
                                  distill_tensor inverse_deviation, distill_tensor weight,
                                  distill_tensor bias, distill_tensor *results);

// Gives memory that was freed in the middle of the heap back to the system.
void distill_trim_heap();

// Ends the process at once: no destructors, no other threads waited for.
[[noreturn]] void distill_exit_now(int code);

// GELU (by the error function) of input · weightᵀ + bias in `*output`, on the CPU, without history.
char *distill_linear_gelu(distill_tensor input, distill_tensor weight, distill_tensor bias,
                          distill_tensor *output);
}
