// The GPU's side of a sweep, as the host sees it. No CUDA in this header: bindings.cpp is compiled by the C++ compiler.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "job.h"

namespace fastgrad {

// Why no kernel can run on this device, or nothing: no driver, one older than the runtime that was linked in, a
// compute capability that was not compiled for.
std::string cuda_unavailable(int device);

// One sweep: planned on the host, uploaded by the caller, launched once.
class CudaSweep {
 public:
  CudaSweep(std::vector<TensorJob> jobs, const Sweep& sweep, int device);
  ~CudaSweep();
  int64_t upload_bytes() const;
  void write_upload(void* host) const;  // what the caller copies to the device
  int64_t workspace_bytes() const;
  int64_t tasks() const;
  // Enqueues the kernel. `upload` and `workspace` are on the device, aligned to 16 bytes; table is [(T + 1) * 16].
  // Throws std::runtime_error if the launch is refused.
  void launch(void* upload, void* workspace, double* table, void* stream) const;

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

// One tensor to dequantize.
struct DequantizeJob {
  const void* codes;
  const float* scales;
  void* values;
  int64_t n, first_chunk;
};

// values = decode(codes) * scale for a list that has been uploaded.
void cuda_dequantize(const DequantizeJob* jobs, int count, int64_t chunks, int format, int block, Type type, int device,
                     void* stream);

}  // namespace fastgrad
