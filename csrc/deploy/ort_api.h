// The part of ONNX Runtime's C interface that this program calls, for machines that have the library but not its header (the
// Python wheel). The interface is a table of functions whose order never changes (functions are only added at its end), so the
// places below hold for every version from 1.0 on; where onnxruntime_c_api.h is found, that file is used instead of this one.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtStatus;
struct OrtEnv;
struct OrtSession;
struct OrtSessionOptions;
struct OrtRunOptions;
struct OrtValue;
struct OrtMemoryInfo;
struct OrtAllocator;
struct OrtTypeInfo;
struct OrtTensorTypeAndShapeInfo;

enum OrtLoggingLevel : int { ORT_LOGGING_LEVEL_FATAL = 4 };
enum OrtAllocatorType : int { OrtArenaAllocator = 1 };
enum OrtMemType : int { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType : int {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 = 3,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16 = 4,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16 = 5,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 = 6,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 = 10,
};

struct OrtApi {
  using Status = OrtStatus*;
  using Any = void*;

  Any to_2[2];
  const char* (*GetErrorMessage)(const OrtStatus*);
  Status (*CreateEnv)(OrtLoggingLevel, const char* name, OrtEnv**);
  Any to_8[4];
  Status (*CreateSessionFromArray)(const OrtEnv*, const void*, size_t, const OrtSessionOptions*, OrtSession**);
  Status (*Run)(OrtSession*, const OrtRunOptions*, const char* const* inputs, const OrtValue* const* values, size_t count,
                const char* const* outputs, size_t output_count, OrtValue** found);
  Status (*CreateSessionOptions)(OrtSessionOptions**);
  Any to_22[11];
  Status (*SetSessionLogSeverityLevel)(OrtSessionOptions*, int);
  Any to_24[1];
  Status (*SetIntraOpNumThreads)(OrtSessionOptions*, int);
  Status (*SetInterOpNumThreads)(OrtSessionOptions*, int);
  Any to_30[4];
  Status (*SessionGetInputCount)(const OrtSession*, size_t*);
  Status (*SessionGetOutputCount)(const OrtSession*, size_t*);
  Any to_33[1];
  Status (*SessionGetInputTypeInfo)(const OrtSession*, size_t, OrtTypeInfo**);
  Status (*SessionGetOutputTypeInfo)(const OrtSession*, size_t, OrtTypeInfo**);
  Any to_36[1];
  Status (*SessionGetInputName)(const OrtSession*, size_t, OrtAllocator*, char**);
  Status (*SessionGetOutputName)(const OrtSession*, size_t, OrtAllocator*, char**);
  Any to_49[11];
  Status (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void*, size_t bytes, const int64_t* shape, size_t sides,
                                           ONNXTensorElementDataType, OrtValue**);
  Any to_51[1];
  Status (*GetTensorMutableData)(OrtValue*, void**);
  Any to_55[3];
  Status (*CastTypeInfoToTensorInfo)(const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**);
  Any to_60[4];
  Status (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*, ONNXTensorElementDataType*);
  Status (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, size_t*);
  Status (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t);
  Any to_65[2];
  Status (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo**);
  Any to_69[3];
  Status (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**);
  Any to_78[8];
  Status (*GetAllocatorWithDefaultOptions)(OrtAllocator**);
  Any to_93[14];
  void (*ReleaseStatus)(OrtStatus*);
  Any to_96[2];
  void (*ReleaseValue)(OrtValue*);
  Any to_99[2];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

const OrtApiBase* OrtGetApiBase();

}  // extern "C"
