// Neighborhood attention on the CPU: forward and backward, all head groups of a call together.
//
// A dilated neighborhood is a plain one on each of dilation^2 interleaved sub-maps. One pixel of one
// head of one sub-map is a lane of a vector register, and everything is laid out [head_dim][lane], so
// that no sum ever crosses lanes. There are two ways to fill a vector:
//   shift  Lanes are neighboring columns of one sub-map. Key j of all lanes is one unaligned load, j
//          columns further on. Where the window of some lanes is shifted inside at an edge, the strip
//          takes a few more key columns, and those outside a lane's window have a bias of -inf.
//   lanes  Lanes are the same pixel of different sub-maps, heads and images, which share their window.
//          It needs no masks, and serves small sub-maps (FFHQ's largest dilations leave 8x8 pixels).
// Tiles of queries, and so the order of every sum, depend on the problem alone: the result is the same
// whatever the number of threads. Where the keys of neighboring tiles overlap, their gradients are
// added in four passes (even and odd rows and columns of tiles), within which no two tiles touch.
//
// Names: H, W map; D head_dim; k kernel_size; L length of a sub-map; R query rows; j key column.

#include "sweep.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

template <class T>
void run_forward(const Problem& problem, const Map* maps) {
  const std::vector<Task> tasks = plan(problem);
  const auto runs = put_together(tasks, problem.threads, /*by_pass=*/false);
#pragma omp parallel num_threads(problem.threads)
  {
    static thread_local Arena arena;
#pragma omp for schedule(dynamic, 1)
    for (i64 i = 0; i < i64(runs.size()); ++i) {
      const auto [first, last] = runs[i];
      Sweep<T>(problem, &tasks[first], int(last - first), arena, false).forward(maps);
    }
  }
}

template <class T>
void run_backward(const Problem& problem, const Map* maps, float* rpb_grad) {
  const std::vector<Task> tasks = plan(problem);
  const auto runs = put_together(tasks, problem.threads, /*by_pass=*/true);
  // Every task sums its own gradient of the bias; they are added in the order of the tasks.
  std::vector<i64> partial_at(tasks.size() + 1);
  for (size_t i = 0; i < tasks.size(); ++i) {
    const i64 side = 2 * tasks[i].group->k - 1;
    partial_at[i + 1] = partial_at[i] + tasks[i].heads * side * side;
  }
  std::vector<float> partial(rpb_grad ? partial_at.back() : 0);
#pragma omp parallel num_threads(problem.threads)
  {
    static thread_local Arena arena;
    for (int pass = 0; pass < PASSES; ++pass) {
#pragma omp for schedule(dynamic, 1)
      for (i64 i = 0; i < i64(runs.size()); ++i) {
        const auto [first, last] = runs[i];
        if (tasks[first].pass != pass) continue;
        Sweep<T> sweep(problem, &tasks[first], int(last - first), arena, true);
        sweep.backward(maps);
        for (i64 j = first; rpb_grad && j < last; ++j)
          sweep.tiles()[j - first].reduce_bias_grad(&partial[partial_at[j]]);
      }
    }
  }
  for (size_t i = 0; rpb_grad && i < tasks.size(); ++i) {
    const i64 side = 2 * tasks[i].group->k - 1;
    float* total = rpb_grad + tasks[i].group->bias_at + tasks[i].head0 * side * side;
    for (i64 j = partial_at[i]; j < partial_at[i + 1]; ++j) *total++ += partial[j];
  }
}

// shape: B, H, W, D, threads, is_bfloat16, groups; then heads, kernel_size, dilation of each group.
Problem read_problem(const i64* shape, float scale, const float* rpb) {
  Problem problem{int(shape[0]), int(shape[1]), int(shape[2]), int(shape[3]), int(shape[4]),
                  scale,         {},            rpb};
  int head = 0;
  i64 bias_at = 0;
  for (i64 g = 0; g < shape[6]; ++g) {
    const i64* row = shape + 7 + 3 * g;
    problem.groups.push_back({head, int(row[0]), int(row[1]), int(row[2]), bias_at});
    head += int(row[0]);
    bias_at += row[0] * (2 * row[1] - 1) * (2 * row[1] - 1);
  }
  return problem;
}

// A fresh output of tens of MB costs a page fault for each 4 KB, a third of the forward pass at 256x256.
// Huge pages cost one for each 2 MB, and less from one thread than from several that wait for each
// other. So ask for them, and touch each once; `map` is uninitialised or zero.
void prepare_pages(const Problem& problem, const Map& map, i64 element_bytes) {
#if defined(__linux__)
  constexpr std::uintptr_t huge = 2 << 20;
  const i64 bytes = problem.B * map.b * element_bytes;  // a new, contiguous tensor
  const auto address = reinterpret_cast<std::uintptr_t>(map.data);
  const std::uintptr_t begin = (address + huge - 1) / huge * huge;
  const std::uintptr_t end = (address + bytes) / huge * huge;
  if (begin >= end) return;
  if (madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE) != 0) return;
  for (std::uintptr_t page = begin; page < end; page += huge)
    *reinterpret_cast<volatile char*>(page) = 0;
#endif
}

std::vector<Map> read_maps(void* const* data, const i64* strides, int count) {
  std::vector<Map> maps;
  for (int i = 0; i < count; ++i, strides += 4)
    maps.push_back({data[i], strides[0], strides[1], strides[2], strides[3]});
  return maps;
}

}  // namespace

// data: q, k, v, out. strides: of B, H, W and heads, four a tensor, in elements.
extern "C" void neighborhood_forward(const i64* shape, float scale, const float* rpb,
                                     void* const* data, const i64* strides) {
  const Problem problem = read_problem(shape, scale, rpb);
  const std::vector<Map> maps = read_maps(data, strides, 4);
  prepare_pages(problem, maps[3], shape[5] ? 2 : 4);
  shape[5] ? run_forward<bf16>(problem, maps.data()) : run_forward<float>(problem, maps.data());
}

// data: q, k, v, gradient of out; then the gradients of q, and (float32, zeroed) of k and v.
// rpb_grad: float32 and zeroed, or null.
extern "C" void neighborhood_backward(const i64* shape, float scale, const float* rpb,
                                      void* const* data, const i64* strides, float* rpb_grad) {
  const Problem problem = read_problem(shape, scale, rpb);
  const std::vector<Map> maps = read_maps(data, strides, 7);
  prepare_pages(problem, maps[4], shape[5] ? 2 : 4);
  prepare_pages(problem, maps[5], 4);
  prepare_pages(problem, maps[6], 4);
  shape[5] ? run_backward<bf16>(problem, maps.data(), rpb_grad)
           : run_backward<float>(problem, maps.data(), rpb_grad);
}
