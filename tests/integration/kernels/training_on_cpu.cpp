// Runs a kernel of src/native/kernels/training.cu on the CPU, and sum_parts after those that leave parts:
//     training_on_cpu KERNEL BATCH TOKENS DIM IMAGES BRANCH GROUPS_X GROUPS_Y THREADS EPS GIVEN < NUMBERS > NUMBERS
// Tensors come in and go out in the order in which the kernel names them; GIVEN names, by letters, those that may
// be missing: b(ranch), f(actors), s(um's gradient), p(laces), q (the branch's places), e(4m3 behind the rest).
#include "cuda_on_cpu.h"
#include "memory.h"

#include KERNELS_ROWS
#include KERNELS_TRAINING

#include <string>

namespace {

const float *floats(const Memory &memory) { return reinterpret_cast<const float *>(memory.bytes); }
float *floats(Memory &memory) { return reinterpret_cast<float *>(memory.bytes); }

// Sums parts [count, width] and writes the total.
void write_total(const Memory &parts, unsigned count, unsigned width) {
  Memory total(size_t(width) * 4);
  launch({(width + 31) / 32, 1}, 256,
         [&] { sum_parts(floats(parts), floats(total), count, width); });
  total.write();
}

} // namespace

int main(int count, char **arguments) {
  if (count != 12)
    return 2;
  const std::string kernel = arguments[1], given = arguments[11];
  const auto number = [&](int at) { return static_cast<unsigned>(std::stoul(arguments[at])); };
  const unsigned batch = number(2), tokens = number(3), dim = number(4), images = number(5);
  const unsigned branch_images = number(6), threads = number(9);
  const Index groups{number(7), number(8)};
  const float eps = std::stof(arguments[10]);
  const unsigned rows = batch * tokens;
  const size_t numbers = size_t(rows) * dim;
  const auto has = [&](char letter) { return given.find(letter) != given.npos; };

  if (kernel == "join_and_normalise" || kernel == "join_and_normalise_backward") {
    const bool backward = kernel != "join_and_normalise";
    const size_t of_output = size_t(images) * tokens * dim, of_branch = size_t(branch_images) * tokens * dim;
    Memory stream(numbers * 4), branch(of_branch * 2), factors(batch * 4), branch_places(batch * 4);
    Memory places(batch * 4), weight(dim * 4), bias(dim * 4), sum(numbers * 4), output(of_output * 2);
    Memory statistics(size_t(images) * tokens * 8), of_sum(numbers * 4);
    Memory rounded(of_output), scales(size_t(images) * tokens * 4);
    const auto addresses = [&] {
      if (has('f'))
        factors.read();
      if (has('q'))
        branch_places.read();
      if (has('p'))
        places.read();
      weight.read();
    };
    const auto ints = [&](const Memory &memory, char letter) {
      return has(letter) ? reinterpret_cast<const int *>(memory.bytes) : nullptr;
    };
    const float *by = nullptr;
    if (!backward) {
      stream.read();
      if (has('b'))
        branch.read();
      addresses();
      bias.read();
      by = has('f') ? floats(factors) : nullptr;
      launch({rows, 1}, threads, [&] {
        join_and_normalise(stream.bytes, has('b') ? branch.bytes : nullptr, by, ints(branch_places, 'q'),
                           ints(places, 'p'), weight.bytes, bias.bytes, sum.bytes, output.bytes,
                           floats(statistics), has('e') ? rounded.bytes : nullptr,
                           has('e') ? floats(scales) : nullptr, tokens, dim, eps);
      });
      if (has('b'))
        sum.write();
      output.write();
      statistics.write();
      if (has('e')) {
        rounded.write();
        scales.write();
      }
      return 0;
    }
    output.read();
    if (has('s'))
      of_sum.read();
    sum.read();
    statistics.read();
    addresses();
    by = has('f') ? floats(factors) : nullptr;
    Memory parts(size_t(groups.x) * 3 * dim * 4);
    launch(groups, threads, [&] {
      join_and_normalise_backward(output.bytes, has('s') ? of_sum.bytes : nullptr, sum.bytes,
                                  floats(statistics), weight.bytes, by, ints(branch_places, 'q'),
                                  ints(places, 'p'), stream.bytes, has('b') ? branch.bytes : nullptr,
                                  parts.bytes, rows, tokens, dim);
    });
    stream.write();
    if (has('b'))
      branch.write();
    write_total(parts, groups.x, 3 * dim);
    return 0;
  }

  if (kernel == "rounded_weight") {
    Memory weight(numbers * 4), row_maxima(rows * 4), column_maxima(dim * 4);
    Memory straight(numbers), turned(numbers), row_scales(rows * 4), column_scales(dim * 4);
    std::memset(row_maxima.bytes, 0, row_maxima.size);
    std::memset(column_maxima.bytes, 0, column_maxima.size);
    const auto maxima = [](Memory &memory) { return reinterpret_cast<unsigned *>(memory.bytes); };
    weight.read();
    launch(groups, threads, [&] {
      weight_maxima(weight.bytes, maxima(row_maxima), maxima(column_maxima), rows, dim);
    });
    launch(groups, threads, [&] {
      weight_e4m3(weight.bytes, maxima(row_maxima), maxima(column_maxima), straight.bytes,
                  turned.bytes, floats(row_scales), floats(column_scales), rows, dim);
    });
    straight.write();
    row_scales.write();
    turned.write();
    column_scales.write();
    return 0;
  }

  Memory input(numbers * 2), gradient(numbers * 2), output(numbers * 2);
  if (kernel == "gelu") {
    input.read();
    launch(groups, threads, [&] { gelu(input.bytes, output.bytes, numbers / 8); });
    output.write();
    return 0;
  }
  if (kernel == "round_e4m3" || kernel == "gelu_and_round") {
    Memory rounded(numbers), scales(rows * 4);
    input.read();
    launch(groups, threads, [&] {
      if (kernel == "round_e4m3")
        round_e4m3(input.bytes, rounded.bytes, floats(scales), dim);
      else
        gelu_and_round(input.bytes, output.bytes, rounded.bytes, floats(scales), dim);
    });
    if (kernel == "gelu_and_round")
      output.write();
    rounded.write();
    scales.write();
    return 0;
  }
  Memory parts(size_t(groups.y) * dim * 4);
  if (kernel == "gelu_backward") {
    gradient.read();
    input.read();
    launch(groups, threads, [&] {
      gelu_backward(gradient.bytes, input.bytes, output.bytes, parts.bytes, rows, dim);
    });
    output.write();
  } else {
    input.read();
    launch(groups, threads, [&] { column_sums(input.bytes, parts.bytes, rows, dim); });
  }
  write_total(parts, groups.y, dim);
}
