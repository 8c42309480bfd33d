// Memory for numbers that a kernel needs during one call.
//
// In an unnamed namespace, because differently compiled files use it (see vectors.h).
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <new>

namespace rfdetr {
namespace {

// `count` elements, uninitialised, from the start of a cache line on.
template <class T>
struct Buffer {
  T* data;
  explicit Buffer(int64_t count) : data(static_cast<T*>(::operator new(sizeof(T) * size_t(count), std::align_val_t(64)))) {}
  ~Buffer() { ::operator delete(data, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

}  // namespace
}  // namespace rfdetr
