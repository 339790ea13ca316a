// The C face of libtorch's distributed engine (c10d): the store where processes meet, process
// groups over Gloo (CPU) or NCCL (CUDA), and the Reducer that exchanges gradients during a backward
// pass. Conventions as in shim.h: null on success, else a message to be freed.
#pragma once
#include "shim.h"

extern "C" {

typedef void *distill_store;
typedef void *distill_group;
typedef void *distill_work;
typedef void *distill_reducer;

// Sets the environment variables that c10d and NCCL are to find, unless the user did. Before there are
// threads that may read the environment.
void distill_prepare_environment(void);
// Sets one, unless it is set.
void distill_set_variable(const char *name, const char *value);

// A connection to the TCP store at host:port. With `serve` this process also keeps the store.
char *distill_store_open(const char *host, uint16_t port, bool serve, int64_t timeout_ms,
                         distill_store *store);
// The same connection with a prefix before every key.
char *distill_store_prefixed(distill_store store, const char *prefix, distill_store *prefixed);
char *distill_store_set(distill_store store, const char *key, const uint8_t *bytes, size_t length);
char *distill_store_has(distill_store store, const char *key, bool *there);
// Bytes of a key that is there; freed by `distill_free_message`.
char *distill_store_get(distill_store store, const char *key, char **bytes, size_t *length);
// Adds one to the number under a key, 0 where there is none, and gives the sum.
char *distill_store_add(distill_store store, const char *key, int64_t *sum);
char *distill_store_delete(distill_store store, const char *key);
void distill_store_free(distill_store store);

// Whether collectives of the CPU (`cuda` negative) or of a GPU are queued there: then waits do not fail,
// and joining a group may take for ever.
bool distill_collectives_are_queued(int64_t cuda);
// Whether NCCL's headers, of which this was built, are libtorch's.
char *distill_nccl_headers_check(void);
// A group of `size` processes: Gloo, listening at `address`, where `cuda` is negative, else NCCL on
// that GPU. Returns when all are connected; for NCCL, that may be never.
char *distill_group_create(distill_store store, int rank, int size, int64_t cuda,
                           const char *address, int64_t timeout_ms, distill_group *group);
// In place: the sum over all processes, or with `max` the largest.
char *distill_group_all_reduce(distill_group group, distill_tensor tensor, bool max,
                               distill_work *work);
// All processes' `part`s one after the other in `whole`.
char *distill_group_all_gather(distill_group group, distill_tensor whole, distill_tensor part,
                               distill_work *work);
// Whether NCCL has found an error since, such as a peer that is gone; null if not.
char *distill_group_check(distill_group group);
// Ends the group's collectives, wherever they are; it is of no use afterwards.
char *distill_group_abort(distill_group group);
void distill_group_free(distill_group group);

// Waits up to `timeout_ms` for a collective. On a GPU it is done once the current stream waits for
// it.
char *distill_work_wait(distill_work work, int64_t timeout_ms, bool *done);
void distill_work_free(distill_work work);

// Exchanges the gradients of `parameters` over the group. With `scatter` each process gets only
// its share of every bucket summed, without it all get all; over Gloo they do in any case.
char *distill_reducer_create(distill_group group, const distill_tensor *parameters, size_t count,
                             size_t bucket_bytes, bool bfloat16, bool scatter,
                             distill_reducer *reducer);
// For each parameter the bucket that its gradient travels in. Within a bucket parameters lie one
// after the other in the order of `position`.
char *distill_reducer_layout(distill_reducer reducer, size_t *bucket, size_t *position);
// The next backward pass exchanges its gradients.
char *distill_reducer_expect(distill_reducer reducer);
// Waits up to `timeout_ms` for the exchanges of the last backward pass.
char *distill_reducer_wait(distill_reducer reducer, int64_t timeout_ms, bool *done);
// Buckets that were sent before the last one of their backward pass was full, and all, since the
// beginning; and bytes given to collectives.
void distill_reducer_statistics(distill_reducer reducer, uint64_t *early, uint64_t *all,
                                uint64_t *bytes);
void distill_reducer_free(distill_reducer reducer);
}
