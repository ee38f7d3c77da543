#include "host.h"

#include "cpu/subnormals.h"
#include "kernels.h"
#include "plan.h"
#include "runtime.h"
#include "sweep_kernel.h"

FASTGRAD_NUMERICS_BEGIN

// Statistics alone.
__global__ void __launch_bounds__(kBlockThreads, blocks_per_multiprocessor(Optimizer::none)) moments_kernel(const DeviceSweep d) {
  BlockMemory& block = block_memory<BlockMemory>();
  for (int64_t task = next_task(d, block); task < d.tasks; task = next_task(d, block)) {
    const Segment s = find_segment(d, task);
    if (s.kind == kMeasure) {
      measure(d, block, s, task - s.first_task);
    } else {
      finish_list(d, block);
    }
  }
}

FASTGRAD_NUMERICS_END

namespace fastgrad {
namespace {

constexpr int kAlignment = 16;

// Parts of one allocation, one after the other.
class Layout {
 public:
  template <class T>
  int64_t add(int64_t count) {
    const int64_t at = bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

template <class T>
T* part(void* base, int64_t at) {
  return reinterpret_cast<T*>(static_cast<char*>(base) + at);
}

// How many blocks of a kernel the device holds at once.
int64_t resident_blocks(SweepKernel kernel, int device) {
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kBlockThreads, 0),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  if (blocks == 0) throw std::runtime_error("a block of the kernel does not fit on a multiprocessor");
  return int64_t{blocks} * attribute(cudaDevAttrMultiProcessorCount, device);
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

struct CudaSweep::Plan {
  std::vector<TensorJob> jobs;
  DeviceSweep d = {};
  int device;
  std::vector<Segment> segments;
  std::vector<TensorPlan> plans;
  Layout upload, work;
  int64_t at_jobs, at_plans, at_segments, at_counters, counters;
  int64_t at_chunks, at_tensors, at_leaves, at_coefficients, at_row_absmax, at_spans, at_row_means;
  int64_t at_counts, at_column_leaves, at_roots, at_factor;

  Plan(std::vector<TensorJob> list, const Sweep& sweep, int device_number) : jobs(std::move(list)), device(device_number) {
    const int64_t count = static_cast<int64_t>(jobs.size());
    d.sweep = sweep;
    const SubnormalsOn guard;
    d.sweep.inverse_loss_scale = static_cast<float>(sweep.inv_scale);
    d.count = static_cast<int>(count);
    const std::string unavailable = cuda_unavailable(device);
    if (!unavailable.empty()) throw std::runtime_error(unavailable);
    const TaskPlan tasks(jobs, d, attribute(cudaDevAttrL2CacheSize, device) / 2);
    segments = tasks.segments();
    plans = tasks.plans();
    at_jobs = upload.add<TensorJob>(count);
    at_plans = upload.add<TensorPlan>(count);
    at_segments = upload.add<Segment>(static_cast<int64_t>(segments.size()));
    counters = 2 + 4 + 7 * count;  // the ticket takes two; uploaded as zeros
    at_counters = upload.add<uint32_t>(counters);
    at_chunks = work.add<ChunkRecord>(tasks.chunks());
    at_tensors = work.add<Moments>(count);
    at_leaves = work.add<Moments>(count);
    at_coefficients = work.add<Coefficients>(count);
    at_row_absmax = work.add<double>(count);
    at_spans = work.add<Moments>(tasks.spans());
    at_row_means = work.add<float>(tasks.rows());
    at_counts = work.add<unsigned long long>(tasks.counts());
    at_column_leaves = work.add<double>(tasks.leaves());
    at_roots = work.add<float>(tasks.roots());
    at_factor = work.add<double>(1);
  }

  SweepKernel kernel() const {
    if (!d.processed) return moments_kernel;
    bool update = false;
    for (const TensorJob& job : jobs) update |= job.parameter != nullptr;
    const Optimizer optimizer = d.sweep.update == Update::adamw ? Optimizer::adamw : Optimizer::sgd;
    return sweep_kernel_of(static_cast<Format>(d.sweep.format), update ? optimizer : Optimizer::none);
  }
};

CudaSweep::CudaSweep(std::vector<TensorJob> jobs, const Sweep& sweep, int device)
    : plan_(std::make_unique<Plan>(std::move(jobs), sweep, device)) {}
CudaSweep::~CudaSweep() = default;

int64_t CudaSweep::upload_bytes() const { return plan_->upload.bytes(); }
int64_t CudaSweep::workspace_bytes() const { return plan_->work.bytes(); }
int64_t CudaSweep::tasks() const { return plan_->d.tasks; }

void CudaSweep::write_upload(void* host) const {
  const Plan& p = *plan_;
  memset(host, 0, static_cast<size_t>(p.upload.bytes()));
  memcpy(part<char>(host, p.at_jobs), p.jobs.data(), p.jobs.size() * sizeof(TensorJob));
  memcpy(part<char>(host, p.at_plans), p.plans.data(), p.plans.size() * sizeof(TensorPlan));
  memcpy(part<char>(host, p.at_segments), p.segments.data(), p.segments.size() * sizeof(Segment));
}

void CudaSweep::launch(void* upload, void* workspace, double* table, void* stream) const {
  const Plan& p = *plan_;
  DeviceSweep d = p.d;
  d.jobs = part<TensorJob>(upload, p.at_jobs);
  d.plans = part<TensorPlan>(upload, p.at_plans);
  d.segment = part<Segment>(upload, p.at_segments);
  d.ticket = part<unsigned long long>(upload, p.at_counters);
  d.all = part<uint32_t>(upload, p.at_counters) + 2;
  d.arrived = d.all + 4;
  d.ready = d.arrived + d.count;
  d.left = d.ready + d.count;
  d.cleared = d.left + d.count;
  d.squared = d.cleared + d.count;
  d.meant = d.squared + d.count;
  d.rooted = d.meant + d.count;
  d.chunks = part<ChunkRecord>(workspace, p.at_chunks);
  d.tensors = part<Moments>(workspace, p.at_tensors);
  d.leaves = part<Moments>(workspace, p.at_leaves);
  d.coefficients = part<Coefficients>(workspace, p.at_coefficients);
  d.row_absmax = part<double>(workspace, p.at_row_absmax);
  d.spans = part<Moments>(workspace, p.at_spans);
  d.row_means = part<float>(workspace, p.at_row_means);
  d.counts = part<unsigned long long>(workspace, p.at_counts);
  d.column_leaves = part<double>(workspace, p.at_column_leaves);
  d.roots = part<float>(workspace, p.at_roots);
  d.global_factor = part<double>(workspace, p.at_factor);
  d.table = table;
  const OnDevice guard(p.device);
  const SweepKernel kernel = p.kernel();
  const int64_t resident = resident_blocks(kernel, p.device);
  const auto blocks = static_cast<unsigned>(d.tasks < resident ? d.tasks : resident);
  ::launch(kernel, dim3(blocks), dim3(kBlockThreads), static_cast<cudaStream_t>(stream), d);
  check(cudaGetLastError(), "launch of the sweep");
}

std::string cuda_unavailable(int device) {
  constexpr int kOldest = 75;  // __reduce_max_sync has a substitute below 8.0; less was never compiled
  int driver = 0, runtime = 0, devices = 0;
  if (cudaRuntimeGetVersion(&runtime) != cudaSuccess) return "the CUDA runtime does not answer";
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    cudaGetLastError();
    return "no CUDA driver on this machine";
  }
  if (driver < runtime / 1000 * 1000) {  // one major version: minor version compatibility
    return "the driver supports CUDA " + version_text(driver) + ", these kernels need " + version_text(runtime);
  }
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return std::string("no CUDA device: ") + cudaGetErrorString(status);
  }
  if (device >= devices) return "no CUDA device " + std::to_string(device) + "; there are " + std::to_string(devices);
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
  const int minor = attribute(cudaDevAttrComputeCapabilityMinor, device);
  const std::string capability = std::to_string(major) + "." + std::to_string(minor);
  if (10 * major + minor < kOldest) return "compute capability " + capability + " is below 7.5";
  const OnDevice guard(device);
  int blocks = 0;  // fails where no machine code, and no PTX that could be translated, was compiled for the device
  if (cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, moments_kernel, kBlockThreads, 0) != cudaSuccess) {
    cudaGetLastError();
    return "the kernels were not compiled for compute capability " + capability + " (FASTGRAD_CUDA_ARCHS)";
  }
  return "";
}

}  // namespace fastgrad
