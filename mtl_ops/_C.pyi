version: str
compiler: str
cxx_standard: int
torch_version: str
cuda_version: str
cuda_archs: str
cuda_left_out: str

def simd_level() -> str: ...
