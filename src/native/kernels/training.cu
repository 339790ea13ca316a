// Kernels for the blocks of a model that is trained: what lies between their matrix products, forward and
// backward.
//
// Tokens are [B, T, D]; those of a branch that is computed for some images only are [K, T, D], and `places` [B]
// has each image's place among the K, or -1; null stands for all images in their order. `factors` [B] are what
// an image's branch is multiplied by; null stands for ones.
//
// Sums over rows are made in two stages, without atomic additions: each of G blocks sums every G-th row, and
// sum_parts adds the G parts. The same numbers come out whenever a GPU runs them.

namespace {

__device__ int place_of(const int *places, unsigned image) {
  return places == nullptr ? static_cast<int>(image) : places[image];
}

__device__ float factor_of(const float *factors, unsigned image) {
  return factors == nullptr ? 1.0f : factors[image];
}

// Where the numbers of a row begin.
__device__ unsigned long long start_of(unsigned row, unsigned dim, unsigned first) {
  return static_cast<unsigned long long>(row) * dim + first;
}

// Sums two numbers over the block. `partial` has two numbers for each warp; it may be used again after the
// next reduction.
__device__ Two block_sums(Two numbers, float (*partial)[WARP]) {
  numbers.one = warp_reduce<Sum>(numbers.one);
  numbers.other = warp_reduce<Sum>(numbers.other);
  const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  if (lane == 0) {
    partial[0][warp] = numbers.one;
    partial[1][warp] = numbers.other;
  }
  __syncthreads();
  const bool is_there = lane < blockDim.x / WARP;
  return Two{warp_reduce<Sum>(is_there ? partial[0][lane] : 0.0f),
             warp_reduce<Sum>(is_there ? partial[1][lane] : 0.0f)};
}

} // namespace

// sum [B, T, D] = residual [B, T, D] + factor * branch bf16, unless branch is null, which leaves `sum` alone; then
// output bf16 = (sum - mean) / sqrt(variance + eps) * weight + bias for the images that `places` has, and
// statistics [K * T, 2] = mean and 1 / sqrt(variance + eps). Unless `rounded` is null, the output once more in e4m3
// with its `scales`. A block for each of the B * T rows.
extern "C" __global__ void __launch_bounds__(384)
    join_and_normalise(const char *residual, const char *branch, const float *factors,
                       const int *branch_places, const int *places, const char *weight,
                       const char *bias, char *sum, char *output, float *statistics, char *rounded,
                       float *scales, unsigned tokens, unsigned dim, float eps) {
  __shared__ float sums[WARP];
  __shared__ float squares[WARP];
  __shared__ float maxima[WARP];
  const unsigned image = blockIdx.x / tokens, token = blockIdx.x % tokens;
  const unsigned first = threadIdx.x * HELD;
  const bool in_row = first < dim;
  const unsigned long long place = start_of(blockIdx.x, dim, first);

  float held[HELD] = {};
  if (in_row)
    Float32::load(residual + place * Float32::BYTES, held);
  if (branch != nullptr) {
    const int from = place_of(branch_places, image);
    const float factor = factor_of(factors, image);
    // A branch that is dropped need not be read.
    if (in_row && from >= 0 && factor != 0.0f) {
      float added[HELD];
      Bf16::load(branch + start_of(from * tokens + token, dim, first) * Bf16::BYTES, added);
      for (unsigned i = 0; i < HELD; ++i)
        held[i] += added[i] * factor;
    }
    if (in_row)
      Float32::store(sum + place * Float32::BYTES, held);
  }
  const int to = place_of(places, image);
  if (to < 0)
    return;

  const Two found = row_statistics(held, in_row, dim, eps, sums, squares);
  const float mean = found.one, scale = found.other;
  const unsigned row = to * tokens + token;
  if (threadIdx.x == 0) {
    statistics[2 * row] = mean;
    statistics[2 * row + 1] = scale;
  }
  if (in_row) {
    float factors_of[HELD], offsets[HELD];
    Float32::load(weight + first * Float32::BYTES, factors_of);
    Float32::load(bias + first * Float32::BYTES, offsets);
    for (unsigned i = 0; i < HELD; ++i)
      held[i] = (held[i] - mean) * scale * factors_of[i] + offsets[i];
    Bf16::round(held);
    Bf16::store(output + start_of(row, dim, first) * Bf16::BYTES, held);
  }
  // Beyond the row numbers are still zeros.
  if (rounded != nullptr)
    store_e4m3<1>(&held, row, dim, rounded, scales, maxima);
}

// The backward pass of join_and_normalise: given the gradients of its output and, unless that is null, of the sum,
// those of the residual [B, T, D] and, unless that is null, of the branch (bf16; zeros where it was dropped).
// parts [G, 3, D]: sums for the gradients of weight and bias, and of the branch over all its rows.
extern "C" __global__ void __launch_bounds__(384, 2)
    join_and_normalise_backward(const char *output_gradient, const char *sum_gradient,
                                const char *sum, const float *statistics, const char *weight,
                                const float *factors, const int *branch_places, const int *places,
                                char *residual_gradient, char *branch_gradient, char *parts,
                                unsigned rows, unsigned tokens, unsigned dim) {
  __shared__ float partial[2][2][WARP];
  const unsigned first = threadIdx.x * HELD;
  const bool in_row = first < dim;
  float scales[HELD] = {}, of_weight[HELD] = {}, of_bias[HELD] = {}, of_branch[HELD] = {};
  if (in_row)
    Float32::load(weight + first * Float32::BYTES, scales);
  unsigned turn = 0;
  for (unsigned row = blockIdx.x; row < rows; row += gridDim.x) {
    const unsigned image = row / tokens, token = row % tokens;
    const unsigned long long place = start_of(row, dim, first);
    float gradient[HELD] = {};
    if (in_row && sum_gradient != nullptr)
      Float32::load(sum_gradient + place * Float32::BYTES, gradient);
    const int from = place_of(places, image);
    if (from >= 0) {
      const unsigned normalised = from * tokens + token;
      float given[HELD] = {}, held[HELD] = {};
      if (in_row) {
        Bf16::load(output_gradient + start_of(normalised, dim, first) * Bf16::BYTES, given);
        Float32::load(sum + place * Float32::BYTES, held);
      }
      const float mean = statistics[2 * normalised], scale = statistics[2 * normalised + 1];
      Two means{0.0f, 0.0f};
      for (unsigned i = 0; i < HELD; ++i) {
        // Outside of the row nothing is given, so nothing is added.
        held[i] = (held[i] - mean) * scale;
        of_weight[i] += given[i] * held[i];
        of_bias[i] += given[i];
        given[i] *= scales[i];
        means.one += given[i];
        means.other += given[i] * held[i];
      }
      means = block_sums(means, partial[turn]);
      turn ^= 1u;
      means.one /= static_cast<float>(dim);
      means.other /= static_cast<float>(dim);
      for (unsigned i = 0; i < HELD; ++i)
        gradient[i] += scale * (given[i] - means.one - held[i] * means.other);
    }
    if (in_row)
      Float32::store(residual_gradient + place * Float32::BYTES, gradient);
    if (branch_gradient != nullptr) {
      const int to = place_of(branch_places, image);
      if (in_row && to >= 0) {
        const float factor = factor_of(factors, image);
        for (unsigned i = 0; i < HELD; ++i)
          gradient[i] *= factor;
        Bf16::round(gradient);
        for (unsigned i = 0; i < HELD; ++i)
          of_branch[i] += gradient[i];
        Bf16::store(branch_gradient + start_of(to * tokens + token, dim, first) * Bf16::BYTES,
                    gradient);
      }
    }
  }
  if (in_row) {
    const unsigned long long part = start_of(3 * blockIdx.x, dim, first);
    Float32::store(parts + part * Float32::BYTES, of_weight);
    Float32::store(parts + (part + dim) * Float32::BYTES, of_bias);
    Float32::store(parts + (part + 2ull * dim) * Float32::BYTES, of_branch);
  }
}

// gradient [rows, D] bf16 times GELU's derivative at input [rows, D] bf16, and the sums of that over rows:
// parts [G, D]. A block takes a range of columns (x) and every G-th row (y).
extern "C" __global__ void __launch_bounds__(256)
    gelu_backward(const char *gradient, const char *input, char *output, char *parts, unsigned rows,
                  unsigned dim) {
  const unsigned first = (blockIdx.x * blockDim.x + threadIdx.x) * HELD;
  if (first >= dim)
    return;
  float total[HELD] = {};
  for (unsigned row = blockIdx.y; row < rows; row += gridDim.y) {
    const unsigned long long place = start_of(row, dim, first) * Bf16::BYTES;
    float given[HELD], held[HELD];
    Bf16::load(gradient + place, given);
    Bf16::load(input + place, held);
    for (unsigned i = 0; i < HELD; ++i) {
      const Two normal = normal_below(held[i]);
      given[i] *= normal.one + normal.other;
    }
    Bf16::round(given);
    for (unsigned i = 0; i < HELD; ++i)
      total[i] += given[i];
    Bf16::store(output + place, given);
  }
  Float32::store(parts + start_of(blockIdx.y, dim, first) * Float32::BYTES, total);
}

// Sums of numbers [rows, D] bf16 over rows: parts [G, D], with blocks as in gelu_backward.
extern "C" __global__ void __launch_bounds__(256)
    column_sums(const char *numbers, char *parts, unsigned rows, unsigned dim) {
  const unsigned first = (blockIdx.x * blockDim.x + threadIdx.x) * HELD;
  if (first >= dim)
    return;
  float total[HELD] = {};
  for (unsigned row = blockIdx.y; row < rows; row += gridDim.y) {
    float held[HELD];
    Bf16::load(numbers + start_of(row, dim, first) * Bf16::BYTES, held);
    for (unsigned i = 0; i < HELD; ++i)
      total[i] += held[i];
  }
  Float32::store(parts + start_of(blockIdx.y, dim, first) * Float32::BYTES, total);
}

// The sum of parts [count, width] over count: total [width]. A block of 256 threads takes 32 columns.
extern "C" __global__ void __launch_bounds__(256)
    sum_parts(const float *parts, float *total, unsigned count, unsigned width) {
  __shared__ float sums[8][WARP];
  const unsigned lane = threadIdx.x % WARP, group = threadIdx.x / WARP;
  const unsigned column = blockIdx.x * WARP + lane;
  float sum = 0.0f;
  if (column < width)
    for (unsigned part = group; part < count; part += 8)
      sum += parts[start_of(part, width, column)];
  sums[group][lane] = sum;
  __syncthreads();
  if (group == 0 && column < width) {
    for (unsigned other = 1; other < 8; ++other)
      sum += sums[other][lane];
    total[column] = sum;
  }
}

// GELU of input [rows, D] bf16, in bf16 and in e4m3.
extern "C" __global__ void __launch_bounds__(1024)
    gelu_and_round(const char *input, char *output, char *rounded, float *scales, unsigned dim) {
  round_rows<Gelu>(input, output, rounded, scales, dim);
}

namespace {

// Rows of a tile of a weight, and columns, 8 a lane.
constexpr unsigned TILE_ROWS = 32, TILE_COLUMNS = WARP * HELD;
// Warps that share a tile's rows.
constexpr unsigned TILE_WARPS = 8;

// Numbers from 0 on are in the order of their bits.
__device__ void raise(unsigned *largest, float number) {
  atomicMax(largest, __float_as_uint(number));
}

__device__ float scale_of(unsigned largest) {
  return fmaxf(__uint_as_float(largest), LEAST) / LARGEST;
}

} // namespace

// The largest size in each row and in each column of a weight [rows, columns] float32; both begin as zeros. A block
// of 256 threads takes a tile.
extern "C" __global__ void __launch_bounds__(256)
    weight_maxima(const char *weight, unsigned *row_maxima, unsigned *column_maxima, unsigned rows,
                  unsigned columns) {
  __shared__ float partial[TILE_WARPS][TILE_COLUMNS];
  const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const unsigned first = blockIdx.x * TILE_COLUMNS + lane * HELD;
  float of_columns[HELD] = {};
  for (unsigned line = warp; line < TILE_ROWS; line += TILE_WARPS) {
    const unsigned row = blockIdx.y * TILE_ROWS + line;
    if (row >= rows)
      break;
    float held[HELD] = {}, largest = 0.0f;
    if (first < columns)
      Float32::load(weight + start_of(row, columns, first) * Float32::BYTES, held);
    for (unsigned i = 0; i < HELD; ++i) {
      held[i] = fabsf(held[i]);
      largest = fmaxf(largest, held[i]);
      of_columns[i] = fmaxf(of_columns[i], held[i]);
    }
    largest = warp_reduce<Largest>(largest);
    if (lane == 0)
      raise(row_maxima + row, largest);
  }
  for (unsigned i = 0; i < HELD; ++i)
    partial[warp][lane * HELD + i] = of_columns[i];
  __syncthreads();
  const unsigned column = blockIdx.x * TILE_COLUMNS + threadIdx.x;
  if (column < columns) {
    float largest = 0.0f;
    for (unsigned other = 0; other < TILE_WARPS; ++other)
      largest = fmaxf(largest, partial[other][threadIdx.x]);
    raise(column_maxima + column, largest);
  }
}

// A weight [rows, columns] float32 in e4m3 twice: with a scale a row, and turned, [columns, rows], with a scale a
// column; rows is a multiple of 16. A block of 256 threads takes a tile.
extern "C" __global__ void __launch_bounds__(256)
    weight_e4m3(const char *weight, const unsigned *row_maxima, const unsigned *column_maxima,
                char *output, char *turned, float *row_scales, float *column_scales, unsigned rows,
                unsigned columns) {
  // Four bytes a word, and a word more than a column has, so that lanes write to different banks.
  __shared__ unsigned tile[TILE_COLUMNS][TILE_ROWS / 4 + 1];
  const auto byte_of = [&](unsigned column, unsigned line) -> unsigned char & {
    return reinterpret_cast<unsigned char *>(tile[column])[line];
  };
  const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const unsigned first = blockIdx.x * TILE_COLUMNS + lane * HELD;
  if (first < columns) {
    float inverse[HELD];
    for (unsigned i = 0; i < HELD; ++i)
      inverse[i] = 1.0f / scale_of(column_maxima[first + i]);
    for (unsigned line = warp; line < TILE_ROWS; line += TILE_WARPS) {
      const unsigned row = blockIdx.y * TILE_ROWS + line;
      if (row >= rows)
        break;
      const float scale = scale_of(row_maxima[row]), of_row = 1.0f / scale;
      if (first == 0)
        row_scales[row] = scale;
      float held[HELD];
      Float32::load(weight + start_of(row, columns, first) * Float32::BYTES, held);
      unsigned pairs[HELD / 2];
      for (unsigned i = 0; i < HELD / 2; ++i) {
        pairs[i] = e4m3_pair(held[2 * i] * of_row, held[2 * i + 1] * of_row);
        const unsigned both =
            e4m3_pair(held[2 * i] * inverse[2 * i], held[2 * i + 1] * inverse[2 * i + 1]);
        byte_of(lane * HELD + 2 * i, line) = both & 0xffu;
        byte_of(lane * HELD + 2 * i + 1, line) = both >> 8;
      }
      *reinterpret_cast<uint2 *>(output + start_of(row, columns, first)) =
          uint2{pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16};
    }
  }
  __syncthreads();
  const unsigned column = blockIdx.x * TILE_COLUMNS + threadIdx.x;
  if (column >= columns)
    return;
  if (blockIdx.y == 0)
    column_scales[column] = scale_of(column_maxima[column]);
  for (unsigned line = 0; line < TILE_ROWS; line += 16) {
    const unsigned row = blockIdx.y * TILE_ROWS + line;
    if (row >= rows)
      break;
    const unsigned *four = tile[threadIdx.x] + line / 4;
    *reinterpret_cast<uint4 *>(turned + start_of(column, rows, row)) =
        uint4{four[0], four[1], four[2], four[3]};
  }
}
