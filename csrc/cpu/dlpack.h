// The part of DLPack's stable interface (https://dmlc.github.io/dlpack) that direct.cpp uses: how a
// tensor object of Python is described without a copy, and the table that torch publishes as
// `torch.Tensor.__dlpack_c_exchange_api__`.
#pragma once

#include <cstdint>

namespace ntensor {
namespace dlpack {

constexpr uint32_t major_version = 1;
constexpr uint8_t is_float = 2, is_bfloat = 4;

struct Device {
    int32_t type;
    int32_t index;
};

struct DataType {
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
};

struct Tensor {
    void* data;
    Device device;
    int32_t ndim;
    DataType dtype;
    int64_t* shape;
    int64_t* strides;  // in elements; null: contiguous
    uint64_t byte_offset;
};

struct ExchangeApi {
    uint32_t major, minor;
    ExchangeApi* previous;
    void* allocate;
    void* export_owning;
    void* import_owning;
    // Describes a Python tensor for as long as nothing else touches it; not 0: a Python error is
    // set. May be null.
    int (*describe)(void* object, Tensor* out);
    void* current_stream;
};

}  // namespace dlpack
}  // namespace ntensor
