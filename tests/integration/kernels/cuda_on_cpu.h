// As much of CUDA as src/native/kernels/ uses, for a host's compiler: a block is that many threads
// of the machine, with barriers where a GPU has them, and blocks run one after the other.
#pragma once

#include <atomic>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)
// One block runs at a time.
#define __shared__ static

struct uint4 {
  unsigned x, y, z, w;
} __attribute__((aligned(16)));

struct uint2 {
  unsigned x, y;
} __attribute__((aligned(8)));

struct Index {
  unsigned x, y;
};

inline thread_local Index threadIdx, blockIdx;
inline Index blockDim, gridDim;

struct Warp {
  std::barrier<> together{32};
  float lanes[32];
};

inline std::unique_ptr<std::barrier<>> block;
inline std::vector<std::unique_ptr<Warp>> warps;

inline void __syncthreads() { block->arrive_and_wait(); }

inline float __shfl_xor_sync(unsigned mask, float number, unsigned distance) {
  if (mask != 0xffffffffu)
    std::abort();
  Warp &warp = *warps[threadIdx.x / 32];
  const unsigned lane = threadIdx.x % 32;
  warp.lanes[lane] = number;
  warp.together.arrive_and_wait();
  const float other = warp.lanes[lane ^ distance];
  warp.together.arrive_and_wait();
  return other;
}

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float number) { return std::bit_cast<unsigned>(number); }
inline void atomicMax(unsigned *largest, unsigned number) {
  std::atomic_ref<unsigned> place(*largest);
  unsigned found = place.load();
  while (found < number && !place.compare_exchange_weak(found, number)) {
  }
}
inline float rsqrtf(float number) { return 1.0f / std::sqrt(number); }

// Runs `kernel` as so many blocks of `threads` threads, a multiple of 32.
template <typename Kernel> void launch(Index blocks, unsigned threads, Kernel kernel) {
  blockDim.x = threads;
  gridDim = blocks;
  block = std::make_unique<std::barrier<>>(threads);
  warps.clear();
  for (unsigned warp = 0; warp < threads / 32; ++warp)
    warps.push_back(std::make_unique<Warp>());
  std::vector<std::jthread> running;
  for (unsigned thread = 0; thread < threads; ++thread)
    running.emplace_back([=] {
      threadIdx.x = thread;
      for (unsigned index = 0; index < blocks.x * blocks.y; ++index) {
        blockIdx = {index % blocks.x, index / blocks.x};
        kernel();
        __syncthreads();
      }
    });
}
