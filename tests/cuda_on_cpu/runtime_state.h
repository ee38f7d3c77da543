// What a test sets and reads, and the runtime API on top of it. Included by cuda_on_cpu.cpp alone.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {

struct Options {
  uint64_t seed = 0;
  unsigned resident_blocks = 3;
  uint64_t spin_limit = 100000;
};

inline Options options;
inline Statistics totals;
inline Device the_device;
inline cudaError_t planned_failure = cudaSuccess;
inline std::mutex launch_mutex;
inline thread_local bool launching = false;
inline thread_local cudaError_t last_error = cudaSuccess;
inline thread_local cudaError_t explained_error = cudaSuccess;
inline thread_local std::string explanation;

inline cudaError_t set_error(cudaError_t error, const std::string& message = "") {
  last_error = error;
  if (!message.empty()) {
    explained_error = error;
    explanation = std::string(cudaGetErrorName(error)) + ": " + message;
    fprintf(stderr, "%s\n", explanation.c_str());
  }
  return error;
}

// False, with the error set, for a launch that CUDA refuses.
inline bool may_launch(dim3 grid, dim3 block) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  cudaError_t error = planned_failure;
  planned_failure = cudaSuccess;
  if (error == cudaSuccess && the_device.count == 0) error = cudaErrorNoDevice;
  if (error == cudaSuccess && (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.x > 0x7fffffffu ||
                               grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535)) {
    error = cudaErrorInvalidConfiguration;
  }
  explained_error = cudaSuccess;
  if (error != cudaSuccess) set_error(error);
  return error == cudaSuccess;
}

void set_schedule(uint64_t seed) { options.seed = seed; }
void set_resident_blocks(int blocks) { options.resident_blocks = blocks < 1 ? 1u : static_cast<unsigned>(blocks); }
void set_spin_limit(uint64_t rounds) { options.spin_limit = rounds; }
void set_device(const Device& device) { the_device = device; }
const Device& device() { return the_device; }
void fail_next_launch(cudaError_t error) { planned_failure = error; }
Statistics statistics() { return totals; }
void reset_statistics() { totals = {}; }

// So that a grid of multiprocessors times this is resident as a whole.
int blocks_per_multiprocessor(int) {
  const int each = static_cast<int>(options.resident_blocks) / the_device.multiprocessors;
  return each < 1 ? 1 : each;
}

}  // namespace cuda_on_cpu

cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_on_cpu::last_error;
  cuda_on_cpu::last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return cuda_on_cpu::last_error; }

const char* cudaGetErrorName(cudaError_t error) {
#define NAME(error) \
  case error: return #error;
  switch (error) {
    NAME(cudaSuccess)
    NAME(cudaErrorInvalidValue)
    NAME(cudaErrorMemoryAllocation)
    NAME(cudaErrorInvalidConfiguration)
    NAME(cudaErrorInsufficientDriver)
    NAME(cudaErrorNoDevice)
    NAME(cudaErrorInvalidDevice)
    NAME(cudaErrorNoKernelImageForDevice)
    NAME(cudaErrorUnsupportedPtxVersion)
    NAME(cudaErrorIllegalAddress)
    NAME(cudaErrorLaunchOutOfResources)
    NAME(cudaErrorLaunchTimeout)
    NAME(cudaErrorAssert)
    NAME(cudaErrorMisalignedAddress)
    NAME(cudaErrorLaunchFailure)
    NAME(cudaErrorNotSupported)
    NAME(cudaErrorUnknown)
  }
#undef NAME
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  if (error != cudaSuccess && error == cuda_on_cpu::explained_error) return cuda_on_cpu::explanation.c_str();
  return cudaGetErrorName(error);
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = nullptr;
  if (bytes != 0 && posix_memalign(memory, 256, bytes) != 0) return cuda_on_cpu::set_error(cudaErrorMemoryAllocation);
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  if (bytes) memset(memory, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  if (bytes) memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cuda_on_cpu::last_error; }
cudaError_t cudaDeviceSynchronize() { return cuda_on_cpu::last_error; }

namespace {
thread_local int chosen_device = 0;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = cuda_on_cpu::the_device.count;
  return *count > 0 ? cudaSuccess : cuda_on_cpu::set_error(cudaErrorNoDevice);
}
cudaError_t cudaGetDevice(int* device) {
  if (cuda_on_cpu::the_device.count == 0) return cuda_on_cpu::set_error(cudaErrorNoDevice);
  *device = chosen_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= cuda_on_cpu::the_device.count) return cuda_on_cpu::set_error(cudaErrorInvalidDevice);
  chosen_device = device;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = cuda_on_cpu::the_device.driver_version;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = cuda_on_cpu::the_device.runtime_version;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const cuda_on_cpu::Device& properties = cuda_on_cpu::the_device;
  if (device < 0 || device >= properties.count) return cuda_on_cpu::set_error(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = properties.shared_bytes_per_block; return cudaSuccess;
    case cudaDevAttrWarpSize: *value = 32; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = properties.multiprocessors; return cudaSuccess;
    case cudaDevAttrL2CacheSize: *value = properties.l2_bytes; return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = properties.major; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = properties.shared_bytes_per_multiprocessor;
      return cudaSuccess;
  }
  return cuda_on_cpu::set_error(cudaErrorInvalidValue);
}

// All memory is the device's: nothing here tells it from the host's.
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  void* const address = const_cast<void*>(pointer);
  *attributes = {cudaMemoryTypeDevice, chosen_device, address, address};
  return cudaSuccess;
}
