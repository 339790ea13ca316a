// CUDA graphs: what a GPU was told, recorded once and told again as a whole. Conventions as in
// shim.h: null on success, else a message to be freed.
#pragma once
#include "shim.h"

extern "C" {

typedef void *distill_side_stream;
typedef void *distill_graph;

// The current stream of a GPU, as CUDA's driver knows it.
char *distill_current_stream(int64_t cuda, void **stream);

// Makes another stream of the GPU current, which goes on where the current one is now.
char *distill_side_stream_enter(int64_t cuda, distill_side_stream *side);
// Makes the former stream current again, which goes on after the other one. Frees `side`.
char *distill_side_stream_leave(distill_side_stream side);

// Gives memory that libtorch holds of its GPUs, and does not use, back to them.
char *distill_release_cached_memory();

// Until the end, what this thread tells the current stream is recorded, not done. Memory of it comes
// from a pool of the graph's own: that of `sharing`, unless it is null.
char *distill_graph_begin(distill_graph sharing, distill_graph *graph);
char *distill_graph_end(distill_graph graph);
// Does in the current stream what was recorded, with the same memory.
char *distill_graph_replay(distill_graph graph);
void distill_graph_free(distill_graph graph);
}
