// The operators weigh_*: what they take, read and checked, for each backend.  How the mathematics of csrc/solvers/losses.h is run is
// the backend's: `weigh(args, method)` answers a tensor of T numbers, or of a row for each of Method::kRows.
#pragma once

#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "solvers/losses.h"

namespace mtl_ops {

template <class Backend>
struct LossOperators {
  static Tensor weigh_famo(const Tensor& losses, Tensor logits, Tensor adam, Tensor before,
                           const std::optional<Tensor>& least, double lr, double weight_decay, bool improve,
                           bool after) {
    const LossArguments args(losses, Backend::kMostTasks);
    return Backend::weigh(
        args, solvers::Famo{args.state("logits", logits), args.state("adam", adam, 3), args.state("before", before),
                            args.numbers("least", least), lr, weight_decay, improve, after});
  }

  static Tensor weigh_dwa(const Tensor& losses, Tensor means, Tensor sums, Tensor counts, Tensor calls,
                          double temperature, int64_t window) {
    const LossArguments args(losses, Backend::kMostTasks);
    return Backend::weigh(
        args, solvers::Dwa{args.state("means", means, 2), args.state("sums", sums), args.state("counts", counts),
                           args.count("calls", calls), temperature, check_count("window", window)});
  }

  static Tensor weigh_geometric(const Tensor& losses) {
    return Backend::weigh(LossArguments(losses, Backend::kMostTasks), solvers::Geometric{});
  }

  static Tensor weigh_stch(const Tensor& losses, const std::optional<Tensor>& preference,
                           const std::optional<Tensor>& reference, double mu, bool logarithmic) {
    const LossArguments args(losses, Backend::kMostTasks);
    return Backend::weigh(args, solvers::Stch{args.numbers("preference", preference),
                                              args.numbers("reference", reference), mu, logarithmic});
  }

  static Tensor weigh_softadapt(const Tensor& losses, Tensor recent, double beta, int64_t variant, int64_t order) {
    const LossArguments args(losses, Backend::kMostTasks);
    STD_TORCH_CHECK(variant >= 0 && variant <= 2, "variant should be 0, 1 or 2. Found ", variant, ".");
    const int places = check_count("order", order, 1);
    return Backend::weigh(args, solvers::SoftAdapt{args.state("recent", recent, int64_t{places} + 1), places, beta,
                                                   static_cast<solvers::SoftAdapt::Variant>(variant)});
  }

  static Tensor weigh_relobralo(const Tensor& losses, Tensor balance, Tensor initial, Tensor previous,
                                const Tensor& drawn, double alpha, double rho, double temperature) {
    const LossArguments args(losses, Backend::kMostTasks);
    return Backend::weigh(args, solvers::ReLoBRaLo{args.state("balance", balance), args.state("initial", initial),
                                                   args.state("previous", previous), args.number("drawn", drawn), alpha,
                                                   rho, temperature});
  }

  static Tensor weigh_ldc_mtl(const Tensor& losses, const Tensor& scales, std::optional<Tensor> initial, double lam) {
    const LossArguments args(losses, Backend::kMostTasks);
    return Backend::weigh(args, solvers::LdcMtl{args.numbers("scales", scales),
                                                initial ? args.state("initial", *initial) : nullptr, lam});
  }

  static Tensor weigh_log_scales(const Tensor& losses, const Tensor& scales, double factor, double rate) {
    const LossArguments args(losses, Backend::kMostTasks);
    return Backend::weigh(args, solvers::LogScales{args.numbers("scales", scales), factor, rate});
  }

  template <class Library>
  static void implement(Library& m) {
    m.impl("weigh_famo", TORCH_BOX(&LossOperators::weigh_famo));
    m.impl("weigh_dwa", TORCH_BOX(&LossOperators::weigh_dwa));
    m.impl("weigh_geometric", TORCH_BOX(&LossOperators::weigh_geometric));
    m.impl("weigh_stch", TORCH_BOX(&LossOperators::weigh_stch));
    m.impl("weigh_log_scales", TORCH_BOX(&LossOperators::weigh_log_scales));
    m.impl("weigh_softadapt", TORCH_BOX(&LossOperators::weigh_softadapt));
    m.impl("weigh_relobralo", TORCH_BOX(&LossOperators::weigh_relobralo));
    m.impl("weigh_ldc_mtl", TORCH_BOX(&LossOperators::weigh_ldc_mtl));
  }
};

}  // namespace mtl_ops
