// Every operator's schema, and nothing else.  The kernels are registered at the foot of csrc/cpu/*.cpp and csrc/cuda/*.cu; the
// definition of each, for every other device, is in mtl_ops/reference.
//
// T tasks, P parameter tensors, S segments (sets of parameters whose gradients are measured and merged together).
// `grads` is the T x P matrix of per-task gradients in row-major order; None stands for "this task does not reach this parameter".
// `segments` names the segment of each of the P parameters; empty means one segment for all.
// `scale` (S, T) are the factors of `task_scales`, 0 for a task that takes no part; None means all 1.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mtl_ops, m) {
  m.def("gram(Tensor?[] grads, int T, int[] segments, float? clip_value) -> Tensor");
  m.def(
      "task_scales(Tensor gram, float[] task_weights, float? max_task_norm, bool skip_nonfinite, Tensor(a!)? skipped) "
      "-> Tensor");

  m.def("solve_sum(Tensor gram, Tensor? scale) -> Tensor");
  m.def("solve_mean(Tensor gram, Tensor? scale) -> Tensor");
  m.def("solve_pcgrad(Tensor gram, Tensor? scale, Tensor orders, bool mean) -> Tensor");
  m.def("solve_mgda(Tensor gram, Tensor? scale) -> Tensor");
  m.def("solve_mgda_frank_wolfe(Tensor gram, Tensor? scale, float epsilon, int max_iters) -> Tensor");
  m.def("solve_cagrad(Tensor gram, Tensor? scale, float c, int rescale, float norm_eps) -> Tensor");
  m.def(
      "solve_upgrad(Tensor gram, Tensor? scale, Tensor? preference, bool scale_rows, float reg_eps, float norm_eps) "
      "-> Tensor");
  m.def(
      "solve_dualproj(Tensor gram, Tensor? scale, Tensor? preference, bool scale_rows, float reg_eps, float norm_eps) "
      "-> Tensor");

  m.def(
      "merge_(Tensor(a!)[] out, Tensor?[] grads, Tensor weights, Tensor? gram, int[] segments, float? max_norm, "
      "float? clip_value, bool accumulate) -> Tensor");
}
