// SPDX-License-Identifier: Apache-2.0
// HDF5 as this layer uses it: handles with one owner, errors with the library's own text, files
// that are bit for bit the same for the same contents, and columns of numbers and strings.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <mutex>
#include <source_location>
#include <span>
#include <string>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/base/handle.hpp"
#include "gradus/tensor/tensor.hpp"

namespace gradus::h5 {

/// What HDF5 or the file system said. Callers put the file's name before it and throw their own.
struct Hdf5Error : Error {
    explicit Hdf5Error(const std::string& m) : Error(ExitCode::data, m) {}
};

/// Held around every run of HDF5 calls: the library's state is one for the process, and not every
/// build of it guards itself. Also keeps it from printing its errors. May be nested.
class Lock {
  public:
    Lock();
    /// A thread that ends with errors on its stack would keep the library from closing at exit.
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

  private:
    std::unique_lock<std::recursive_mutex> lock_;
};

/// Returns `id` or status as it is; throws Hdf5Error with the library's error stack where negative.
hid_t check(hid_t id, std::source_location where = std::source_location::current());

template <herr_t (*close)(hid_t)>
struct Closer {
    void operator()(hid_t id) const {
        Lock lock;
        close(id);
    }
};
template <herr_t (*close)(hid_t)>
using Handle = UniqueHandle<hid_t, Closer<close>, H5I_INVALID_HID>;
using File = Handle<H5Fclose>;
using Group = Handle<H5Gclose>;
using Dataset = Handle<H5Dclose>;
using Space = Handle<H5Sclose>;
using Type = Handle<H5Tclose>;
using Attribute = Handle<H5Aclose>;
using Properties = Handle<H5Pclose>;

struct CloseDescriptor {
    void operator()(int descriptor) const;
};
using Descriptor = UniqueHandle<int, CloseDescriptor, -1>;

/// What happened to a file while the library wrote it (file_driver.cpp).
struct FileStatus {
    int error = 0;          ///< errno of the first failure, 0: none
    Descriptor descriptor;  ///< once the library has closed the file: for fsync
};
/// Access properties for the driver that this layer uses in place of HDF5's own: HDF5 crashes at
/// exit after a close that failed (disk full), so after a failed write this one drops the further
/// ones and says so in `status`. Opens close-on-exec and takes no locks. `status` may be null;
/// otherwise it must outlive the file.
Properties file_access(FileStatus* status);

/// A file being written. Not in its place before close() has returned.
class OutputFile {
  public:
    /// Creates or empties `path`. `user_block`: bytes left free at its start (0, 512, 1024 ...).
    explicit OutputFile(const std::string& path, hsize_t user_block = 0);
    hid_t id() const { return file_.get(); }
    /// Throws Hdf5Error where a write has failed.
    void check_written() const;
    /// Everything to the disk, then closed. Throws Hdf5Error.
    void close();

  private:
    FileStatus status_;
    File file_;
};
/// For reading. Throws Hdf5Error.
File open_file(const std::string& path);

/// Creation properties (H5P_DATASET_CREATE, H5P_GROUP_CREATE) that leave out times: equal contents
/// give equal bytes.
Properties timeless(hid_t kind);
/// Opens the group `path` ("a/b"; "" is `parent` itself), making what is missing of it.
Group make_group(hid_t parent, const std::string& path);

/// bf16, f16 and f8_e4m3 are floating-point types of their own that h5dump and h5py convert. (HDF5
/// takes an exponent of all ones for infinity: it shows the f8_e4m3 numbers from 256 on as such.)
Type type_of(DType dtype);
Space simple_space(const std::vector<hsize_t>& dims);
Dataset create_dataset(hid_t parent, const std::string& name, hid_t type,
                       const std::vector<hsize_t>& dims);
Dataset open_dataset(hid_t parent, const std::string& name);
std::vector<hsize_t> dims_of(hid_t dataset);

template <class T>
hid_t native_type();

/// `values` as a dataset of shape `dims` ({}: one dimension).
template <class T>
void write_column(hid_t parent, const std::string& name, std::span<const T> values,
                  std::vector<hsize_t> dims = {});
template <class T>
std::vector<T> read_column(hid_t parent, const std::string& name);

/// Strings of one length, padded with zero bytes: for short names.
void write_strings(hid_t parent, const std::string& name, const std::vector<std::string>& values);
std::vector<std::string> read_strings(hid_t parent, const std::string& name);
/// One string of any length as a scalar.
void write_text(hid_t parent, const std::string& name, const std::string& text);
std::string read_text(hid_t parent, const std::string& name);

void write_attribute(hid_t object, const std::string& name, std::int64_t value);
std::int64_t read_attribute(hid_t object, const std::string& name);

/// Runs `work`; what HDF5 throws in it comes out as `E` with `path` before it.
template <class E, class Work>
auto named(const std::string& path, Work&& work) {
    try {
        return work();
    } catch (const Hdf5Error& error) {
        throw E(fmt::format("{}: {}", path, error.what()));
    }
}

}  // namespace gradus::h5
