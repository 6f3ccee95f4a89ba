// A stand-in for the CUDA runtime library, linked into the host code under test.
// Launches and device memory are handed to Python through the callbacks below; every
// "device" pointer is a host pointer.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {

struct Callbacks {
  // Returns a cudaError_t; `args` points at the parameter values.
  int (*launch)(const char *name, const unsigned *grid, const unsigned *block, void **args, size_t shared);
  int (*set_shared)(const char *name, int bytes);
  int (*function_attribute)(const char *name, int which);
  int (*device_attribute)(int which);
  int (*occupancy)(const char *name, int threads, size_t shared);
  void *(*allocate)(size_t bytes);
  int (*release)(void *pointer);
  void *(*symbol)(const char *name);
  size_t (*symbol_size)(const char *name);
  int (*encode_map)(void *map, int itemsize, int rank, void *address, const cuuint64_t *shape,
                    const cuuint64_t *strides, const cuuint32_t *box, int swizzle);
};

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};

Callbacks python;
thread_local cudaError_t last_error = cudaSuccess;
thread_local std::vector<Configuration> configurations;

std::map<const void *, std::string> &functions() {
  static std::map<const void *, std::string> table;
  return table;
}
std::map<const void *, std::string> &variables() {
  static std::map<const void *, std::string> table;
  return table;
}

cudaError_t note(int error) {
  if (error != cudaSuccess) last_error = static_cast<cudaError_t>(error);
  return static_cast<cudaError_t>(error);
}

const char *function_name(const void *function) {
  auto found = functions().find(function);
  return found == functions().end() ? nullptr : found->second.c_str();
}

const char *variable_name(const void *variable) {
  auto found = variables().find(variable);
  return found == variables().end() ? nullptr : found->second.c_str();
}

cudaError_t launch(const void *function, dim3 grid, dim3 block, void **args, size_t shared) {
  const char *name = function_name(function);
  if (!name) return note(cudaErrorInvalidDeviceFunction);
  const unsigned g[3] = {grid.x, grid.y, grid.z}, b[3] = {block.x, block.y, block.z};
  return note(python.launch(name, g, b, args, shared));
}

cudaError_t copy_symbol(const void *symbol, size_t offset, size_t count, const void *source, void *target) {
  const char *name = variable_name(symbol);
  if (!name) return note(cudaErrorInvalidSymbol);
  if (offset + count > python.symbol_size(name)) return note(cudaErrorInvalidValue);
  char *device = static_cast<char *>(python.symbol(name)) + offset;
  if (source)
    std::memcpy(device, source, count);
  else
    std::memcpy(target, device, count);
  return cudaSuccess;
}

int occupancy(const void *function, int threads, size_t shared) {
  const char *name = function_name(function);
  return name ? python.occupancy(name, threads, shared) : 0;
}

// cuTensorMapEncodeTiled for maps without interleave, element strides or NaN fill.
CUresult encode_tiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                      const cuuint64_t *shape, const cuuint64_t *strides, const cuuint32_t *box,
                      const cuuint32_t *steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                      CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  static const int sizes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
  if (type > CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ || swizzle > CU_TENSOR_MAP_SWIZZLE_128B)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
    return CUDA_ERROR_NOT_SUPPORTED;
  for (cuuint32_t i = 0; i < rank; i++)
    if (steps[i] != 1) return CUDA_ERROR_NOT_SUPPORTED;
  return static_cast<CUresult>(python.encode_map(map, sizes[type], rank, address, shape, strides, box, 16 << swizzle));
}

}  // namespace

extern "C" {

void ptxvm_connect(const Callbacks *callbacks) { python = *callbacks; }

// -- registration and launch, called by code that nvcc generates ------------------------
void **__cudaRegisterFatBinary(void *binary) {
  static void *handles[64];
  static int used = 0;
  handles[used] = binary;
  return &handles[used < 63 ? used++ : used];
}
void __cudaRegisterFatBinaryEnd(void **) {}
void __cudaUnregisterFatBinary(void **) {}
char __cudaInitModule(void **) { return 1; }
void __cudaRegisterFunction(void **, const char *host, char *, const char *name, int, uint3 *, uint3 *, dim3 *, dim3 *,
                            int *) {
  functions()[host] = name;
}
void __cudaRegisterVar(void **, char *host, char *, const char *name, int, size_t, int, int) {
  variables()[host] = name;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
  if (configurations.empty()) return note(cudaErrorMissingConfiguration);
  Configuration top = configurations.back();
  configurations.pop_back();
  *grid = top.grid, *block = top.block, *shared = top.shared;
  *static_cast<cudaStream_t *>(stream) = top.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void *>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **args, size_t shared, cudaStream_t) {
  return launch(kernel, grid, block, args, shared);
}
cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **args, size_t shared, cudaStream_t) {
  return launch(function, grid, block, args, shared);
}
cudaError_t cudaLaunchCooperativeKernel(const void *function, dim3 grid, dim3 block, void **args, size_t shared,
                                        cudaStream_t) {
  return launch(function, grid, block, args, shared);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *function, void **args) {
  for (unsigned i = 0; i < config->numAttrs; i++) {
    const cudaLaunchAttribute &a = config->attrs[i];
    if (a.id == cudaLaunchAttributeClusterDimension && a.val.clusterDim.x * a.val.clusterDim.y * a.val.clusterDim.z > 1)
      return note(cudaErrorNotSupported);
  }
  return launch(function, config->gridDim, config->blockDim, args, config->dynamicSmemBytes);
}

// -- errors ---------------------------------------------------------------------------------
cudaError_t cudaGetLastError() {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }
const char *cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDeviceFunction: return "cudaErrorInvalidDeviceFunction";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorNotSupported: return "cudaErrorNotSupported";
    default: return "cudaErrorUnknown";
  }
}
const char *cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

// -- functions and devices --------------------------------------------------------------------
cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value) {
  const char *name = function_name(function);
  if (!name) return note(cudaErrorInvalidDeviceFunction);
  return attribute == cudaFuncAttributeMaxDynamicSharedMemorySize ? note(python.set_shared(name, value)) : cudaSuccess;
}
cudaError_t cudaFuncSetCacheConfig(const void *, cudaFuncCache) { return cudaSuccess; }
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *function) {
  const char *name = function_name(function);
  if (!name) return note(cudaErrorInvalidDeviceFunction);
  std::memset(attributes, 0, sizeof *attributes);
  attributes->sharedSizeBytes = python.function_attribute(name, 0);
  attributes->maxDynamicSharedSizeBytes = python.function_attribute(name, 1);
  attributes->maxThreadsPerBlock = python.function_attribute(name, 2);
  attributes->localSizeBytes = python.function_attribute(name, 3);
  attributes->ptxVersion = attributes->binaryVersion = 10 * python.device_attribute(cudaDevAttrComputeCapabilityMajor) +
                                                       python.device_attribute(cudaDevAttrComputeCapabilityMinor);
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device ? note(cudaErrorInvalidDevice) : cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *count) { return *count = 1, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
  *value = python.device_attribute(attribute);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
  std::memset(p, 0, sizeof *p);
  auto get = python.device_attribute;
  std::strcpy(p->name, "Simulated device");
  p->major = get(cudaDevAttrComputeCapabilityMajor), p->minor = get(cudaDevAttrComputeCapabilityMinor);
  p->multiProcessorCount = get(cudaDevAttrMultiProcessorCount);
  p->warpSize = 32;
  p->maxThreadsPerBlock = get(cudaDevAttrMaxThreadsPerBlock);
  p->maxThreadsPerMultiProcessor = get(cudaDevAttrMaxThreadsPerMultiProcessor);
  p->maxBlocksPerMultiProcessor = get(cudaDevAttrMaxBlocksPerMultiprocessor);
  p->sharedMemPerBlock = get(cudaDevAttrMaxSharedMemoryPerBlock);
  p->sharedMemPerBlockOptin = get(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  p->sharedMemPerMultiprocessor = get(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  p->reservedSharedMemPerBlock = get(cudaDevAttrReservedSharedMemoryPerBlock);
  p->regsPerBlock = get(cudaDevAttrMaxRegistersPerBlock);
  p->regsPerMultiprocessor = get(cudaDevAttrMaxRegistersPerMultiprocessor);
  p->l2CacheSize = get(cudaDevAttrL2CacheSize);
  for (int i = 0; i < 3; i++) {
    p->maxThreadsDim[i] = get(cudaDevAttrMaxBlockDimX + i);
    p->maxGridSize[i] = get(cudaDevAttrMaxGridDimX + i);
  }
  p->totalGlobalMem = static_cast<size_t>(16) << 30;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *f, int threads,
                                                                   size_t shared, unsigned) {
  *blocks = occupancy(f, threads, shared);
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *f, int threads, size_t shared) {
  *blocks = occupancy(f, threads, shared);
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPoint(const char *symbol, void **function, unsigned long long,
                                    cudaDriverEntryPointQueryResult *status) {
  bool known = !std::strcmp(symbol, "cuTensorMapEncodeTiled");
  *function = known ? reinterpret_cast<void *>(&encode_tiled) : nullptr;
  if (status) *status = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned, unsigned long long flags,
                                             cudaDriverEntryPointQueryResult *status) {
  return cudaGetDriverEntryPoint(symbol, function, flags, status);
}

// -- memory ---------------------------------------------------------------------------------------
cudaError_t cudaMalloc(void **pointer, size_t bytes) {
  *pointer = python.allocate(bytes);
  return *pointer || !bytes ? cudaSuccess : note(cudaErrorMemoryAllocation);
}
cudaError_t cudaMallocAsync(void **pointer, size_t bytes, cudaStream_t) { return cudaMalloc(pointer, bytes); }
cudaError_t cudaFree(void *pointer) { return pointer ? note(python.release(pointer)) : cudaSuccess; }
cudaError_t cudaFreeAsync(void *pointer, cudaStream_t) { return cudaFree(pointer); }
cudaError_t cudaMemcpy(void *target, const void *source, size_t bytes, cudaMemcpyKind) {
  std::memmove(target, source, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *target, const void *source, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(target, source, bytes, kind);
}
cudaError_t cudaMemset(void *target, int value, size_t bytes) {
  std::memset(target, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *target, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(target, value, bytes);
}
cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *source, size_t count, size_t offset, cudaMemcpyKind) {
  return copy_symbol(symbol, offset, count, source, nullptr);
}
cudaError_t cudaMemcpyToSymbolAsync(const void *symbol, const void *source, size_t count, size_t offset, cudaMemcpyKind,
                                    cudaStream_t) {
  return copy_symbol(symbol, offset, count, source, nullptr);
}
cudaError_t cudaMemcpyFromSymbol(void *target, const void *symbol, size_t count, size_t offset, cudaMemcpyKind) {
  return copy_symbol(symbol, offset, count, nullptr, target);
}
cudaError_t cudaGetSymbolAddress(void **pointer, const void *symbol) {
  const char *name = variable_name(symbol);
  return name ? (*pointer = python.symbol(name), cudaSuccess) : note(cudaErrorInvalidSymbol);
}

// -- streams and events: everything has already happened -----------------------------------------
cudaError_t cudaDeviceSynchronize() { return last_error == cudaErrorLaunchFailure ? last_error : cudaSuccess; }
cudaError_t cudaStreamCreate(cudaStream_t *stream) { return *stream = nullptr, cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) { return *stream = nullptr, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaDeviceSynchronize(); }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *event) { return *event = nullptr, cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) { return *event = nullptr, cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t, cudaEvent_t) {
  return *milliseconds = 0, cudaSuccess;
}

}  // extern "C"
