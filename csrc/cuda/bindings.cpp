#include "cuda/bindings.h"

#include "arguments.h"
#include "cuda/host.h"
#include "numerics/tile.h"

namespace fastgrad {
namespace {

// A list to dequantize, planned on the host and uploaded by the caller.
class CudaDequantize {
 public:
  CudaDequantize(const py::dict& columns, size_t count, int format, int block, int type, int device)
      : format_(format), block_(block), device_(device), type_(static_cast<Type>(type)) {
    const Column<int64_t> n(columns, "n", count), codes(columns, "codes", count), scales(columns, "scales", count),
        out(columns, "out", count);
    for (size_t i = 0; i < count; ++i) {
      if (n[i] == 0) continue;
      jobs_.push_back({codes.address<const void>(i), scales.address<const float>(i), out.address<void>(i), n[i], chunks_});
      chunks_ += (n[i] + kChunk - 1) / kChunk;
    }
  }
  int64_t upload_bytes() const { return static_cast<int64_t>(jobs_.size() * sizeof(DequantizeJob)); }
  void write_upload(uintptr_t host) const { memcpy(reinterpret_cast<void*>(host), jobs_.data(), jobs_.size() * sizeof(DequantizeJob)); }
  void launch(uintptr_t upload, uintptr_t stream) const {
    cuda_dequantize(reinterpret_cast<const DequantizeJob*>(upload), static_cast<int>(jobs_.size()), chunks_, format_, block_,
                    type_, device_, reinterpret_cast<void*>(stream));
  }

 private:
  std::vector<DequantizeJob> jobs_;
  int64_t chunks_ = 0;
  int format_, block_, device_;
  Type type_;
};

}  // namespace

// The types are local: the tests load the emulation beside the native module.
void bind_cuda(py::module_& m) {
  m.def("cuda_unavailable", &cuda_unavailable, py::arg("device"), "Why no kernel can run there; '' if they can.");
  py::class_<CudaSweep>(m, "CudaSweep", py::module_local())
      .def(py::init([](const py::dict& columns, const py::dict& options, int device) {
        Arguments arguments = read_arguments(columns, options);
        return std::make_unique<CudaSweep>(std::move(arguments.jobs), arguments.sweep, device);
      }))
      .def_property_readonly("upload_bytes", &CudaSweep::upload_bytes)
      .def_property_readonly("workspace_bytes", &CudaSweep::workspace_bytes)
      .def_property_readonly("tasks", &CudaSweep::tasks)
      .def("write_upload", [](const CudaSweep& s, uintptr_t host) { s.write_upload(reinterpret_cast<void*>(host)); })
      .def("launch", [](const CudaSweep& s, uintptr_t upload, uintptr_t workspace, uintptr_t table, uintptr_t stream) {
        const py::gil_scoped_release release;
        s.launch(reinterpret_cast<void*>(upload), reinterpret_cast<void*>(workspace), reinterpret_cast<double*>(table),
                 reinterpret_cast<void*>(stream));
      });
  py::class_<CudaDequantize>(m, "CudaDequantize", py::module_local())
      .def(py::init<const py::dict&, size_t, int, int, int, int>())
      .def_property_readonly("upload_bytes", &CudaDequantize::upload_bytes)
      .def("write_upload", &CudaDequantize::write_upload)
      .def("launch", [](const CudaDequantize& s, uintptr_t upload, uintptr_t stream) {
        const py::gil_scoped_release release;
        s.launch(upload, stream);
      });
}

}  // namespace fastgrad
