#include "guarded.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

using distill::guarded;
using torch::autograd::variable_list;

namespace {

// A place in the graph whose backward pass is somebody else's function. It runs once.
class ForeignNode : public torch::autograd::Node {
public:
  ForeignNode(distill_backward backward, distill_release release, void *state)
      : backward_(backward), release_(release), state_(state) {}
  ~ForeignNode() override { forget(); }

  variable_list apply(variable_list &&gradients) override {
    TORCH_CHECK(state_ != nullptr, "a backward pass went twice through the same part of a model");
    std::vector<distill_tensor> given, found(num_outputs(), nullptr);
    for (auto &gradient : gradients)
      given.push_back(gradient.defined() ? new at::Tensor(std::move(gradient)) : nullptr);
    char message[1024] = "";
    const bool worked = backward_(std::exchange(state_, nullptr), given.data(), given.size(),
                                  found.data(), found.size(), message, sizeof message);
    TORCH_CHECK(worked, message);
    variable_list results;
    for (const auto one : found) {
      const std::unique_ptr<at::Tensor> tensor(static_cast<at::Tensor *>(one));
      results.push_back(tensor ? std::move(*tensor) : at::Tensor());
    }
    return results;
  }

  void release_variables() override { forget(); }

private:
  void forget() {
    if (state_ != nullptr)
      release_(std::exchange(state_, nullptr));
  }

  distill_backward backward_;
  distill_release release_;
  void *state_;
};

} // namespace

char *distill_attach(const distill_tensor *inputs, size_t input_count,
                     const distill_tensor *outputs, size_t output_count, distill_backward backward,
                     distill_release release, void *state) {
  auto node = std::shared_ptr<ForeignNode>(new ForeignNode(backward, release, state),
                                           torch::autograd::deleteNode);
  return guarded([&] {
    node->set_next_edges(torch::autograd::collect_next_edges(distill::list(inputs, input_count)));
    for (auto &output : distill::list(outputs, output_count))
      torch::autograd::set_history(output, node);
  });
}

bool distill_grad_mode() { return c10::GradMode::is_enabled(); }
