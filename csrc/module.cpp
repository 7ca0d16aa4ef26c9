// The Python module `_C`: build facts only, and the one file that knows Python.  Importing it loads the operators.
//
// The MTL_OPS_* strings are given to this file, and to no other, by setup.py.

#include <pybind11/pybind11.h>

#include "cpu/simd.h"

#if defined(__cplusplus) && __cplusplus < 202002L
#error "mtl_ops is C++20"
#endif

PYBIND11_MODULE(_C, m) {
  m.attr("version") = MTL_OPS_VERSION;
  m.attr("compiler") = MTL_OPS_COMPILER;
  m.attr("cxx_standard") = static_cast<long>(__cplusplus);
  m.attr("torch_version") = MTL_OPS_TORCH;
  m.attr("cuda_version") = MTL_OPS_CUDA;  // empty: built without CUDA kernels
  m.attr("cuda_archs") = MTL_OPS_CUDA_ARCHS;
  m.attr("cuda_left_out") = MTL_OPS_CUDA_LEFT_OUT;  // why, if so
  m.def("simd_level", &mtl_ops::cpu::simd_level);
}
