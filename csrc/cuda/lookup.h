// A C function of PyTorch's CUDA library in this process; null where PyTorch is not built for CUDA.
#pragma once

#include <dlfcn.h>

namespace rfdetr {

// By name, because CPU builds of PyTorch do not have it. Python loads PyTorch with local symbols, which a search of the whole
// process does not see, so the symbol is looked up in the loaded library.
inline void* torch_cuda_function(const char* name) {
  if (void* const found = dlsym(RTLD_DEFAULT, name)) return found;
  void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  return library ? dlsym(library, name) : nullptr;
}

}  // namespace rfdetr
