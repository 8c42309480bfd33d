// A CUDA runtime and the CUDA half of PyTorch without a GPU: what launchers and registrations ask of both is written down,
// nothing is computed. The rules are those of a device: launches beyond its limits fail, dynamic shared memory above 48 KiB has
// to be allowed first, a stream belongs to a device.
//
// A library that is linked with this one before libtorch_cpu and without CUDA's own runtime finds these functions first.
// Operators that it registers for CUDA are registered for the CPU, so that tensors of the CPU reach them; they say that they
// are on device 3.
#include <cxxabi.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <string>

namespace {

constexpr int kInvalidValue = 1, kInvalidConfiguration = 9, kInvalidHandle = 400;
constexpr int kDefaultShared = 48 << 10;
constexpr int kTensors = 3;  // the device of all tensors

struct Dim3 {
  unsigned x, y, z;
};

std::string events;   // a line for each call
std::string failing;  // the call that fails
int countdown, failure, last_error, device;
int capability = 90, most_shared = 227 << 10, processors = 132;  // of every device
std::map<const void*, std::string> names;
std::map<const void*, int> allowed;
struct {
  Dim3 grid, block;
  size_t shared;
  void* stream;
} pushed;

void* stream_of(int index) { return reinterpret_cast<void*>(uintptr_t(0x5000 + 0x10 * index)); }

void note(const std::string& line) { events += line + "\n"; }

// The error that a test wants of this call, or 0.
int wanted_error(const char* call) {
  if (failing != call || countdown < 0 || countdown-- > 0) return 0;
  note(std::string("wanted failure of ") + call);
  return failure;
}

int returned(int error) {
  if (error) last_error = error;
  return error;
}

std::string name_of(const void* kernel) {
  const auto found = names.find(kernel);
  if (found == names.end()) return "unknown";
  int status = 0;
  char* const plain = abi::__cxa_demangle(found->second.c_str(), nullptr, nullptr, &status);
  const std::string result = status == 0 ? plain : found->second;
  free(plain);
  return result;
}

int launch(const void* kernel, Dim3 grid, Dim3 block, size_t shared, void* stream) {
  note("launch blocks=" + std::to_string(grid.x) + " threads=" + std::to_string(block.x) + " shared=" + std::to_string(shared) +
       " stream=" + std::to_string(reinterpret_cast<uintptr_t>(stream)) + " device=" + std::to_string(device) + " " +
       name_of(kernel));
  const auto found = allowed.find(kernel);
  const size_t most = size_t(found == allowed.end() ? kDefaultShared : found->second);
  int error = wanted_error("launch");
  if (grid.x < 1 || grid.x > 0x7fffffffu || block.x < 1 || block.x > 1024) error = kInvalidConfiguration;
  if (shared > most && shared > size_t(kDefaultShared)) error = kInvalidValue;
  if (stream && stream != stream_of(device)) error = kInvalidHandle;
  if (error) note("launch fails " + std::to_string(error));
  return returned(error);
}

}  // namespace

extern "C" {

// ---- for tests
const char* fake_events() { return events.c_str(); }
void fake_reset() { events.clear(), failing.clear(), last_error = 0, device = 0, countdown = -1; }
// The `after` + 1st `call` from now on fails with `error`.
void fake_fail(const char* call, int after, int error) { failing = call, countdown = after, failure = error; }
void fake_name(const void* kernel, const char* name) { names[kernel] = name; }
void fake_capability(int major_minor, int shared, int count) {
  capability = major_minor, most_shared = shared, processors = count;
}
void fake_set_device(int index) { device = index; }
uintptr_t fake_stream(int index) { return reinterpret_cast<uintptr_t>(stream_of(index)); }

// ---- CUDA's runtime
int cudaGetDevice(int* index) {
  note("query device");
  return *index = device, returned(wanted_error("cudaGetDevice"));
}
int cudaSetDevice(int index) { return device = index, note("cudaSetDevice " + std::to_string(index)), 0; }
int cudaDeviceGetAttribute(int* value, int which, int) {
  note("query attribute " + std::to_string(which));
  *value = which == 16   ? processors
           : which == 97 ? most_shared
           : which == 75 ? capability / 10
           : which == 76 ? capability % 10
                         : 0;
  return returned(wanted_error("cudaDeviceGetAttribute"));
}
int cudaFuncSetAttribute(const void* kernel, int which, int value) {
  note("attribute " + std::to_string(which) + " " + std::to_string(value) + " " + name_of(kernel));
  int error = wanted_error("cudaFuncSetAttribute");
  if (which == 8 && (value < 0 || value > most_shared)) error = kInvalidValue;
  if (which == 8 && !error) allowed[kernel] = value;
  return returned(error);
}
int cudaMemsetAsync(void*, int value, size_t bytes, void* stream) {
  note("memset value=" + std::to_string(value) + " bytes=" + std::to_string(bytes) +
       " stream=" + std::to_string(reinterpret_cast<uintptr_t>(stream)) + " device=" + std::to_string(device));
  const int error = stream && stream != stream_of(device) ? kInvalidHandle : wanted_error("cudaMemsetAsync");
  return returned(error);
}
int cudaGetLastError() {
  const int error = last_error;
  last_error = 0;
  return error;
}
int cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorString(int error) {
  return error == 0                       ? "no error"
         : error == kInvalidValue         ? "invalid argument"
         : error == kInvalidConfiguration ? "invalid configuration argument"
         : error == kInvalidHandle        ? "invalid resource handle"
                                          : "an error that the test asked for";
}
int cudaLaunchKernel(const void* kernel, Dim3 grid, Dim3 block, void**, size_t shared, void* stream) {
  return launch(kernel, grid, block, shared, stream);
}

// ---- what nvcc writes into host code
int __cudaGetKernel(const void** handle, const void* kernel) { return *handle = kernel, 0; }
int __cudaLaunchKernel(const void* kernel, Dim3 grid, Dim3 block, void**, size_t shared, void* stream) {
  return launch(kernel, grid, block, shared, stream);
}
unsigned __cudaPushCallConfiguration(Dim3 grid, Dim3 block, size_t shared, void* stream) {
  pushed = {grid, block, shared, stream};
  return 0;
}
int __cudaPopCallConfiguration(Dim3* grid, Dim3* block, size_t* shared, void** stream) {
  *grid = pushed.grid, *block = pushed.block, *shared = pushed.shared, *stream = pushed.stream;
  return 0;
}
void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void**, const char* kernel, char*, const char* name, int, void*, void*, void*, void*, int*) {
  names[kernel] = name;
}

// ---- PyTorch
int aoti_torch_library_init_impl(const char* space, const char* key, const char* file, uint32_t line, void** library) {
  using Function = int (*)(const char*, const char*, const char*, uint32_t, void**);
  void* const torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  const Function real = reinterpret_cast<Function>(dlsym(torch, "aoti_torch_library_init_impl"));
  return real(space, strcmp(key, "CUDA") ? key : "CPU", file, line, library);
}
int aoti_torch_get_device_index(void*, int32_t* index) { return *index = kTensors, 0; }
int aoti_torch_create_device_guard(int32_t index, void** guard) {
  note("guard " + std::to_string(index));
  *guard = new int(device);
  device = index;
  return 0;
}
int aoti_torch_delete_device_guard(void* guard) {
  device = *static_cast<int*>(guard);
  note("guard ends");
  delete static_cast<int*>(guard);
  return 0;
}
int aoti_torch_get_current_cuda_stream(int32_t index, void** stream) {
  note("stream of device " + std::to_string(index));
  *stream = stream_of(index);
  return wanted_error("stream");
}
}
