// What the text shared by host and device is marked with.
#pragma once

#ifdef __CUDACC__
#define MTL_SHARED __host__ __device__ __forceinline__
#else
#define MTL_SHARED __attribute__((always_inline)) inline
#endif
