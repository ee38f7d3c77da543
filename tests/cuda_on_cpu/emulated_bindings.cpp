// The kernels as they run on the emulation, and its controls, for Python tests.
#include <pybind11/pybind11.h>

#include "cuda/bindings.h"
#include "cuda_on_cpu.h"

namespace py = pybind11;

namespace {

void set_device(int count, int multiprocessors, int major, int minor, int driver_version) {
  cuda_on_cpu::Device device;
  device.count = count;
  device.multiprocessors = multiprocessors;
  device.major = major;
  device.minor = minor;
  device.driver_version = driver_version;
  cuda_on_cpu::set_device(device);
}

py::dict statistics() {
  const cuda_on_cpu::Statistics all = cuda_on_cpu::statistics();
  py::dict result;
  result["launches"] = all.launches;
  result["blocks"] = all.blocks;
  result["threads"] = all.threads;
  result["collectives"] = all.collectives;
  result["barriers"] = all.barriers;
  result["switches"] = all.switches;
  return result;
}

void bind_emulation(py::module_& m) {
  const cuda_on_cpu::Device usual;
  m.def("set_schedule", &cuda_on_cpu::set_schedule, py::arg("seed"));
  m.def("set_resident_blocks", &cuda_on_cpu::set_resident_blocks, py::arg("blocks"));
  m.def("set_spin_limit", &cuda_on_cpu::set_spin_limit, py::arg("rounds"));
  m.def("set_device", &set_device, py::arg("count") = usual.count, py::arg("multiprocessors") = usual.multiprocessors,
        py::arg("major") = usual.major, py::arg("minor") = usual.minor,
        py::arg("driver_version") = usual.driver_version);
  m.def(
      "fail_next_launch", [](int code) { cuda_on_cpu::fail_next_launch(static_cast<cudaError_t>(code)); },
      py::arg("code"));
  m.def("statistics", &statistics);
  m.def("reset_statistics", &cuda_on_cpu::reset_statistics);
}

}  // namespace

PYBIND11_MODULE(_emulated_cuda, m) {
  fastgrad::bind_cuda(m);
  bind_emulation(m);
}
