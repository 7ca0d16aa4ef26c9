// Every operator's schema, and nothing else.  The kernels are registered at the foot of csrc/cpu/*.cpp and csrc/cuda/*.cu; the
// definition of each, for every other device, is in mtl_ops/reference.
//
// T tasks, P parameter tensors, S segments (sets of parameters whose gradients are measured and merged together).
// `grads` is the T x P matrix of per-task gradients in row-major order; None stands for "this task does not reach this parameter".
// `segments` names the segment of each of the P parameters; empty means one segment for all.
// `rounding` is the share of sqrt(G_ii G_jj) by which the entries of `gram` may be off, for tolerances that are not given.
// `scale` (S, T) are the factors of `task_scales`, 0 for a task that takes no part; None means all 1.
// `losses` (T,) float64 are those of the tasks, of which only those that take part are looked at.
// `first` is the number of the first coordinate of each of the P parameters; empty means that they follow one another from 0.
// `counter` () int64 on the gradients' device is added to `offset` by the kernel, so that a replay of a captured graph sees its value then.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mtl_ops, m) {
  m.def("gram(Tensor?[] grads, int T, int[] segments, float? clip_value) -> Tensor");
  m.def(
      "gram_and_scales(Tensor?[] grads, int T, int[] segments, float? clip_value, float[] task_weights, "
      "float? max_task_norm, bool skip_nonfinite, Tensor(a!)? skipped) -> (Tensor, Tensor)");
  m.def(
      "task_scales(Tensor gram, float[] task_weights, float? max_task_norm, bool skip_nonfinite, Tensor(a!)? skipped) "
      "-> Tensor");

  m.def("solve_sum(Tensor gram, Tensor? scale) -> Tensor");
  m.def("solve_mean(Tensor gram, Tensor? scale) -> Tensor");
  m.def("solve_pcgrad(Tensor gram, Tensor? scale, Tensor orders, bool mean) -> Tensor");
  m.def(
      "solve_gradvac(Tensor gram, Tensor? scale, Tensor orders, Tensor(a!) rho, float beta, float eps, float tol) "
      "-> Tensor");
  m.def("solve_adaptive_sharing(Tensor gram, Tensor? scale, Tensor(a!) cosines, float beta) -> Tensor");
  m.def("solve_mgda(Tensor gram, Tensor? scale, Tensor? min_weights=None) -> Tensor");
  m.def("solve_mgda_frank_wolfe(Tensor gram, Tensor? scale, float epsilon, int max_iters) -> Tensor");
  m.def("solve_online_pcgrad(Tensor gram, Tensor? scale, Tensor order) -> Tensor");
  m.def("solve_conicgrad(Tensor gram, Tensor? scale, float c) -> Tensor");
  m.def(
      "solve_gradops(Tensor gram, Tensor? scale, float alpha, bool project_all, float? rank_tol, float rounding) "
      "-> Tensor");
  m.def("solve_dibs_mtl(Tensor gram, Tensor? scale, int steps, float step) -> Tensor");
  m.def("solve_epo(Tensor gram, Tensor? scale, Tensor losses, Tensor? preference, float tol, bool relax) -> Tensor");
  m.def(
      "solve_pmgda(Tensor gram, Tensor? scale, Tensor losses, Tensor? preference, float h_tol, float sigma) -> Tensor");
  m.def(
      "solve_ferero(Tensor gram, Tensor? scale, Tensor losses, Tensor? preference, float kappa, float rounding) "
      "-> Tensor");
  m.def("solve_cagrad(Tensor gram, Tensor? scale, float c, int rescale, float norm_eps) -> Tensor");
  m.def(
      "solve_upgrad(Tensor gram, Tensor? scale, Tensor? preference, bool scale_rows, float? reg_eps, float norm_eps, "
      "float rounding) -> Tensor");
  m.def(
      "solve_dualproj(Tensor gram, Tensor? scale, Tensor? preference, bool scale_rows, float? reg_eps, float norm_eps, "
      "float rounding) -> Tensor");
  m.def("solve_pcd(Tensor gram, Tensor? scale, Tensor(a!) state, float tau, float beta, float eps) -> Tensor");

  m.def("solve_imtl_g(Tensor gram, Tensor? scale, bool avoid_ascent, float? rank_tol, float rounding) -> Tensor");
  m.def("solve_config(Tensor gram, Tensor? scale, Tensor? preference, float? rank_tol, float rounding) -> Tensor");
  m.def(
      "solve_aligned_mtl(Tensor gram, Tensor? scale, Tensor? preference, int scale_mode, float? rank_tol, float "
      "rounding) "
      "-> Tensor");
  m.def("solve_nash_mtl(Tensor gram, Tensor? scale, float? max_norm, float? reg_eps, float rounding) -> Tensor");
  m.def("solve_fairgrad(Tensor gram, Tensor? scale, float alpha, float? reg_eps, float rounding) -> Tensor");
  m.def("solve_krum(Tensor gram, Tensor? scale, int n_byzantine, int n_selected, bool squared) -> Tensor");
  m.def(
      "solve_sdmgrad(Tensor gram, Tensor? scale, Tensor(a!) state, Tensor? preference, float lr, float momentum, "
      "int n_iter, float lam) -> Tensor");
  m.def("solve_modo(Tensor gram, Tensor? scale, Tensor(a!) state, float gamma, float rho) -> Tensor");

  // The methods that look at losses alone.
  m.def(
      "weigh_famo(Tensor losses, Tensor(a!) logits, Tensor(b!) adam, Tensor(c!) before, Tensor? least, float lr, "
      "float weight_decay, bool improve, bool after) -> Tensor");
  m.def(
      "weigh_dwa(Tensor losses, Tensor(a!) means, Tensor(b!) sums, Tensor(c!) counts, Tensor(d!) calls, "
      "float temperature, int window) -> Tensor");
  m.def("weigh_geometric(Tensor losses) -> Tensor");
  m.def(
      "weigh_stch(Tensor losses, Tensor? preference, Tensor? reference, float mu, bool logarithmic) "
      "-> Tensor");
  m.def("weigh_softadapt(Tensor losses, Tensor(a!) recent, float beta, int variant, int order) -> Tensor");
  m.def(
      "weigh_relobralo(Tensor losses, Tensor(a!) balance, Tensor(b!) initial, Tensor(c!) previous, Tensor drawn, "
      "float alpha, float rho, float temperature) -> Tensor");
  m.def("weigh_ldc_mtl(Tensor losses, Tensor scales, Tensor(a!)? initial, float lam) -> Tensor");
  m.def("weigh_log_scales(Tensor losses, Tensor scales, float factor, float rate) -> Tensor");

  m.def(
      "merge_(Tensor(a!)[] out, Tensor?[] grads, Tensor weights, Tensor? gram, int[] segments, float? max_norm, "
      "float? clip_value, bool accumulate) -> Tensor");

  // The methods that look at single coordinates; they return the squared norm of the merged gradient.
  m.def(
      "merge_graddrop_(Tensor(a!)[] out, Tensor?[] grads, Tensor? scale, int[] segments, "
      "float? clip_value, bool accumulate, float[] leak, int seed, int offset, Tensor? uniforms, int[] first, "
      "Tensor? counter=None) -> Tensor");
  m.def(
      "merge_trimmed_mean_(Tensor(a!)[] out, Tensor?[] grads, Tensor? scale, int[] segments, "
      "float? clip_value, bool accumulate, int trim) -> Tensor");
  m.def(
      "merge_median_(Tensor(a!)[] out, Tensor?[] grads, Tensor? scale, int[] segments, "
      "float? clip_value, bool accumulate) -> Tensor");
  m.def(
      "merge_sign_agreement_(Tensor(a!)[] out, Tensor?[] grads, Tensor? scale, int[] segments, "
      "float? clip_value, bool accumulate, float tau, bool mean) -> Tensor");
}
